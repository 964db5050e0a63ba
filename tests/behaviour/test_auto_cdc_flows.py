"""AUTO CDC in a pipeline: what its parameters, several flows, rules and schemas do from the user's file to the table."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable
from tests.behaviour.test_auto_cdc import table

from lakelet.errors import DefinitionErrors, LakeletError, StorageError
from lakelet.execution import auto_cdc_cluster, auto_cdc_process
from lakelet.execution.outcome import RefreshSelection

CHANGES = """
    @dp.temporary_view
    def changes():
        return spark.readStream.format("delta").load("/Volumes/main/raw/landing/changes")

"""
FLOW = """
    dp.create_streaming_table("t"{target})
    dp.create_auto_cdc_flow(
        target="t", source="changes", keys=["id"], sequence_by="seq", apply_as_deletes="op = 'D'",
        except_column_list=["op", "seq"]{options}
    )
"""


def write(project: Any, options: str = "", target: str = "") -> Any:
    given = f", {options}" if options else ""
    return project.write(CHANGES + FLOW.format(options=given, target=f", {target}" if target else ""))


def land(project: Any, text: str, name: str = "changes") -> None:
    project.land(name, table(text))


def errors_of(project: Any) -> list[LakeletError]:
    found: list[LakeletError] = []
    for error in project.run().errors:
        found += error.errors if isinstance(error, DefinitionErrors) else [error]
    return found


def warnings_of(project: Any) -> list[str]:
    return [event.message for event in project.events if event.level.value == "WARN"]


# -- partial updates ----------------------------------------------------------------------------------------------


def partial(*rows: tuple[Any, ...]) -> pa.Table:
    names = ("id", "name", "city", "cols", "op", "seq")
    types = (pa.int64(), pa.string(), pa.string(), pa.list_(pa.string()), pa.string(), pa.int64())
    return pa.table({n: pa.array([row[i] for row in rows], types[i]) for i, n in enumerate(names)})


PARTIAL = [
    (1, "ann", "rome", None, "U", 1),
    (1, None, "ignored", ["NAME"], "U", 2),
    (1, "bob", None, ["city"], "U", 3),
    (2, "eve", "oslo", ["city"], "U", 1),
]


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("order", [(0, 1, 2, 3), (3, 2, 1, 0), (1, 0, 3, 2)])
def test_columns_to_update_names_what_an_event_sets(project: Any, order: tuple[int, ...]) -> None:
    write(project, "columns_to_update='cols', stored_as_scd_type=2").write(
        (project.root / "pipeline" / "tables.py")
        .read_text()
        .replace('["op", "seq"]', '["op", "seq", "cols"]')
        .split("functions as F\n", 1)[1]
    )
    for at in order:
        project.land("changes", partial(PARTIAL[at]))
        project.ok()
    assert project.rows("t", "id", "name", "city", "__START_AT", "__END_AT") == [
        (1, "ann", "rome", 1, 2),
        (1, None, "rome", 2, 3),
        (1, None, None, 3, None),
        (2, None, "oslo", 1, None),
    ]


def test_a_promise_about_every_change_row(project: Any) -> None:
    write(project, "where='seq < 10'")
    land(project, "id name op seq\n1 ann U 1")
    project.ok()
    land(project, "id name op seq\n1 bob U 2\n2 eve U 10\n3 kim U -")
    (error,) = errors_of(project)
    assert error.condition == "AUTOCDC_WHERE_VIOLATED"
    assert error.message.startswith("2 change rows")
    assert "'name': 'eve'" in (error.cause or "")
    assert project.rows("t", "id", "name") == [(1, "ann")]
    assert project.pipeline().repair("t", drop_rows=True)[0].stepped_over
    assert project.rows("t", "id", "name") == [(1, "bob")]


def test_a_changed_rule_for_nulls_is_explained(project: Any) -> None:
    write(project)
    land(project, "id name op seq\n1 ann U 1")
    project.ok()
    write(project, "ignore_null_updates=True")
    land(project, "id name op seq\n1 - U 2")
    project.ok()
    assert [text for text in warnings_of(project) if "`ignore_null_updates` from False to True" in text]
    assert any("--full-refresh t" in text for text in warnings_of(project))
    assert project.rows("t", "id", "name") == [(1, "ann")]
    land(project, "id name op seq\n1 bob U 3")
    project.ok()
    assert warnings_of(project) == []


# -- ties ---------------------------------------------------------------------------------------------------------


@pytest.mark.feature("AUTO CDC")
def test_a_tie_is_a_warning_with_its_keys(project: Any) -> None:
    write(project)
    land(project, "id name op seq\n1 ann U 1\n1 bob U 1\n2 eve U 1\n2 eve U 1")
    project.ok()
    (text,) = warnings_of(project)
    assert "1 key(s) have different events with one sequence value: {'id': 1} at 1" in text
    assert project.rows("t", "id", "name") == [(1, "bob"), (2, "eve")]


def test_a_tie_fails_where_the_project_says_so(project: Any) -> None:
    write(project)
    land(project, "id name op seq\n1 ann U 1")
    strict = {"lakelet.cdc.ties": "fail"}
    project.ok(configuration=strict)
    land(project, "id name op seq\n1 bob U 1\n2 eve U 2")
    result = project.run(configuration=strict)
    assert [error.condition for error in result.errors] == ["AUTOCDC_TIE"]
    assert "{'id': 1}" in str(result.errors[0].render())
    assert project.rows("t", "id", "name") == [(1, "ann")]


# -- several flows ------------------------------------------------------------------------------------------------

TWO = """
    dp.create_streaming_table("t")
    dp.create_auto_cdc_flow(
        target="t", source="changes", keys=["id"], sequence_by="seq", apply_as_deletes="op = 'D'",
        except_column_list=["op", "seq"], stored_as_scd_type=2, name="live",
    )
    dp.create_auto_cdc_flow(
        target="t", source="initial", keys=["ID"], sequence_by=F.lit(0).cast("bigint"), stored_as_scd_type=2, name="hydration",
        once=True,
    )
    @dp.materialized_view
    def initial():
        return spark.read.format("delta").load("/Volumes/main/raw/landing/initial")
"""


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("first", ["initial", "changes"])
def test_a_once_flow_hydrates_what_a_stream_goes_on_with(project: Any, first: str) -> None:
    project.write(CHANGES + TWO)
    land(project, "id name op seq\n1 ann U 5\n2 - D 7")
    project.land("initial", pa.table({"id": pa.array([1, 2, 3], pa.int64()), "name": ["a", "b", "c"]}))
    project.ok()
    project.land("initial", pa.table({"id": pa.array([4], pa.int64()), "name": ["too late"]}))
    land(project, "id name op seq\n3 kim U 8")
    project.ok()
    assert project.rows("t", "id", "name", "__START_AT", "__END_AT") == [
        (1, "a", 0, 5),
        (1, "ann", 5, None),
        (2, "b", 0, 7),
        (3, "c", 0, 8),
        (3, "kim", 8, None),
    ]
    project.ok(selection=RefreshSelection(full_refresh=("t",)))
    assert (4, "too late", 0, None) in project.rows("t", "id", "name", "__START_AT", "__END_AT")


def test_a_once_flow_of_a_stream_reads_all_that_there_is(project: Any) -> None:
    write(project, "once=True")
    for seq in range(1, 6):
        land(project, f"id name op seq\n{seq} n U {seq}")
    project.ok(configuration={"lakelet.maxBytesPerTrigger": "1"})
    assert project.rows("t", "id") == [1, 2, 3, 4, 5]
    land(project, "id name op seq\n6 n U 6")
    result = project.ok()
    assert result.flows[0].batches == 0
    assert project.rows("t", "id") == [1, 2, 3, 4, 5]
    write(project).ok()  # no longer `once`: it goes on where it was
    assert project.rows("t", "id") == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ('keys=["name"], sequence_by="seq"', "`keys` is ['id'] in flow `one`"),
        ('keys=["id"], sequence_by="seq", stored_as_scd_type=2', "`stored_as_scd_type` is 1"),
        ('keys=["id"], sequence_by="op"', "`sequence_by` is bigint in flow `one`"),
    ],
)
def test_flows_that_do_not_agree_are_refused_at_their_line(project: Any, options: str, says: str) -> None:
    land(project, "id name op seq\n1 ann U 5")
    project.write(
        CHANGES
        + f"""
    dp.create_streaming_table("t")
    dp.create_auto_cdc_flow(target="t", source="changes", keys=["id"], sequence_by="seq", name="one")
    dp.create_auto_cdc_flow(target="t", source="changes", name="two", {options})
"""
    )
    (error,) = errors_of(project)
    assert error.condition == "AUTOCDC_FLOWS_DIFFER"
    assert says in (error.cause or "")
    assert "tables.py:11" in (error.cause or "")
    assert error.origin is not None
    assert (error.origin.file, error.origin.line) == ("pipeline/tables.py", 12)


def test_everything_wrong_with_a_flow_is_reported_at_once(project: Any) -> None:
    land(project, "id name op seq\n1 ann U 5")
    project.write(
        CHANGES
        + """
    dp.create_streaming_table("t")
    dp.create_auto_cdc_flow(
        target="t", source="changes", keys=["idd"], sequence_by="sequ", apply_as_deletes="opp = 'D'", where="seq",
        except_column_list=["nope"], columns_to_update="name",
    )
"""
    )
    found = sorted(error.message for error in errors_of(project))
    assert len(found) == 6
    for name in ("idd", "sequ", "opp", "nope", "where", "`name`"):
        assert any(name in text for text in found), name


# -- rules and schemas --------------------------------------------------------------------------------------------


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("scd_type", [1, 2])
def test_the_rules_of_a_target_see_the_change_rows(project: Any, scd_type: int) -> None:
    rules = 'expect_all={"warn": "name != \'bob\'"}, expect_all_or_drop={"op known": "op IN (\'U\', \'D\')"}'
    write(project, f"stored_as_scd_type={scd_type}", rules)
    land(project, "id name op seq\n1 ann U 1\n1 bob U 2\n2 eve X 1\n1 - D 3")
    project.ok()
    (quality,) = [
        event.details["data_quality"]
        for event in project.events
        if event.event_type == "flow_progress" and event.details.get("data_quality")
    ]
    counts = {e["name"]: (e["passed_records"], e["failed_records"]) for e in quality["expectations"]}
    assert counts == {"warn": (2, 2), "op known": (3, 1)}  # the delete has no name: NULL fails
    assert quality["dropped_records"] == 1
    assert project.rows("t", "id", "name") == ([] if scd_type == 1 else [(1, "ann"), (1, "bob")])


@pytest.mark.feature("AUTO CDC")
def test_a_violated_fail_rule_writes_nothing(project: Any) -> None:
    write(project, target="expect_all_or_fail={'named': \"name IS NOT NULL OR op = 'D'\"}")
    land(project, "id name op seq\n1 ann U 1")
    project.ok()
    land(project, "id name op seq\n2 - D 2\n1 - U 3")
    (error,) = errors_of(project)
    assert error.condition == "EXPECTATION_VIOLATION.VERBOSITY_ALL"
    assert project.rows("t", "id", "name") == [(1, "ann")]


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ("id BIGINT, name STRING", "__START_AT"),
        ("id BIGINT, name STRING, __START_AT BIGINT", "__END_AT"),
        ("id BIGINT, name STRING, __START_AT TIMESTAMP, __END_AT TIMESTAMP", "__START_AT"),
        ("id BIGINT, name INT, __START_AT BIGINT, __END_AT BIGINT", "name"),
    ],
)
def test_a_schema_that_does_not_fit_is_refused(project: Any, schema: str, says: str) -> None:
    write(project, "stored_as_scd_type=2", f"schema={schema!r}")
    land(project, "id name op seq\n1 ann U 1")
    (error,) = errors_of(project)
    assert error.condition == "USER_SPECIFIED_AND_INFERRED_SCHEMA_NOT_COMPATIBLE"
    assert says in (error.cause or "")


def test_a_schema_with_the_interval_is_kept(project: Any) -> None:
    schema = "id BIGINT NOT NULL, name STRING COMMENT 'who', __START_AT BIGINT, __END_AT BIGINT"
    write(project, "stored_as_scd_type=2", f'schema="{schema}"')
    land(project, "id name op seq\n1 ann U 1\n1 bob U 2")
    project.ok()
    assert project.rows("t", "id", "name", "__START_AT", "__END_AT") == [(1, "ann", 1, 2), (1, "bob", 2, None)]


# -- the change feed of a target ----------------------------------------------------------------------------------


@pytest.mark.feature("AUTO CDC")
@pytest.mark.parametrize("scd_type", [1, 2])
def test_the_change_feed_of_a_target_has_what_changed_and_no_more(project: Any, scd_type: int) -> None:
    write(project, f"stored_as_scd_type={scd_type}", 'table_properties={"delta.enableChangeDataFeed": "true"}')
    land(project, "id name op seq\n1 ann U 1\n2 bob U 1\n3 eve U 1")
    project.ok()
    start = (project.version("t") or 0) + 1
    land(project, "id name op seq\n1 zoe U 2\n2 bob U 2\n3 - D 2\n4 kim U 2")
    project.ok()
    (metrics,) = [
        event.details["metrics"]
        for event in project.events
        if event.event_type == "flow_progress" and (event.details.get("metrics") or {}).get("num_input_rows")
    ]
    feed = pa.table(DeltaTable(str(project.folder("t"))).load_cdf(starting_version=start).read_all())
    changes = sorted(
        (kind, row["id"], row["name"], *([row["__END_AT"]] if scd_type == 2 else []))
        for row, kind in zip(feed.to_pylist(), feed.column("_change_type").to_pylist(), strict=True)
    )
    if scd_type == 1:
        assert changes == [
            ("delete", 3, "eve"),
            ("insert", 4, "kim"),
            ("update_postimage", 1, "zoe"),
            ("update_preimage", 1, "ann"),
        ]
        assert (metrics["num_upserted_rows"], metrics["num_deleted_rows"]) == (2, 1)
    else:
        assert changes == [
            ("insert", 1, "zoe", None),
            ("insert", 4, "kim", None),
            ("update_postimage", 1, "ann", 2),
            ("update_postimage", 3, "eve", 2),
            ("update_preimage", 1, "ann", None),
            ("update_preimage", 3, "eve", None),
        ]
        assert (metrics["num_upserted_rows"], metrics["num_deleted_rows"]) == (4, 0)


# -- remembered deletes -------------------------------------------------------------------------------------------

T0 = datetime(2024, 1, 1, tzinfo=UTC)


def at(project: Any, seconds: int, text: str) -> None:
    """Land changes and run an update, so many seconds after the start."""
    project.clock = lambda: T0 + timedelta(seconds=seconds)
    land(project, text)
    project.ok()


@pytest.mark.parametrize(("late_by", "comes_back"), [(59, False), (60, False), (61, True)])
def test_a_delete_is_forgotten_when_it_is_older_than_the_property_says(
    project: Any, late_by: int, comes_back: bool
) -> None:
    write(project, target="table_properties={'pipelines.cdc.tombstoneGCThresholdInSeconds': '60'}")
    at(project, 0, "id name op seq\n1 ann U 1\n2 bob U 1\n3 eve U 1")
    at(project, 100, "id name op seq\n1 - D 10\n2 - D 10\n3 zoe U 10")
    at(project, 150, "id name op seq\n2 back U 20")
    version = project.version("t")
    at(project, 100 + late_by, "id name op seq\n1 late U 5\n2 late U 5\n3 late U 5")
    rows = [(2, "back"), (3, "zoe")]
    assert project.rows("t", "id", "name") == ([(1, "late"), *rows] if comes_back else rows)
    if not comes_back:
        assert project.version("t") == version


def test_without_the_property_deletes_are_remembered_for_good(project: Any) -> None:
    write(project)
    at(project, 0, "id name op seq\n1 - D 10")
    at(project, 10**9, "id name op seq\n1 late U 5")
    assert project.rows("t", "id") == []


@pytest.mark.parametrize(("late_by", "end"), [(60, 10), (61, None)])
def test_in_a_history_only_deletes_of_unknown_keys_are_forgotten(project: Any, late_by: int, end: int | None) -> None:
    properties = "table_properties={'pipelines.cdc.tombstoneGCThresholdInSeconds': '60'}"
    write(project, "stored_as_scd_type=2", properties)
    at(project, 0, "id name op seq\n1 ann U 1\n1 - D 10\n2 - D 10")
    at(project, late_by, "id name op seq\n1 late U 5\n2 late U 5")
    assert project.rows("t", "id", "name", "__START_AT", "__END_AT") == [
        (1, "ann", 1, 5),
        (1, "late", 5, 10),
        (2, "late", 5, end),
    ]


def test_a_wrong_age_is_refused(project: Any) -> None:
    write(project, target="table_properties={'pipelines.cdc.tombstoneGCThresholdInSeconds': '2 days'}")
    land(project, "id name op seq\n1 ann U 1")
    assert [error.condition for error in errors_of(project)] == ["INVALID_TABLE_PROPERTY"]


# -- SQL ----------------------------------------------------------------------------------------------------------


@pytest.mark.feature("AUTO CDC")
def test_every_clause_of_sql(project: Any) -> None:
    project.write(CHANGES)
    project.write(
        """
        CREATE STREAMING TABLE t;
        CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(changes) KEYS (id)
          APPLY AS DELETE WHEN op = 'D' SEQUENCE BY seq COLUMNS * EXCEPT (op, seq, cols)
          STORED AS SCD TYPE 2 TRACK HISTORY ON * EXCEPT (city) COLUMNS TO UPDATE cols WHERE seq < 100;
        CREATE STREAMING TABLE latest;
        CREATE FLOW g AS AUTO CDC INTO latest FROM STREAM(changes) KEYS (id) IGNORE NULL UPDATES ON (city)
          APPLY AS DELETE WHEN op = 'D' APPLY AS TRUNCATE WHEN op = 'T' SEQUENCE BY struct(seq, op)
          COLUMNS (id, city) STORED AS SCD TYPE 1;
        """,
        file="flows.sql",
    )
    project.land("changes", partial(*PARTIAL[:3], (9, "old", "pisa", None, "U", 0)))
    project.ok()
    assert project.rows("t", "id", "name", "city", "__START_AT", "__END_AT") == [
        (1, "ann", "rome", 1, 2),
        (1, None, None, 2, None),
        (9, "old", "pisa", 0, None),
    ]
    assert project.rows("latest", "id", "city") == [(1, "ignored"), (9, "pisa")]


@pytest.mark.parametrize("late", [False, True])
def test_a_truncate_in_the_order_of_a_struct(project: Any, late: bool) -> None:
    write(project, "apply_as_truncates=\"op = 'T'\"")
    file = project.root / "pipeline" / "tables.py"
    file.write_text(file.read_text().replace('sequence_by="seq"', 'sequence_by=F.struct("seq", "name")'))
    batches = ["id name op seq\n1 a U 1\n2 z U 2\n3 b U 3\n4 a U 2", "id name op seq\n- m T 2"]
    for text in reversed(batches) if late else batches:
        land(project, text)
        project.ok()
    assert project.rows("t", "id", "name") == [(2, "z"), (3, "b")]


def test_columns_to_update_and_ignored_nulls_exclude_each_other_in_sql(project: Any) -> None:
    project.write(CHANGES)
    project.write(
        """
        CREATE STREAMING TABLE t;
        CREATE FLOW f AS AUTO CDC INTO t FROM STREAM(changes) KEYS (id) IGNORE NULL UPDATES SEQUENCE BY seq
          COLUMNS TO UPDATE cols;
        """,
        file="flows.sql",
    )
    project.land("changes", partial(*PARTIAL))
    assert [error.condition for error in errors_of(project)][:1] == ["CANNOT_SET_TOGETHER"]


def test_a_full_refresh_that_one_flow_could_not_finish_is_not_begun_anew_by_another(
    project: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first flow's events are stored when its write of the target fails; the second one must not replace them."""
    second = CHANGES.replace("changes", "others") + FLOW.format(target="", options=', name="second"').replace(
        'source="changes"', 'source="others"'
    ).replace('dp.create_streaming_table("t")', "")
    project.write(CHANGES + FLOW.format(target="", options=', name="first"') + second)
    land(project, "id name op seq\n1 ann U 1\n2 bob U 1")
    land(project, "id name op seq\n3 eve U 1", "others")
    project.ok()

    def fails(kind: Any, name: str) -> None:
        works = getattr(kind, name)

        def write(way: Any, *args: Any, **options: Any) -> Any:
            if way._tables.flow.name == "first":
                raise StorageError("TABLE_IO_FAILED", "the disk is full")
            return works(way, *args, **options)

        broken.setattr(kind, name, write)

    with monkeypatch.context() as broken:
        fails(auto_cdc_process.InProcess, "_rebuild")
        fails(auto_cdc_cluster.InCluster, "_committed_rows")
        result = project.run(selection=RefreshSelection(full_refresh=("t",)))
    conditions = [error.condition for error in result.errors]
    assert conditions == ["TABLE_IO_FAILED", "AUTOCDC_REFRESH_UNFINISHED"]
    assert project.rows("t", "id", "name") == [(1, "ann"), (2, "bob"), (3, "eve")]
    project.ok()
    assert project.rows("t", "id", "name") == [(1, "ann"), (2, "bob"), (3, "eve")]
