"""Decimals of more than 15 digits come through whichever writer and reader they meet, and filters find them."""

from __future__ import annotations

import json
import sys
from decimal import Decimal
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from lakelet.engine.sail import SailEngine
from lakelet.errors import SourceError
from lakelet.execution.reads import Reads
from lakelet.plan import relation as plan
from lakelet.storage import delta_rs_table, known_tables
from lakelet.storage.base import TableDefinition
from lakelet.storage.delta_rs import DeltaRsStore

pytestmark = pytest.mark.feature("Tables: rows and receipt in one commit")

PRICE = Decimal("1234567890123456.78")
CODE = Decimal("99999999999999999999")
INSIDE = pa.struct([("p", pa.decimal128(38, 18)), ("n", pa.int64())])
SCHEMA = pa.schema([("id", pa.int64()), ("p", pa.decimal128(18, 2)), ("code", pa.decimal128(20, 0)), ("s", INSIDE)])
EXACT = {"p": PRICE, "code": CODE, "s": {"p": Decimal("1.123456789012345678"), "n": 1}}
FOUND = f"p = {PRICE}BD AND code = {CODE}BD AND s.p = 1.123456789012345678BD"
NAMED = "id, p, code, s.p AS inside"
BRONZE = """
    @dp.table
    def bronze():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/prices")
    """
VIEWS = f"""
    @dp.materialized_view
    def found():
        return spark.sql("SELECT {NAMED} FROM bronze WHERE {FOUND}")

    @dp.materialized_view
    def landed():
        return spark.sql("SELECT {NAMED} FROM delta.`/Volumes/main/raw/landing/prices` WHERE {FOUND}")

    @dp.materialized_view
    def most():
        return spark.sql("SELECT max(p) AS p, min(code) AS code, count(*) AS n FROM landing_copy")

    @dp.temporary_view
    def landing_copy():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/prices")
    """


def prices(*ids: int) -> pa.Table:
    return pa.Table.from_pylist([{"id": number, **EXACT} for number in ids], schema=SCHEMA)


def shown(*ids: int) -> list[tuple[Any, ...]]:
    return [(number, PRICE, CODE, EXACT["s"]["p"]) for number in ids]


def bounds(location: Path | str) -> list[dict[str, Any]]:
    """Return the statistics of all files that commits in the log have added."""
    lines = [
        line for file in sorted(Path(location, "_delta_log").glob("*.json")) for line in file.read_text().splitlines()
    ]
    return [json.loads(action["add"]["stats"]) for action in map(json.loads, lines) if "add" in action]


def bounded(location: Path | str) -> set[str]:
    return {name for found in bounds(location) for part in ("minValues", "maxValues") for name in found.get(part, {})}


@pytest.fixture
def by_delta_rs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let delta-rs write what is else too small for it."""
    monkeypatch.setattr(delta_rs_table, "SMALL_ROWS", -1)


@pytest.mark.usefixtures("by_delta_rs")
def test_streams_and_views_have_the_values_that_landed(project: Any, engine: SailEngine) -> None:
    project.write(BRONZE + VIEWS)
    project.land("prices", prices(1, 2))
    project.ok()
    project.land("prices", prices(3))
    project.ok()
    columns = ("id", "p", "code", "inside")
    assert project.rows("found", *columns) == project.rows("landed", *columns) == shown(1, 2, 3)
    assert project.rows("most", "p", "code", "n") == [(PRICE, CODE, 3)]
    assert {"p", "code"} <= bounded(project.root / "data/Volumes/main/raw/landing/prices")
    for dataset in () if engine.capabilities.cluster_writes else ("bronze", "found", "landed", "most"):
        assert bounded(project.folder(dataset)) <= {"id", "n"}


def test_what_is_too_large_for_one_small_file_is_right_as_well(project: Any, engine: SailEngine) -> None:
    """Nothing is patched: so many rows go through delta-rs."""
    project.write(BRONZE + VIEWS)
    project.land("prices", prices(*range(40_000)))
    project.ok()
    assert len(project.rows("found", "id")) == len(project.rows("landed", "id")) == 40_000
    if not engine.capabilities.cluster_writes:  # Delta Lake's bounds are exact
        assert bounded(project.folder("bronze")) == {"id"}


@pytest.mark.usefixtures("by_delta_rs")
@pytest.mark.parametrize("partitions", [(), ("id",), ("code",)], ids=["plain", "by number", "by decimal"])
def test_no_writer_leaves_bounds_of_such_columns(
    engine: SailEngine, tmp_path: Path, partitions: tuple[str, ...]
) -> None:
    location, store = str(tmp_path / "t"), DeltaRsStore()
    table = store.create(location, TableDefinition(schema=SCHEMA, partition_cols=partitions))
    reads = Reads(names=None, catalog=None, engine=engine, store=store)  # type: ignore[arg-type]

    def check(*ids: int) -> None:
        assert bounded(location) <= {"id", "code"}
        codes = {found["minValues"].get("code", CODE) for found in bounds(location)}
        assert codes == {CODE}  # our own writer is exact
        rows = engine.collect(
            plan.sql(
                f"SELECT {NAMED} FROM t WHERE {FOUND} ORDER BY id", {"t": reads.delta_rows(location, table.version)}
            )
        )
        assert [tuple(row.values()) for row in rows.to_pylist()] == shown(*ids)
        assert not table.bounds_lead_astray()

    table.append(prices(1))
    table.append(prices(1))
    check(1, 1)
    table.compact()
    check(1, 1)
    table.merge(prices(1, 2).append_column("__op", pa.array(["D", "U"])), keys=("id",))
    check(2)
    table.replace_units(prices(3), gone=pa.table({"id": [2]}))
    check(3)
    table.replace(prices(4), partition_cols=partitions)
    check(4)
    table.append(prices(5), row_group_rows=100)
    check(4, 5)
    if not partitions:
        table.replace(prices(6), clustered=True)
        table.append(prices(7), clustered=True)
        check(6, 7)


def test_small_files_have_bounds_that_nobody_takes_for_rounded_ones(tmp_path: Path) -> None:
    codes = [Decimal(2**60), Decimal(2**60 + 1), Decimal(7)]
    location, store = str(tmp_path / "t"), DeltaRsStore()
    table = store.create(location, TableDefinition(schema=pa.schema([("code", pa.decimal128(20, 0))])))
    for code in codes:
        table.replace(pa.table({"code": pa.array([code], pa.decimal128(20, 0))}), clustered=True)
    assert [found["minValues"] for found in bounds(location)] == [{}, {"code": 2**60 + 1}, {"code": 7}]
    assert not table.bounds_lead_astray()
    known_tables.forget()
    found = store.open(location)
    assert found is not None
    assert found.leaf_files.index.column("min.code").to_pylist() == codes[2:]


def test_keys_are_found_in_files_whose_bounds_are_rounded(tmp_path: Path) -> None:
    location, code = str(tmp_path / "t"), pa.decimal128(20, 0)
    keys = pa.table({"code": pa.array([CODE], code)})
    write_deltalake(location, keys.append_column("n", pa.array([1])))
    table = DeltaRsStore().open(location)
    assert table is not None
    change = table.change(keys=("code",), identity=("code",))
    change.replace(keys, keys.append_column("n", pa.array([2])))
    change.commit(None)
    assert table.rows().to_pylist() == [{"code": CODE, "n": 2}]


# -- tables of others -----------------------------------------------------------------------------------------------


def read(engine: SailEngine, location: Path, query: str, version: int = 0) -> list[dict[str, Any]]:
    reads = Reads(names=None, catalog=None, engine=engine, store=DeltaRsStore())  # type: ignore[arg-type]
    return engine.collect(plan.sql(query, {"t": reads.delta_rows(str(location), version)})).to_pylist()


def with_statistics(location: Path, low: str, high: str, *, features: tuple[str, ...] = ()) -> None:
    """Let the first commit say so of column `p`, as Delta Lake's own writer does, whose numbers are exact."""
    path = location / "_delta_log" / f"{0:020d}.json"
    actions = [json.loads(line) for line in path.read_text().splitlines()]
    for action in actions:
        if "add" in action:
            text = f'{{"numRecords":2,"minValues":{{"p":{low}}},"maxValues":{{"p":{high}}},"nullCount":{{"p":0}}}}'
            action["add"]["stats"] = text
        if "protocol" in action and features:
            named = {"readerFeatures": features, "writerFeatures": features}
            action["protocol"] = {"minReaderVersion": 3, "minWriterVersion": 7, **named}
    path.write_text("\n".join(map(json.dumps, actions)) + "\n")


def test_exact_bounds_of_another_writer_are_read_from_the_files(engine: SailEngine, tmp_path: Path) -> None:
    """Sail makes doubles of them."""
    write_deltalake(str(tmp_path), pa.table({"p": pa.array([PRICE, PRICE], pa.decimal128(18, 2))}))
    with_statistics(tmp_path, str(PRICE), str(PRICE))
    assert read(engine, tmp_path, "SELECT p FROM t") == [{"p": PRICE}] * 2
    assert read(engine, tmp_path, f"SELECT count(*) AS n FROM t WHERE p = {PRICE}BD") == [{"n": 2}]


def test_a_table_with_deletion_vectors_is_refused_only_where_its_bounds_are_misread(
    engine: SailEngine, tmp_path: Path
) -> None:
    write_deltalake(str(tmp_path), pa.table({"p": pa.array([Decimal(1), Decimal(2)], pa.decimal128(18, 2))}))
    with_statistics(tmp_path, "1.00", "20000000000000.00", features=("deletionVectors",))
    assert len(read(engine, tmp_path, "SELECT p FROM t")) == 2
    with_statistics(tmp_path, "1.00", str(PRICE))
    if engine.capabilities.exact_bounds:
        assert len(read(engine, tmp_path, f"SELECT p FROM t WHERE p < {PRICE}BD")) == 2
        return
    with pytest.raises(SourceError, match="DELETION_VECTORS_UNSUPPORTED"):
        read(engine, tmp_path, "SELECT p FROM t")


def test_each_version_is_judged_by_itself(engine: SailEngine, tmp_path: Path) -> None:
    """Also where a table begins without such columns, or where another one comes in its place."""
    location = tmp_path / "t"
    write_deltalake(str(location), pa.table({"n": [1]}))
    write_deltalake(str(location), pa.table({"n": [2]}), mode="append")
    assert read(engine, location, "SELECT count(*) AS n FROM t", 0) == [{"n": 1}]
    assert read(engine, location, "SELECT count(*) AS n FROM t", 1) == [{"n": 2}]
    p = pa.array([PRICE], pa.decimal128(18, 2))
    write_deltalake(str(location), pa.table({"n": [3], "p": p}), mode="append", schema_mode="merge")
    assert read(engine, location, f"SELECT n FROM t WHERE p = {PRICE}BD", 2) == [{"n": 3}]
    assert read(engine, location, "SELECT count(*) AS n FROM t", 1) == [{"n": 2}]
    DeltaRsStore().drop(str(location))
    write_deltalake(str(location), pa.table({"p": p}))
    assert read(engine, location, "SELECT p FROM t", 0) == [{"p": PRICE}]


LONGER = [
    ("12345678901234567890.12", 38, 2),  # in the log with an exponent, which delta-rs itself does not read
    ("0.000000123456789012345678901234", 38, 30),
    ("12345678901234567.8", 18, 1),
    ("1234567890123456.78", 18, 2),
    ("9007199254740993", 20, 0),
]


def told_apart(location: Path) -> bool:
    """Return whether an engine that reads bounds exactly may believe those of a table."""
    known_tables.forget()
    table = DeltaRsStore().open(str(location))
    assert table is not None
    return not table.bounds_lead_astray(read_exactly=True)


@pytest.mark.parametrize(("text", "precision", "scale"), LONGER)
@pytest.mark.parametrize("inside", [False, True], ids=["plain", "inside of a struct"])
def test_whatever_delta_rs_has_rounded_is_found(
    engine: SailEngine, tmp_path: Path, text: str, precision: int, scale: int, inside: bool
) -> None:
    p: pa.Array = pa.array([Decimal(text)], pa.decimal128(precision, scale))
    write_deltalake(str(tmp_path), pa.table({"id": [1], "p": pa.StructArray.from_arrays([p], ["p"]) if inside else p}))
    assert not told_apart(tmp_path)
    assert read(engine, tmp_path, f"SELECT id FROM t WHERE p{'.p' if inside else ''} = {text}BD") == [{"id": 1}]


def test_bounds_that_no_double_has_are_believed_by_an_engine_that_reads_them_exactly(tmp_path: Path) -> None:
    write_deltalake(str(tmp_path), pa.table({"p": pa.array([PRICE, PRICE], pa.decimal128(18, 2))}))
    assert not told_apart(tmp_path)
    with_statistics(tmp_path, "1.00", str(PRICE))
    assert told_apart(tmp_path)
    with_statistics(tmp_path, "1.00", "1234567890123456.80", features=("deletionVectors",))  # switched on later
    assert not told_apart(tmp_path)


def test_partitions_and_checkpoints_of_another_writer_are_right(engine: SailEngine, tmp_path: Path) -> None:
    p = pa.array([PRICE, PRICE + 1], pa.decimal128(18, 2))
    rows = pa.table({"p": p, "code": pa.array([CODE, None], pa.decimal128(20, 0))})
    write_deltalake(str(tmp_path), rows, partition_by=["code"])
    DeltaTable(str(tmp_path)).create_checkpoint()
    assert read(engine, tmp_path, f"SELECT * FROM t WHERE code = {CODE}BD") == [{"p": PRICE, "code": CODE}]
    assert read(engine, tmp_path, f"SELECT * FROM t WHERE p > {PRICE}BD") == [{"p": PRICE + 1, "code": None}]


def test_a_version_without_such_columns_is_looked_at_once(
    engine: SailEngine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of a table is not opened to know that it has no long decimals; a commit without metadata tells so too."""
    for number in range(3):
        write_deltalake(str(tmp_path), pa.table({"n": [number]}), mode="append")
    read(engine, tmp_path, "SELECT n FROM t", 0)
    asked: list[str] = []
    monkeypatch.setattr(DeltaRsStore, "open", lambda *_, **__: asked.append(sys._getframe(1).f_code.co_name))
    for version in (0, 2, 1, 2):
        assert len(read(engine, tmp_path, "SELECT n FROM t", version)) == version + 1
    assert asked == []
