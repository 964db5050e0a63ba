"""Files as streams: every file once, its columns as the files have them, and nothing that it says lost without a word."""

from __future__ import annotations

import gzip
import io
import json
import os
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.orc
import pyarrow.parquet as pq
import pytest
from tests.behaviour.test_streaming_tables import Crash, crash_at

from lakelet import faults
from lakelet.pipeline import RefreshSelection

FOLDER = "/Volumes/main/raw/landing/files"


def folder(project: Any) -> Path:
    path = project.root / "data" / FOLDER.strip("/")
    path.mkdir(parents=True, exist_ok=True)
    return path


def put(project: Any, name: str, content: str | bytes | list[dict[str, Any]]) -> Path:
    """Put a file into the landing folder: text, bytes, or one JSON object a line."""
    path = folder(project) / name
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, list):
        content = "".join(json.dumps(row) + "\n" for row in content)
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def auto_loader(fmt: str = "json", *, query: str = "", path: str = FOLDER, schema: str = "", **options: Any) -> str:
    """Return a pipeline file with one streaming table over Auto Loader; `cloudFiles.` is put before upper-case-free names."""
    text = "".join(
        f".option({(key if key in PLAIN else 'cloudFiles.' + key)!r}, {value!r})" for key, value in options.items()
    )
    declared = f".schema({schema!r})" if schema else ""
    return (
        "@dp.table\ndef files():\n    return (\n        spark.readStream.format('cloudFiles')"
        f".option('cloudFiles.format', {fmt!r}){text}{declared}.load({path!r}){query}\n    )\n"
    )


PLAIN = {
    "header", "multiLine", "mode", "sep", "quote", "escape", "pathGlobFilter", "modifiedAfter", "modifiedBefore",
    "recursiveFileLookup", "columnNameOfCorruptRecord", "rescuedDataColumn", "ignoreMissingFiles", "ignoreCorruptFiles",
    "nullValue", "dateFormat", "timestampFormat", "wholeText", "typo",
}  # fmt: skip


def plain(fmt: str, schema: str, *, query: str = "", path: str = FOLDER, **options: Any) -> str:
    text = "".join(f".option({key!r}, {value!r})" for key, value in options.items())
    return (
        "@dp.table\ndef files():\n    return "
        f"spark.readStream.format({fmt!r}){text}.schema({schema!r}).load({path!r}){query}\n"
    )


def columns(project: Any, name: str = "files") -> dict[str, str]:
    table = project.pipeline().table(name)
    return {field.name: str(field.type) for field in table.schema}


def failure(project: Any) -> Any:
    result = project.run()
    assert result.exit_code != 0
    return result.errors[0]


# -- each file once -----------------------------------------------------------------------------------------------


@pytest.mark.feature("Files as streams")
def test_each_update_reads_the_files_that_are_new(project: Any) -> None:
    project.write(auto_loader())
    put(project, "a.json", [{"id": 1}, {"id": 2}])
    assert project.ok().flows[0].batches == 1
    assert project.ok().flows[0].batches == 0
    put(project, "b.json", [{"id": 3}])
    put(project, "deeper/c.json", [{"id": 4}])
    assert project.ok().flows[0].batches == 1
    assert project.rows("files", "id") == ["1", "2", "3", "4"]


def test_a_modified_file_is_not_read_again_unless_asked(project: Any) -> None:
    for allowed, expected in ((False, ["1"]), (True, ["1", "2"])):
        project.write(auto_loader(allowOverwrites=str(allowed).lower()))
        path = put(project, "a.json", [{"id": 1}])
        os.utime(path, (1_700_000_000, 1_700_000_000))
        project.ok(selection=RefreshSelection(full_refresh_all=True))
        put(project, "a.json", [{"id": 2}])
        project.ok()
        assert project.rows("files", "id") == expected


def test_a_full_refresh_reads_what_is_still_there(project: Any) -> None:
    project.write(auto_loader(inferColumnTypes="true"))
    first = put(project, "a.json", [{"id": 1}])
    put(project, "b.json", [{"id": 2.5}])
    project.ok()
    first.unlink()
    put(project, "c.json", [{"id": "x"}])
    project.ok()
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert project.rows("files", "id") == ["2.5", "x"]


def test_a_full_refresh_without_any_file_empties_the_table(project: Any) -> None:
    project.write(auto_loader())
    path = put(project, "a.json", [{"id": 1}])
    project.ok()
    path.unlink()
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert project.rows("files") == []


def test_limits_cut_files_into_batches(project: Any) -> None:
    for number in range(5):
        put(project, f"{number}.json", [{"id": number}])
    project.write(auto_loader(maxFilesPerTrigger="2"))
    assert project.ok().flows[0].batches == 3
    counts = [event.details.get("metrics", {}) for event in project.events if event.event_type == "flow_progress"]
    assert [found["backlog_files"] for found in counts if "backlog_files" in found] == [3, 1, 0]
    size = put(project, "4.json", [{"id": 4}]).stat().st_size
    assert [found["backlog_bytes"] for found in counts if "backlog_files" in found] == [3 * size, size, 0]
    project.write(auto_loader(maxBytesPerTrigger="1b"))
    assert project.ok(selection=RefreshSelection(full_refresh_all=True)).flows[0].batches == 5
    assert project.rows("files", "id") == ["0", "1", "2", "3", "4"]


def test_existing_files_can_be_left_out(project: Any) -> None:
    put(project, "old.json", [{"id": 1}])
    project.write(auto_loader(includeExistingFiles="false"))
    project.ok()
    put(project, "new.json", [{"id": 2}])
    project.ok()
    project.ok()
    assert project.rows("files", "id") == ["2"]


def test_filters_of_names_and_times(project: Any) -> None:
    for name, at in (("a.json", 100), ("b.json", 200), ("c.json", 300), ("d.txt", 200), ("_hidden.json", 200)):
        os.utime(put(project, name, [{"id": name}]), (1_700_000_000 + at, 1_700_000_000 + at))
    project.write(
        auto_loader(pathGlobFilter="*.json", modifiedAfter="2023-11-14T22:15:30", modifiedBefore="2023-11-14T22:18:00Z")
    )
    project.ok()
    assert project.rows("files", "id") == ["b.json"]


def test_wildcards_in_the_path(project: Any) -> None:
    put(project, "eu/x.json", [{"id": "eu"}])
    put(project, "us/x.json", [{"id": "us"}])
    put(project, "asia/x.json", [{"id": "asia"}])
    project.write(auto_loader(path=FOLDER + "/{eu,us}/*.json"))
    project.ok()
    assert project.rows("files", "id") == ["eu", "us"]


@pytest.mark.parametrize("point", [*faults.FILE_POINTS, *faults.POINTS[:4]])
def test_a_crash_at_any_point_loses_and_doubles_nothing(project: Any, point: str) -> None:
    project.write(auto_loader(maxFilesPerTrigger="1"))
    put(project, "a.json", [{"id": 1}])
    put(project, "b.json", [{"id": 2, "more": "x"}])
    with pytest.raises(Crash), crash_at(point):
        project.run()
    put(project, "c.json", [{"id": 3}])
    with pytest.raises(Crash), crash_at(point):
        project.run()
    project.ok()
    assert project.rows("files", "id", "more") == [("1", None), ("2", "x"), ("3", None)]


def test_a_replay_reads_the_recorded_files_with_the_recorded_columns(project: Any) -> None:
    project.write(auto_loader())
    put(project, "a.json", [{"id": 1}])
    with pytest.raises(Crash), crash_at("flow.intent_written"):
        project.run()
    put(project, "b.json", [{"id": 2, "new": "n"}])
    project.ok()
    assert project.rows("files", "id", "new") == [("1", None), ("2", "n")]


def test_a_file_that_vanished_before_it_was_read(project: Any) -> None:
    for ignored in ("false", "true"):
        project.write(auto_loader(ignoreMissingFiles=ignored))
        path = put(project, "a.json", [{"id": 1}])
        put(project, "b.json", [{"id": 2}])
        with pytest.raises(Crash), crash_at("flow.intent_written"):
            project.run(selection=RefreshSelection(full_refresh_all=True))
        path.unlink()
        if ignored == "false":
            error = failure(project)
            assert error.condition == "FAILED_READ_FILE.FILE_NOT_EXIST"
            assert "a.json" in error.message
            assert "ignoreMissingFiles" in error.hint
    project.ok()
    assert project.rows("files", "id") == ["2"]


# -- columns ------------------------------------------------------------------------------------------------------


def test_without_types_every_column_is_text_as_the_file_has_it(project: Any) -> None:
    put(project, "a.json", '{"id": 1, "x": 1.50, "o": {"a": [1, 2]}, "s": "é", "n": null, "b": true}\n')
    project.write(auto_loader())
    project.ok()
    assert columns(project) == dict.fromkeys(["b", "id", "n", "o", "s", "x", "_rescued_data"], "string")
    [row] = project.rows("files")
    assert row == {
        "b": "true",
        "id": "1",
        "n": None,
        "o": '{"a": [1, 2]}',
        "s": "é",
        "x": "1.50",
        "_rescued_data": None,
    }


@pytest.mark.feature("Files as streams")
def test_inferred_types_are_merged_across_files(project: Any) -> None:
    put(project, "a.json", [{"id": 1, "x": 1, "o": {"a": 1}, "l": [1], "b": True, "m": 1}])
    put(project, "b.json", [{"id": 2, "x": 1.5, "o": {"b": "t"}, "l": [2.5], "m": "t", "big": 2**70}])
    project.write(auto_loader(inferColumnTypes="true"))
    project.ok()
    found = columns(project)
    assert found["id"] == "int64"
    assert found["x"] == "double"
    assert found["o"].startswith("struct<a: int64, b: string")
    assert found["l"].startswith("list<") and "double" in found["l"]
    assert (found["b"], found["m"], found["big"]) == ("bool", "string", "decimal128(22, 0)")
    rows = project.rows("files")
    assert [row["o"] for row in rows if row["id"] == 1] == [{"a": 1, "b": None}]
    assert sorted(row["m"] for row in rows) == ["1", "t"]


def test_schema_hints_win_over_inference_and_add_columns(project: Any) -> None:
    put(project, "a.json", [{"id": 1, "at": "2026-01-02T03:04:05Z", "amount": "12.345"}, {"id": "x"}])
    project.write(auto_loader(schemaHints="id BIGINT, at TIMESTAMP, amount DECIMAL(8,2), later DATE"))
    project.ok()
    found = columns(project)
    assert (found["id"], found["at"], found["later"]) == ("int64", "timestamp[us, tz=UTC]", "date32[day]")
    rescued = [json.loads(text) for text in project.rows("files", "_rescued_data") if text]
    assert {key: value for row in rescued for key, value in row.items() if key != "_file_path"} == {
        "id": "x",
        "amount": "12.345",  # JSON text is no number
    }
    assert all(row["_file_path"].endswith("files/a.json") for row in rescued)


def test_csv_with_inferred_types_against_duckdb(project: Any) -> None:
    text = 'id,name,price,day,ok,at\n1,"a, b",1.5,2026-01-02,true,2026-01-02 03:04:05\n2,"q""q",,2026-01-03,FALSE,\n'
    path = put(project, "a.csv", text)
    project.write(auto_loader("csv", header="true", inferColumnTypes="true", query=".drop('_rescued_data')"))
    project.ok()
    assert columns(project) == {
        "id": "int32", "name": "string", "price": "double", "day": "date32[day]", "ok": "bool",
        "at": "timestamp[us, tz=UTC]",
    }  # fmt: skip
    oracle = duckdb.sql(f"SELECT id, name, price, day, ok FROM read_csv('{path}') ORDER BY id").fetchall()
    assert project.rows("files", "id", "name", "price", "day", "ok") == oracle


@pytest.mark.feature("Files as streams")
def test_new_columns_are_read_in_the_same_update(project: Any) -> None:
    project.write(
        auto_loader(inferColumnTypes="true", maxFilesPerTrigger="1")
        + "\n\n@dp.table\ndef copy():\n    return spark.readStream.table('files')\n"
    )
    put(project, "a.json", [{"id": 1}])
    project.ok()
    put(project, "b.json", [{"id": 2, "name": "x", "n": 5}])
    put(project, "c.json", [{"id": 3, "also": True}])
    project.ok()
    for table in ("files", "copy"):
        assert project.rows(table, "id", "name", "n", "also") == [
            (1, None, None, None), (2, "x", 5, None), (3, None, None, True)
        ]  # fmt: skip
    warnings = [event.message for event in project.events if "new columns" in event.message]
    assert any("n, name" in text for text in warnings)


def test_new_columns_reach_auto_cdc_in_the_same_update(project: Any) -> None:
    project.write(
        auto_loader(schemaHints="id BIGINT, v BIGINT", inferColumnTypes="true")
        + "\ndp.create_streaming_table('latest')\n"
        "dp.create_auto_cdc_flow(target='latest', source='files', keys=['id'], sequence_by='v',"
        " except_column_list=['_rescued_data'])\n"
    )
    put(project, "a.json", [{"id": 1, "v": 1}])
    project.ok()
    put(project, "b.json", [{"id": 1, "v": 2, "name": "x"}])
    project.ok()
    assert project.rows("latest", "id", "v", "name") == [(1, 2, "x")]


@pytest.mark.parametrize(
    ("mode", "has_rescued"), [("rescue", True), ("none", False), ("failOnNewColumns", True), ("addNewColumns", True)]
)
def test_what_the_evolution_modes_do_with_a_new_field(project: Any, mode: str, has_rescued: bool) -> None:
    project.write(auto_loader(schemaEvolutionMode=mode))
    put(project, "a.json", [{"id": 1}])
    project.ok()
    put(project, "b.json", [{"id": 2, "name": "x"}])
    if mode == "failOnNewColumns":
        error = failure(project)
        assert error.condition == "UNKNOWN_FIELD_EXCEPTION.NEW_FIELDS_IN_FILE"
        assert "`name`" in error.message
        return
    project.ok()
    assert set(columns(project)) == {
        "id",
        *(["_rescued_data"] if has_rescued else []),
        *(["name"] if mode[0] == "a" else []),
    }
    if mode == "rescue":
        [text] = [text for text in project.rows("files", "_rescued_data") if text]
        assert json.loads(text)["name"] == "x"


@pytest.mark.feature("Files as streams")
def test_what_does_not_fit_a_type_is_rescued_also_inside(project: Any) -> None:
    put(project, "a.json", [{"id": 1, "o": {"a": 1}}])
    project.write(auto_loader(inferColumnTypes="true"))
    project.ok()
    put(project, "b.json", [{"id": "two", "o": {"a": 2, "b": [1.50]}, "ID": 7}])
    project.ok()
    row = next(row for row in project.rows("files") if row["_rescued_data"])
    assert (row["id"], row["o"]) == (None, {"a": 2})
    rescued = json.loads(row["_rescued_data"])
    assert rescued["id"] == "two"
    assert rescued["o"] == {"b": [1.5]}
    assert rescued["ID"] == 7


def test_partition_columns_come_from_the_path(project: Any) -> None:
    put(project, "day=2026-01-02/hour=3/a.json", [{"id": 1}])
    put(project, "day=__HIVE_DEFAULT_PARTITION__/hour=4/b.json", [{"id": 2}])
    project.write(auto_loader(inferColumnTypes="true"))
    project.ok()
    assert [(i, str(day), hour) for i, day, hour in project.rows("files", "id", "day", "hour")] == [
        (1, "2026-01-02", 3), (2, "None", 4)
    ]  # fmt: skip
    project.write(auto_loader(partitionColumns="hour"))
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert set(columns(project)) == {"id", "hour", "_rescued_data"}


@pytest.mark.feature("Files as streams")
def test_metadata_of_the_file(project: Any) -> None:
    path = put(project, "a b.json", [{"id": 1}])
    project.write(
        auto_loader(
            query=".select('*', '_metadata.file_name', F.col('_metadata.file_size').alias('size'), '_metadata')"
        )
    )
    project.ok()
    [row] = project.rows("files")
    assert (row["file_name"], row["size"]) == ("a b.json", path.stat().st_size)
    assert row["_metadata"]["file_path"].endswith("files/a%20b.json")
    assert row["_metadata"]["file_modification_time"].timestamp() == pytest.approx(path.stat().st_mtime, abs=0.01)


# -- formats ------------------------------------------------------------------------------------------------------


@pytest.mark.feature("Files as streams")
def test_parquet_and_orc_keep_their_types_and_evolve(project: Any) -> None:
    for fmt, write in (("parquet", pq.write_table), ("orc", pa.orc.write_table)):
        for old in folder(project).iterdir():
            old.unlink()
        first = pa.table({"id": pa.array([1], pa.int32()), "x": [1.5]})
        write(first, str(put(project, f"a.{fmt}", b"")))
        project.write(auto_loader(fmt))
        project.ok(selection=RefreshSelection(full_refresh_all=True))
        assert columns(project) == {"id": "int32", "x": "double", "_rescued_data": "string"}
        write(pa.table({"id": pa.array([2**40], pa.int64()), "more": ["m"]}), str(put(project, f"b.{fmt}", b"")))
        project.ok()
        rows = {row["more"]: row for row in project.rows("files")}
        assert rows["m"]["id"] is None
        assert json.loads(rows["m"]["_rescued_data"])["id"] == 2**40


AVRO = {
    "type": "record",
    "name": "shop.Order",
    "fields": [
        {"name": "id", "type": "int"},
        {"name": "name", "type": ["null", "string"]},
        {"name": "size", "type": ["int", "long", "null"]},
        {"name": "at", "type": {"type": "long", "logicalType": "timestamp-micros"}},
        {"name": "day", "type": {"type": "int", "logicalType": "date"}},
        {"name": "price", "type": {"type": "bytes", "logicalType": "decimal", "precision": 10, "scale": 2}},
        {"name": "kind", "type": {"type": "enum", "name": "Kind", "symbols": ["NEW", "OLD"]}},
        {"name": "other", "type": "shop.Kind"},
        {"name": "tags", "type": {"type": "array", "items": "string"}},
        {"name": "counts", "type": {"type": "map", "values": "long"}},
        {"name": "place", "type": {"type": "record", "name": "Place", "fields": [{"name": "x", "type": "float"}]}},
        {"name": "code", "type": {"type": "fixed", "name": "Code", "size": 2}},
        {"name": "key", "type": {"type": "string", "logicalType": "uuid"}},
    ],
}
ORDER = {"id": 1, "name": "a", "size": 7, "at": datetime(2024, 5, 1, 12, tzinfo=UTC), "day": date(2024, 5, 1),
         "price": Decimal("1.25"), "kind": "NEW", "other": "OLD", "tags": ["x", "y"], "counts": {"k": 3},
         "place": {"x": 0.5}, "code": b"ab", "key": "2b1a7c40-5f5e-4d0e-9f44-0c2b8d0f4c11"}  # fmt: skip


def avro(project: Any, name: str, rows: list[dict[str, Any]], schema: Any = AVRO, codec: str = "snappy") -> Path:
    import fastavro

    content = io.BytesIO()
    fastavro.writer(content, schema, rows, codec=codec)
    return put(project, name, content.getvalue())


@pytest.mark.feature("Files as streams")
@pytest.mark.parametrize("codec", ["null", "deflate", "snappy"])
def test_avro_files_keep_their_types(project: Any, codec: str) -> None:
    avro(project, "a.avro", [ORDER, {**ORDER, "id": 2, "name": None, "size": None}], codec=codec)
    project.write(auto_loader("avro"))
    project.ok()
    rows = project.rows("files")
    assert [row.pop("_rescued_data") for row in rows] == [None, None]
    assert [dict(row, counts=dict(row["counts"])) for row in rows] == [
        ORDER,
        {**ORDER, "id": 2, "name": None, "size": None},
    ]
    types = {
        name: kind for name, kind in columns(project).items() if name in ("id", "size", "at", "day", "price", "code")
    }
    assert types == {"id": "int32", "size": "int64", "at": "timestamp[us, tz=UTC]", "day": "date32[day]",
                     "price": "decimal128(10, 2)", "code": "binary"}  # fmt: skip


def test_avro_files_are_read_as_a_table_and_by_sql(project: Any) -> None:
    avro(project, "a.avro", [ORDER])
    project.write(
        f"""
@dp.materialized_view
def batch():
    return spark.read.format("avro").load("{FOLDER}").select("id", "kind")

@dp.table
def stream():
    return spark.sql("SELECT id, kind FROM STREAM read_files('{FOLDER}', format => 'avro')")
"""
    )
    project.ok()
    assert project.rows("batch") == project.rows("stream") == [{"id": 1, "kind": "NEW"}]


def test_avro_files_evolve_and_their_misfits_are_rescued(project: Any) -> None:
    def schema(*fields: tuple[str, str]) -> Any:
        return {"type": "record", "name": "r", "fields": [{"name": name, "type": kind} for name, kind in fields]}

    avro(project, "a.avro", [{"id": 1}], schema(("id", "int")))
    project.write(auto_loader("avro"))
    project.ok()
    avro(project, "b.avro", [{"id": 2**40, "more": "m"}], schema(("id", "long"), ("more", "string")))
    project.ok()
    rows = {row["more"]: row for row in project.rows("files")}
    assert rows[None]["id"] == 1
    assert rows["m"]["id"] is None
    assert json.loads(rows["m"]["_rescued_data"])["id"] == 2**40


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (["string", "int"], "a union of several types"),
        ({"type": "int", "logicalType": "time-millis"}, "time-millis"),
        ({"type": "record", "name": "Node", "fields": [{"name": "next", "type": ["null", "Node"]}]}, "contains itself"),
    ],
    ids=["union", "time", "recursive"],
)
def test_an_avro_type_without_a_column_type_is_refused(project: Any, kind: Any, says: str) -> None:
    schema = {"type": "record", "name": "r", "fields": [{"name": "x", "type": kind}]}
    avro(project, "a.avro", [], schema)
    project.write(auto_loader("avro"))
    error = failure(project)
    assert error.condition == "UNSUPPORTED_AVRO_TYPE"
    assert says in error.message
    assert "`x`" in error.message or "`next`" in error.message


def test_an_avro_codec_without_a_reader_is_named(project: Any) -> None:
    packed = avro(project, "a.avro", [ORDER], codec="deflate")
    packed.write_bytes(packed.read_bytes().replace(b"deflate", b"zstand8"))
    project.write(auto_loader("avro", ignoreCorruptFiles="true"))
    error = failure(project)
    assert error.condition == "UNSUPPORTED_AVRO_CODEC"
    assert "zstand8" in error.message
    assert "a.avro" in error.message


@pytest.mark.parametrize("content", [b"no avro", b"", b"Obj\x01"], ids=["text", "empty", "only a head"])
def test_a_torn_avro_file_is_named(project: Any, content: bytes) -> None:
    avro(project, "a.avro", [ORDER])
    project.write(auto_loader("avro"))
    project.ok()
    put(project, "b.avro", content)
    error = failure(project)
    assert error.condition == "FAILED_READ_FILE.NO_HINT"
    assert "b.avro" in error.message
    whole = avro(project, "c.avro", [ORDER] * 1000).read_bytes()
    put(project, "b.avro", whole[:-20])
    assert "b.avro" in failure(project).message


@pytest.mark.feature("Files as streams")
def test_text_and_binary_files(project: Any) -> None:
    put(project, "a.txt", "one\ntwo\n")
    project.write("@dp.table\ndef files():\n    return spark.readStream.text('" + FOLDER + "')\n")
    project.ok()
    assert project.rows("files", "value") == ["one", "two"]
    project.write(auto_loader("binaryFile"))
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    [row] = project.rows("files")
    assert (row["content"], row["length"]) == (b"one\ntwo\n", 8)


def test_plain_streams_read_their_folder_and_partition_folders(project: Any) -> None:
    put(project, "a.json", [{"id": 1, "other": 9}])
    put(project, "k=7/b.json", [{"id": 2}])
    put(project, "deeper/c.json", [{"id": 3}])
    project.write(plain("json", "id BIGINT"))
    project.ok()
    assert project.rows("files", "id", "k") == [(1, None), (2, 7)]
    project.write(plain("json", "id BIGINT", recursiveFileLookup="true"))
    project.ok(selection=RefreshSelection(full_refresh_all=True))
    assert (project.rows("files", "id"), set(columns(project))) == ([1, 2, 3], {"id"})


def test_packed_and_multi_line_files(project: Any) -> None:
    put(project, "a.json.gz", gzip.compress(b'[{"id": 1},\n {"id":\n2}]'))
    put(project, "b.json", '{\n "id": 3\n}\n')
    project.write(auto_loader(multiLine="true"))
    project.ok()
    assert project.rows("files", "id") == ["1", "2", "3"]


def test_csv_options_and_lines_within_quotes(project: Any) -> None:
    put(project, "a.csv", "id|text\n1|'two\nlines'\n2|NA\n3|'it\\'s'\n")
    project.write(auto_loader("csv", header="true", sep="|", quote="'", multiLine="true", nullValue="NA"))
    project.ok()
    assert project.rows("files", "id", "text") == [("1", "two\nlines"), ("2", None), ("3", "it's")]


def test_csv_files_with_columns_in_another_order(project: Any) -> None:
    put(project, "a.csv", "id,name\n1,x\n")
    put(project, "b.csv", "name,id\ny,2\n")
    project.write(auto_loader("csv", header="true"))
    project.ok()
    assert project.rows("files", "id", "name") == [("1", "x"), ("2", "y")]


def test_ragged_csv_lines(project: Any) -> None:
    put(project, "a.csv", "id,name\n1\n2,x\n3,y,z\n")
    project.write(auto_loader("csv", header="true"))
    project.ok()
    assert project.rows("files", "id", "name") == [("1", None), ("2", "x"), ("3", "y")]
    [text] = [text for text in project.rows("files", "_rescued_data") if text]
    assert json.loads(text)["_c2"] == "z"


BROKEN = '{"id": 1}\n{"id": \n{"id": "x"}\n{"id": 4}\n'


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("PERMISSIVE", [(1, None), (4, None), (None, '{"id": "x"}'), (None, '{"id": ')]),
        ("DROPMALFORMED", [(1, None), (4, None)]),
    ],
)
def test_corrupt_records_by_mode(project: Any, mode: str, expected: list[Any]) -> None:
    put(project, "a.json", BROKEN)
    project.write(plain("json", "id BIGINT, _corrupt_record STRING", mode=mode))
    project.ok()
    assert project.rows("files", "id", "_corrupt_record") == sorted(expected, key=str)


def test_a_corrupt_record_fails_fast_if_asked(project: Any) -> None:
    put(project, "a.json", BROKEN)
    project.write(plain("json", "id BIGINT", mode="FAILFAST"))
    error = failure(project)
    assert error.condition == "MALFORMED_RECORD_IN_PARSING"
    assert "record 2 of" in error.message


def test_a_corrupt_record_is_rescued_by_auto_loader(project: Any) -> None:
    put(project, "a.json", BROKEN)
    project.write(auto_loader(schemaHints="id BIGINT"))
    project.ok()
    rescued = [json.loads(text) for text in project.rows("files", "_rescued_data") if text]
    assert sorted(str(row.get("_corrupt_record") or row.get("id")) for row in rescued) == ["x", '{"id": ']


def test_a_torn_file_is_an_error_unless_ignored(project: Any) -> None:
    put(project, "a.parquet", b"")
    pq.write_table(pa.table({"id": [1]}), str(folder(project) / "b.parquet"))
    project.write(auto_loader("parquet", schema="id BIGINT"))
    assert failure(project).condition == "FAILED_READ_FILE.NO_HINT"
    project.write(auto_loader("parquet", schema="id BIGINT", ignoreCorruptFiles="true"))
    project.ok()
    assert project.rows("files", "id") == [1]


def test_a_batch_too_big_for_the_plan_goes_through_a_file(project: Any) -> None:
    rows = [{"id": number, "text": "x" * 200} for number in range(30_000)]
    put(project, "a.json", rows)
    project.write(auto_loader(inferColumnTypes="true", query=".select('id', '_metadata.file_name')"))
    project.ok()
    assert project.rows("files", "id")[-1] == 9999
    assert len(project.rows("files", "file_name")) == 30_000
    assert not list(project.root.glob("data/_checkpoints/**/rows.parquet"))


# -- SQL and tables -----------------------------------------------------------------------------------------------


@pytest.mark.feature("Files as streams")
def test_sql_read_files_as_a_stream(project: Any) -> None:
    put(project, "a.csv", "id;n\n1;2\n")
    project.write(
        "CREATE OR REFRESH STREAMING TABLE files AS SELECT id, n FROM STREAM read_files("
        f"'{FOLDER}', format => 'csv', header => true, sep => ';', inferColumnTypes => true)",
        file="files.sql",
    )
    project.ok()
    put(project, "b.csv", "id;n\n3;4\n")
    project.ok()
    assert project.rows("files", "id", "n") == [(1, 2), (3, 4)]


def test_broken_rows_of_files_that_are_read_as_a_table(project: Any) -> None:
    put(project, "a.json", BROKEN)
    project.write(
        "@dp.materialized_view\ndef files():\n    return spark.read.schema('id BIGINT, _corrupt_record STRING')"
        f".option('mode', 'PERMISSIVE').json('{FOLDER}')\n"
    )
    project.ok()
    assert len(project.rows("files", "id")) == 4
    put(project, "b.json", [{"id": 5}])
    project.ok()
    assert [row for row in project.rows("files", "id") if row] == [1, 4, 5]


# -- refused ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "condition", "says", "hint"),
    [
        (auto_loader(maxFilePerTrigger="1"), "UNKNOWN_OPTION", "maxfilepertrigger", "cloudFiles.maxFilesPerTrigger"),
        (auto_loader(typo="1"), "UNKNOWN_OPTION", "typo", "remove it"),
        (plain("csv", "id INT", headr="true"), "UNKNOWN_OPTION", "headr", "header"),
        (auto_loader(maxFilesPerTrigger="0"), "INVALID_OPTION", "`0`", "positive"),
        (auto_loader(schemaEvolutionMode="addColumns"), "INVALID_OPTION", "addColumns", "addNewColumns"),
        (auto_loader(mode="PERMISIVE"), "INVALID_OPTION", "PERMISIVE", "PERMISSIVE"),
        (auto_loader(cleanSource="DELETE"), "UNSUPPORTED_OPTION", "cleanSource", "yourself"),
        (auto_loader(schema="id INT", schemaEvolutionMode="addNewColumns"), "INVALID_OPTION", "schema", "rescue"),
        (auto_loader(schemaHints="id BIGINTT"), "INVALID_SCHEMA", "id BIGINTT", "BIGINT"),
        (auto_loader("xml"), "UNSUPPORTED_SOURCE", "xml", "Parquet"),
        (auto_loader("jsn"), "UNSUPPORTED_SOURCE", "jsn", "json"),
        (auto_loader(path="/Volumes/main/raw/landing/filez"), "PATH_NOT_FOUND", "filez", "files"),
        (auto_loader(path=FOLDER + "/empty"), "CF_EMPTY_DIR_FOR_SCHEMA_INFERENCE", "no file", "schema"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_runs(
    project: Any, source: str, condition: str, says: str, hint: str
) -> None:
    put(project, "a.json", [{"id": 1}])
    (folder(project) / "empty").mkdir()
    project.write(source)
    error = failure(project)
    assert error.condition == condition
    assert says.lower() in f"{error.message} {error.cause}".lower()
    assert hint in error.hint
    assert error.origin.line


def test_options_of_the_cloud_are_accepted(project: Any) -> None:
    put(project, "a.json", [{"id": 1}])
    project.write(
        auto_loader(useNotifications="true", schemaLocation="/x", backfillInterval="1 day", maxFileAge="9 days")
    )
    project.ok()
    project.write(auto_loader(typo="1", validateOptions="false"))
    project.ok()
    assert project.rows("files", "id") == ["1"]
