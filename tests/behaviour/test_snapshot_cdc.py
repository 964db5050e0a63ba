"""AUTO CDC from snapshots: whole tables in, histories out."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest

from lakelet import faults
from lakelet.errors import DefinitionErrors, LakeletError
from lakelet.execution.outcome import RefreshSelection
from lakelet.testing.pipeline import PipelineTest

PERIODIC = """
    dp.create_streaming_table("customers")
    dp.create_auto_cdc_from_snapshot_flow(
        target="customers", source="raw", keys=["id"], stored_as_scd_type={scd_type}
    )
    @dp.temporary_view
    def raw():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/customers")
"""
HISTORICAL = """
    import json, pathlib
    FILE = pathlib.Path({path!r})

    def following(latest):
        versions = [(v, rows) for v, rows in json.loads(FILE.read_text()) if latest is None or v > latest]
        if not versions:
            return None
        version, rows = versions[0]
        return spark.createDataFrame(rows, "k INT, tracking STRING, other STRING"), version

    dp.create_streaming_table("history")
    dp.create_auto_cdc_from_snapshot_flow(
        target="history", source=following, keys=["k"], stored_as_scd_type=2, track_history_column_list=["tracking"]
    )
"""
T0 = datetime(2024, 1, 1, tzinfo=UTC)
T12 = T0 + timedelta(hours=12)


def snapshot(*rows: tuple[Any, ...]) -> pa.Table:
    return pa.table(
        {"id": pa.array([row[0] for row in rows], pa.int64()), "name": pa.array([row[1] for row in rows], pa.string())}
    )


def take(project: Any, at: datetime, *rows: tuple[Any, ...]) -> None:
    project.land("customers", snapshot(*rows), mode="overwrite")
    project.clock = lambda: at
    project.ok()


HISTORY = ("id", "name", "__START_AT", "__END_AT")


@pytest.mark.feature("AUTO CDC from snapshots")
def test_documented_periodic_snapshots(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=2))
    take(project, T0, (1, "a1"), (2, "a2"))
    take(project, T12, (2, "b2"), (3, "a3"))
    assert project.rows("customers", *HISTORY) == [
        (1, "a1", T0, T12),
        (2, "a2", T0, T12),
        (2, "b2", T12, None),
        (3, "a3", T12, None),
    ]


def test_scd1_is_the_last_snapshot(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=1))
    take(project, T0, (1, "a1"), (2, "a2"))
    take(project, T12, (2, "b2"), (3, None))
    assert project.rows("customers", "id", "name") == [(2, "b2"), (3, None)]
    assert upserted_and_deleted(project) == [(2, 1)]
    take(project, T12 + timedelta(hours=1), (1, "again"), (2, "b2"))
    assert project.rows("customers", "id", "name") == [(1, "again"), (2, "b2")]
    assert upserted_and_deleted(project) == [(1, 1)]


def upserted_and_deleted(project: Any) -> list[tuple[int, int]]:
    found = []
    for event in project.events:
        metrics = event.details.get("metrics") or {}
        if metrics.get("num_upserted_rows") is not None:
            found.append((metrics["num_upserted_rows"], metrics["num_deleted_rows"]))
    return found


@pytest.mark.feature("AUTO CDC from snapshots")
def test_an_unchanged_snapshot_writes_nothing(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=2))
    take(project, T0, (1, "a1"))
    version = project.version("customers")
    project.clock = lambda: T12
    assert project.ok().flows[0].batches == 0
    take(project, T12, (1, "a1"))  # written anew, with the rows that it had
    assert project.version("customers") == version


@pytest.mark.feature("AUTO CDC from snapshots")
def test_a_snapshot_without_rows_closes_everything(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=2))
    take(project, T0, (1, "a1"))
    take(project, T12)
    assert project.rows("customers", *HISTORY) == [(1, "a1", T0, T12)]


def test_a_clock_that_stands_still_gives_versions_that_ascend(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=2))
    take(project, T0, (1, "a"))
    take(project, T0, (1, "b"))
    step = timedelta(microseconds=1)
    assert project.rows("customers", *HISTORY) == [(1, "a", T0, T0 + step), (1, "b", T0 + step, None)]


def test_new_and_lost_columns_of_a_snapshot(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=1))
    take(project, T0, (1, "a"), (2, "b"))
    rows = pa.table({"id": pa.array([1, 2], pa.int64()), "city": ["oslo", None]})
    project.land("customers", rows, mode="overwrite", schema_mode="overwrite")
    project.clock = lambda: T12
    project.ok()
    assert project.rows("customers", "id", "name", "city") == [(1, None, "oslo"), (2, None, None)]


def historical(project: Any, versions: list[Any], source: str = HISTORICAL) -> Any:
    import json

    path = project.root / "versions.json"
    path.write_text(json.dumps(versions))
    return project.write(source.format(path=str(path)))


V1 = [[1, "a1", "b1"], [2, "a2", "b2"], [4, "a4", "b4"]]
V2 = [[2, "a2_new", "b2"], [3, "a3", "b3"], [4, "a4", "b4_new"]]
DOCUMENTED = [
    (1, "a1", "b1", 1, 2),
    (2, "a2", "b2", 1, 2),
    (2, "a2_new", "b2", 2, None),
    (3, "a3", "b3", 2, None),
    (4, "a4", "b4_new", 1, None),
]
COLUMNS = ("k", "tracking", "other", "__START_AT", "__END_AT")


@pytest.mark.feature("AUTO CDC from snapshots")
def test_documented_historical_snapshots(project: Any) -> None:
    historical(project, [[1, V1], [2, V2]])
    assert project.ok().flows[0].batches == 2
    assert project.rows("history", *COLUMNS) == DOCUMENTED
    version = project.version("history")
    assert project.ok().flows[0].batches == 0
    assert project.version("history") == version


def test_the_function_gets_the_last_version_also_in_a_later_update(project: Any) -> None:
    historical(project, [[1, V1]]).ok()
    historical(project, [[1, "must not be read"], [2, V2]]).ok()
    assert project.rows("history", *COLUMNS) == DOCUMENTED


@pytest.mark.feature("AUTO CDC from snapshots")
def test_a_full_refresh_starts_with_the_first_snapshot(project: Any) -> None:
    historical(project, [[1, V1], [2, V2]]).ok()
    historical(project, [[5, V1]]).ok(selection=RefreshSelection(full_refresh=("history",)))
    assert {row[3:] for row in project.rows("history", *COLUMNS)} == {(5, None)}


POINTS = pytest.mark.parametrize("point", [p for p in faults.POINTS if p.startswith(("flow", "cdc"))])


class Died(BaseException):
    """The process is gone."""


def die_at(project: Any, point: str, **options: Any) -> None:
    def die(reached: str) -> None:
        if reached == point:
            raise Died

    with faults.installed(die), pytest.raises(Died):
        project.run(**options)


@POINTS
def test_a_crash_in_a_full_refresh_is_repaired(project: Any, point: str) -> None:
    historical(project, [[7, V2]]).ok()
    historical(project, [[1, V1], [2, V2]])
    die_at(project, point, selection=RefreshSelection(full_refresh_all=True))
    project.ok()
    assert project.rows("history", *COLUMNS) == DOCUMENTED


@POINTS
def test_a_crash_at_any_point_is_repaired(project: Any, point: str) -> None:
    historical(project, [[1, V1]]).ok()
    historical(project, [[1, V1], [2, V2]])
    die_at(project, point)
    project.ok()
    assert project.rows("history", *COLUMNS) == DOCUMENTED
    version = project.version("history")
    project.ok()
    assert project.version("history") == version


@pytest.mark.parametrize(
    ("versions", "types"),
    [
        (["'2024-01'", "'2024-02'"], pa.string()),
        (["1.5", "2.5"], pa.float64()),
        (["b'\\x00'", "b'\\xff'"], pa.binary()),
        (["datetime.datetime(2024, 1, 1)", "datetime.datetime(2024, 1, 2)"], pa.timestamp("us", "UTC")),
        (["datetime.date(2024, 1, 1)", "datetime.date(2024, 1, 2)"], pa.date32()),
        (["Decimal('1.5')", "Decimal('10')"], pa.decimal128(38, 18)),
        (["-2**63", "2**63 - 1"], pa.int64()),
    ],
)
def test_versions_of_every_type(project: Any, versions: list[str], types: pa.DataType) -> None:
    project.write(
        f"""
        import datetime
        from decimal import Decimal
        VERSIONS = [{", ".join(versions)}]

        dp.create_streaming_table("t")
        dp.create_auto_cdc_from_snapshot_flow(
            target="t",
            source=lambda latest: next(
                ((spark.createDataFrame([(1, str(v))], "k INT, v STRING"), v)
                 for v in VERSIONS if latest is None or v > (latest.replace(tzinfo=v.tzinfo)
                 if isinstance(v, datetime.datetime) else latest)),
                None,
            ),
            keys=["k"],
            stored_as_scd_type="2",
        )
        """
    )
    project.ok()
    project.ok()
    found = project.pipeline().table("t")
    assert found.schema.field("__START_AT").type == types
    first, second = sorted(found.to_pylist(), key=lambda row: row["__END_AT"] is None)
    assert first["__END_AT"] == second["__START_AT"] != first["__START_AT"]
    assert second["__END_AT"] is None


def test_the_older_parameter_and_a_pair_of_none(project: Any) -> None:
    project.write(
        """
        def snapshot_and_version(latest):
            return (None, 2) if latest else (spark.range(2).withColumnRenamed("id", "k"), 1)

        dlt.create_streaming_table("t")
        dlt.apply_changes_from_snapshot(target="t", snapshot_and_version=snapshot_and_version, keys=["k"])
        """
    )
    project.ok()
    assert project.rows("t", "k") == [0, 1]


def test_a_once_flow_takes_one_snapshot(project: Any) -> None:
    project.write(PERIODIC.format(scd_type="1, once=True"))
    take(project, T0, (1, "a"))
    take(project, T12, (1, "b"))
    assert project.rows("customers", "id", "name") == [(1, "a")]


def test_a_snapshot_of_a_dataset_of_the_pipeline(project: Any) -> None:
    project.write(
        """
        @dp.materialized_view
        def totals():
            return (spark.read.format("delta").load("/Volumes/main/raw/landing/customers")
                    .groupBy("id").agg(F.max("name").alias("name")))

        dp.create_streaming_table("history")
        dp.create_auto_cdc_from_snapshot_flow(target="history", source="totals", keys=["id"], stored_as_scd_type=2)
        """
    )
    take(project, T0, (1, "a"), (1, "b"))
    take(project, T12, (1, "c"))
    assert project.rows("history", *HISTORY) == [(1, "b", T0, T12), (1, "c", T12, None)]


def test_snapshots_in_a_test_of_the_pipeline(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=2))
    with PipelineTest(project.root, now="2024-01-01") as test:
        test.given("raw", [{"id": 1, "name": "a"}])
        test.run("customers")
        test.now = "2024-01-02"
        test.given("raw", [{"id": 2, "name": "b"}])
        rows = test.run("customers")["customers"].rows
    assert [(row["id"], row["__START_AT"].day, row["__END_AT"]) for row in rows] == [(1, 1, None), (2, 2, None)]


# -- what is wrong ------------------------------------------------------------------------------------------------


def failure(project: Any) -> LakeletError:
    (error,) = project.run().errors
    while isinstance(error, DefinitionErrors):
        (error,) = error.errors
    return error


def test_two_rows_with_one_key(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=1))
    take(project, T0, (1, "a"))
    project.land("customers", snapshot((1, "b"), (2, "c"), (1, "d")), mode="overwrite")
    error = failure(project)
    assert error.condition == "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.DUPLICATE_KEY_VIOLATION"
    assert "{'id': 1} has 2 rows" in (error.cause or "")
    assert error.origin is not None
    assert error.origin.line == 6
    assert project.rows("customers", "id", "name") == [(1, "a")]
    take(project, T12, (1, "mended"))
    assert project.rows("customers", "id", "name") == [(1, "mended")]


def test_a_null_key(project: Any) -> None:
    project.write(PERIODIC.format(scd_type=2))
    project.land("customers", snapshot((1, "a"), (None, "b")))
    assert failure(project).condition == "AUTOCDC_MICROBATCH_VALIDATION.NULL_KEY"


@pytest.mark.parametrize(
    ("versions", "condition"),
    [
        ("[2, 1]", "INVALID_SNAPSHOT_VERSION"),
        ("[1, 1]", "INVALID_SNAPSHOT_VERSION"),
        ("[1, '2']", "SNAPSHOT_VERSION_NOT_SORTABLE"),
        ("[None]", "NULL_SNAPSHOT_VERSION"),
        ("[True]", "INVALID_SNAPSHOT_VERSION_TYPE"),
        ("[[1]]", "INVALID_SNAPSHOT_VERSION_TYPE"),
        ("[float('nan')]", "INVALID_SNAPSHOT_VERSION_TYPE"),
        ("[2**63]", "INVALID_SNAPSHOT_VERSION_TYPE"),
        ("[]", "FIRST_SNAPSHOT_EMPTY"),
    ],
)
def test_a_wrong_version(project: Any, versions: str, condition: str) -> None:
    project.write(
        f"""
        calls = {versions}

        def following(latest):
            position = 0 if latest is None else 1
            return (spark.range(1), calls[position]) if position < len(calls) else None

        dp.create_streaming_table("t")
        dp.create_auto_cdc_from_snapshot_flow(target="t", source=following, keys=["id"])
        """
    )
    error = failure(project)
    assert error.condition == f"APPLY_CHANGES_FROM_SNAPSHOT_ERROR.{condition}"
    assert error.hint


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ("source=lambda latest: 7, keys=['id']", "QUERY_FUNCTION_RETURNED_NO_DATAFRAME"),
        ("source=lambda latest: 1 / 0, keys=['id']", "QUERY_FUNCTION_FAILED"),
        ("source=lambda latest: (spark.readStream.table('raw'), 1), keys=['id']",
         "INVALID_FLOW_QUERY_TYPE.STREAMING_RELATION_FOR_SNAPSHOT"),
        ("source='raw', keys=['idd']", "AUTOCDC_COLUMNS_NOT_FOUND_IN_SCHEMA"),
        ("source='raww', keys=['id']", "TABLE_OR_VIEW_NOT_FOUND"),
        ("source='raw', keys=['id'], track_history_column_list=['name']", "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2"),
        ("source='raw'", "ARGUMENT_REQUIRED"),
        ("keys=['id']", "NOT_EXPECTED_TYPE"),
        ("source='raw', snapshot_and_version=print, keys=['id']", "CANNOT_SET_TOGETHER"),
    ],
)  # fmt: skip
def test_a_wrong_declaration(project: Any, change: str, condition: str) -> None:
    project.land("customers", snapshot((1, "a")))
    project.write(
        f"""
        dp.create_streaming_table("t")
        dp.create_auto_cdc_from_snapshot_flow(target="t", {change})
        @dp.temporary_view
        def raw():
            return spark.read.format("delta").load("/Volumes/main/raw/landing/customers")
        """
    )
    assert failure(project).condition == condition


def test_another_declaration_needs_a_full_refresh(project: Any) -> None:
    historical(project, [[1, V1]]).ok()
    changed = HISTORICAL.replace('keys=["k"]', 'keys=["k", "other"]')
    historical(project, [[1, V1], [2, V2]], changed)
    error = failure(project)
    assert error.condition == "AUTOCDC_INVALID_STATE.KEY_SCHEMA_DRIFT"
    assert "--full-refresh" in (error.hint or "")
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert (4, "a4", "b4", 1, 2) in project.rows("history", *COLUMNS)


def test_nothing_else_writes_the_target_and_it_has_no_rules(project: Any) -> None:
    project.land("customers", snapshot((1, "a")))
    project.write(PERIODIC.format(scd_type=1).replace('"customers")', '"customers", expect_all={"ok": "id > 0"})', 1))
    assert failure(project).condition == "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.EXPECTATIONS_NOT_SUPPORTED"
    more = 'dp.create_auto_cdc_flow(target="customers", source="raw", keys=["id"], sequence_by="id", name="b")\n'
    project.write(
        PERIODIC.format(scd_type=1)
        + "    "
        + more.replace('"raw"', '"stream"')
        + """
    @dp.temporary_view
    def stream():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/customers")
    """
    )
    assert failure(project).condition == "APPLY_CHANGES_FROM_SNAPSHOT_ERROR.MULTIPLE_QUERIES_FOR_TABLE"
