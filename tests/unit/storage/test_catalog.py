"""Where things lie in the storage folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from lakelet.errors import DefinitionError, SourceError
from lakelet.names import NameContext
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


@pytest.mark.parametrize("path", ["s3://bucket/x", "abfss://c@a/x", "gs://b/x"])
def test_other_file_systems_are_refused(path: str) -> None:
    with pytest.raises(SourceError) as raised:
        CATALOG.path(path)
    assert raised.value.condition == "UNSUPPORTED_FILE_SYSTEM"
    assert "/Volumes/" in (raised.value.hint or "")
