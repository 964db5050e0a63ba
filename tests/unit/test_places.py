"""Addresses in object stores, as far as no store is needed to tell."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.places import ObjectPath, _removal_order, is_remote, place


@pytest.mark.parametrize("text", ["s3://b/x", "S3://b", "s3a://b/x", "gs://b/x", "abfss://c@a.dfs.core.windows.net/x"])
def test_an_address_in_an_object_store(text: str) -> None:
    assert is_remote(text)
    assert str(place(f"{text}/")) == text


@pytest.mark.parametrize("text", ["/data/s3://b", "s3:/b", "s3://", "hdfs://b/x", "data", "/Volumes/a/b/c"])
def test_anything_else_is_a_path_of_this_machine(text: str) -> None:
    assert place(text) == Path(text)


def test_parts_and_names_are_those_of_a_path() -> None:
    found = ObjectPath.of("s3://b/shop/_checkpoints").joinpath("main", "sales", "orders") / "offsets" / "7.json"
    assert str(found) == "s3://b/shop/_checkpoints/main/sales/orders/offsets/7.json"
    assert (found.name, found.stem, found.parent.name) == ("7.json", "7", "offsets")
    assert found.parent.parent.parts[-3:] == ("main", "sales", "orders")
    assert str(found.with_name("8.json").parent) == str(found.parent)
    assert str(ObjectPath.of("s3://b/x").parent) == "s3://b"


def test_what_a_removal_that_dies_leaves_is_an_older_version_of_a_table_and_never_an_older_generation() -> None:
    names = [
        "generation.json",
        "flow/1/offsets/0",
        "view_state/part-0.parquet",
        "view_state/_delta_log/00000000000000000000.json",
        "view_state/_delta_log/00000000000000000001.json",
        "view_state/_delta_log/_last_checkpoint",
    ]
    keys = [ObjectPath.of(f"s3://b/{name}") for name in names]
    ordered = [str(key.key) for key in sorted(keys, key=_removal_order)]
    assert [name.rpartition("/")[2] for name in ordered[:3]] == [
        "_last_checkpoint",
        "00000000000000000001.json",
        "00000000000000000000.json",
    ]
    assert ordered[-1] == "generation.json"
