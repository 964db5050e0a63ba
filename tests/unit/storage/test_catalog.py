"""Where things lie in the storage folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.errors import DefinitionError, SourceError
from lakelet.names import NameContext
from lakelet.places import ObjectPath
from lakelet.storage.catalog import Catalog

NAMES = NameContext()
CATALOG = Catalog(storage=Path("/data"), root=Path("/project"))


def test_every_part_of_a_name_is_a_folder() -> None:
    name = NAMES.resolve("01_bronze.sales")
    assert CATALOG.location(name) == "/data/tables/spark_catalog/01_bronze/sales"
    assert CATALOG.auxiliary(name) == "/data/_auxiliary/spark_catalog/01_bronze/sales"
    assert CATALOG.checkpoint(name) == Path("/data/_checkpoints/spark_catalog/01_bronze/sales")
    assert CATALOG.private(name) == "/data/_private/spark_catalog/01_bronze/sales"
    assert (CATALOG.system, CATALOG.lock) == (Path("/data/system"), Path("/data/_lock"))


def test_a_mapped_table_lies_where_it_is_mapped_in_any_case() -> None:
    catalog = Catalog(storage=Path("/data"), root=Path("/p"), tables={NAMES.resolve("ref.rates").key: "/ext/rates"})
    assert catalog.location(NAMES.resolve("REF.Rates")) == "/ext/rates"


@pytest.mark.parametrize("name", ["`../../etc`", "`a/b`", "`..`", "`.`.x"])
def test_a_name_does_not_lead_out_of_the_storage_folder(name: str) -> None:
    with pytest.raises(DefinitionError, match="INVALID_IDENTIFIER"):
        CATALOG.location(NAMES.resolve(name))


@pytest.mark.parametrize(
    ("written", "local"),
    [
        ("/Volumes/main/raw/landing/x", "/data/Volumes/main/raw/landing/x"),
        ("dbfs:/Volumes/main/raw", "/data/Volumes/main/raw"),
        ("file:///tmp/a%20b", "/tmp/a b"),
        ("/tmp/a%20b", "/tmp/a%20b"),
        ("/Volumesque/x", "/Volumesque/x"),
        ("landing/x", "/project/landing/x"),
    ],
)
def test_paths_of_pipeline_code(written: str, local: str) -> None:
    assert CATALOG.path(written) == local


@pytest.mark.parametrize("path", ["s3://bucket/x", "abfss://c@a.dfs.core.windows.net/x", "gs://b/x"])
def test_an_address_in_an_object_store_stands_for_itself(path: str) -> None:
    assert CATALOG.path(f"{path}/") == path
    assert CATALOG.relative(path) == CATALOG.absolute(path) == path


def test_volumes_and_tables_lie_in_the_object_store_that_the_storage_is_in(tmp_path: Path) -> None:
    catalog = Catalog(storage=ObjectPath.of("s3://lake/shop"), root=tmp_path)
    assert catalog.path("/Volumes/main/raw/x") == "s3://lake/shop/Volumes/main/raw/x"
    assert catalog.location(NAMES.resolve("c.s.t")) == "s3://lake/shop/tables/c/s/t"
    assert catalog.absolute(catalog.relative("s3://lake/shop/tables/c/s/t")) == "s3://lake/shop/tables/c/s/t"
    assert str(catalog.checkpoint(NAMES.resolve("c.s.t"))) == "s3://lake/shop/_checkpoints/c/s/t"
    assert catalog.journal.is_relative_to(tmp_path / ".lakelet")


@pytest.mark.parametrize("path", ["hdfs://name/x", "wasbs://c@a/x", "https://host/x"])
def test_other_file_systems_are_refused(path: str) -> None:
    with pytest.raises(SourceError) as raised:
        CATALOG.path(path)
    assert raised.value.condition == "UNSUPPORTED_FILE_SYSTEM"
    assert "/Volumes/" in (raised.value.hint or "")
