"""Files and reader options that Apache Spark and the runtime are both asked to read."""

from __future__ import annotations

import io
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import pyarrow as pa
import pyarrow.orc as orc
import pyarrow.parquet as pq


@dataclass(frozen=True, slots=True, kw_only=True)
class FileCase:
    """One read of files.

    Attributes:
        files: path below the folder to text or bytes.
        schema: declared columns; empty for a batch read that infers them.
        path: what is loaded, below the folder.
        modes: read as a stream, as a table, or both.
        differs: why the rows are not Spark's, for a difference that is documented.
    """

    id: str
    format: str
    files: Mapping[str, str | bytes]
    schema: str = ""
    options: Mapping[str, str] = field(default_factory=dict)
    path: str = ""
    modes: tuple[str, ...] = ("stream", "table")
    differs: str = ""


def parquet(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


def orc_bytes(rows: list[dict[str, Any]], schema: pa.Schema) -> bytes:
    buffer = io.BytesIO()
    orc.write_table(pa.Table.from_pylist(rows, schema=schema), buffer)
    return buffer.getvalue()


ID_NAME = pa.schema([("id", pa.int64()), ("name", pa.string())])
PEOPLE = "id BIGINT, name STRING"
FULL = "id INT, name STRING, score DOUBLE, born DATE, seen TIMESTAMP, ok BOOLEAN, price DECIMAL(8,2)"
FULL_CSV = (
    "1,Ann,1.5,2020-02-29,2024-01-02 03:04:05,true,12.30\n"
    "2,,,,,,\n"
    '3,"Cy, the third",-1e3,1999-12-31,2024-01-02T03:04:05.678Z,FALSE,-0.01\n'
)
BROKEN_CSV = "1,Ann\nx,Bob\n2\n3,Cy,more\n4,Dee\n"
FULL_JSON = (
    '{"id": 1, "name": "Ann", "score": 1.5, "born": "2020-02-29", "seen": "2024-01-02T03:04:05Z", "ok": true, "price": 12.3}\n'
    '{"id": 2}\n'
    '{"ok": false, "name": null, "seen": "2024-01-02 03:04:05.25", "extra": [1], "id": 3, "score": 4}\n'
)
BROKEN_JSON = (
    '{"id": 1, "name": "a"}\n{"id": "two", "name": "b"}\n{"id": 3, "name"\n{"id": 4, "name": "d"}\n[]\n\n"text"\n'
)
CORRUPT = "id BIGINT, name STRING, _corrupt_record STRING"


def csv(id: str, text: str, schema: str = PEOPLE, /, **given: Any) -> FileCase:
    options = {key: str(value) for key, value in given.pop("options", {}).items()}
    return FileCase(id=f"csv {id}", format="csv", files={"a.csv": text}, schema=schema, options=options, **given)


def json(id: str, text: str, schema: str = PEOPLE, /, **given: Any) -> FileCase:
    options = {key: str(value) for key, value in given.pop("options", {}).items()}
    return FileCase(id=f"json {id}", format="json", files={"a.json": text}, schema=schema, options=options, **given)


TABLE = {"modes": ("table",)}
DOUBLED = "two quotes inside of quotes are one quote; Spark needs the option `escape` for that"
CSV = [
    csv("types", FULL_CSV, FULL),
    csv("doubled quotes", '1,"a""b"\n2,""""\n3,"c, ""d"""\n', differs=DOUBLED),
    csv("header", "id,name\n1,a\n2,b\n", options={"header": "true"}),
    csv("header false", "id,name\n1,a\n"),
    csv("header in another order", "name,id\na,1\n", options={"header": "true"}),
    csv("header enforceSchema false", "id,name\n1,a\n", options={"header": "true", "enforceSchema": "false"}),
    csv("sep", "1;a\n2;b;c\n", options={"sep": ";"}),
    csv("tab", "1\ta\n2\tb c\n", options={"sep": "\\t"}),
    csv("delimiter", "1|a\n", options={"delimiter": "|"}),
    csv("quote", "1,'a,b'\n2,'it''s'\n", options={"quote": "'", "escape": "'"}),
    csv("quote off", '1,"a"\n2,b"c\n', options={"quote": ""}),
    csv("escape default", '1,"a\\"b"\n2,"c\\\\d"\n'),
    csv("dateFormat and single digits", "1/2/2024\n01/02/2024\n", "d DATE", options={"dateFormat": "dd/MM/yyyy"}),
    csv("timestampFormat of twelve hours", "1/2/2024 1:05 PM\n", "t TIMESTAMP", options={"timestampFormat": "d/M/yyyy h:mm a"}),
    csv("escape quote", '1,"a""b"\n', options={"escape": '"'}),
    csv("multiLine", '1,"a\nb"\n2,c\n', options={"multiLine": "true"}),
    csv("multiLine with header", 'id,name\n1,"a\n\nb"\n2,\n', options={"multiLine": "true", "header": "true"}),
    csv("nullValue", "1,NA\nNA,b\n2,\n", options={"nullValue": "NA"}),
    csv("emptyValue", '1,""\n2,\n', options={"emptyValue": "-"}),
    csv("empty and quoted empty", '1,""\n2,\n,x\n'),
    csv("white space kept", "1, a \n2,b\n"),
    csv(
        "white space ignored",
        "1, a \n 2 ,b\n",
        options={"ignoreLeadingWhiteSpace": "true", "ignoreTrailingWhiteSpace": "true"},
    ),
    csv("white space around numbers", " 1 ,a\n2,b\n"),
    csv("comment", "#1,a\n2,b\n3,#c\n", options={"comment": "#"}),
    csv("blank lines", "1,a\n\n   \n2,b\n\n"),
    csv("windows line ends", "1,a\r\n2,b\r\n"),
    csv("no line end at the end", "1,a\n2,b"),
    csv("empty file", ""),
    csv("only a header", "id,name\n", options={"header": "true"}),
    csv("byte order mark", "\ufeffid,name\n1,a\n", options={"header": "true"}),
    csv("permissive", BROKEN_CSV),
    csv("permissive with record", BROKEN_CSV, CORRUPT),
    csv(
        "permissive with named record",
        BROKEN_CSV,
        "id BIGINT, name STRING, bad STRING",
        options={"columnNameOfCorruptRecord": "bad"},
    ),
    csv("drop malformed", BROKEN_CSV, options={"mode": "DROPMALFORMED"}),
    csv("fail fast", BROKEN_CSV, options={"mode": "FAILFAST"}),
    csv("fail fast without a broken record", "1,a\n", options={"mode": "FAILFAST"}),
    csv("dateFormat", "31/12/2024\n2024-12-31\n", "d DATE", options={"dateFormat": "dd/MM/yyyy"}),
    csv("dateFormat with names", "31 Dec 2024\n1 May 2024\n", "d DATE", options={"dateFormat": "d MMM yyyy"}),
    csv(
        "timestampFormat",
        "31/12/2024 10:20\n01/02/2024 03:04\n",
        "t TIMESTAMP",
        options={"timestampFormat": "dd/MM/yyyy HH:mm"},
    ),
    csv(
        "timestampFormat with zone",
        "2024-12-31T10:20:30+0200\n",
        "t TIMESTAMP",
        options={"timestampFormat": "yyyy-MM-dd'T'HH:mm:ssZ"},
    ),
    csv("timestamps without a format", "2024-12-31\n2024-12-31 10:20\n2024-12-31T10:20:30.123456+02:00\n", "t TIMESTAMP"),
    csv("numbers out of range", "300\n-129\n12\n", "n TINYINT"),
    csv("numbers with a fraction", "1.5\n2\n", "n INT"),
    csv("special doubles", "NaN\nInf\n-Inf\n1e400\n", "n DOUBLE"),
    csv("decimals", "1.005\n123456.7\n1e2\n", "n DECIMAL(6,2)"),
    csv("booleans", "true\nTRUE\nFalse\nt\n1\nyes\n", "b BOOLEAN"),
    csv("binary", "abc\n", "b BINARY"),
    csv("inferSchema", "id,n,d,t\n1,1.5,2024-01-01,2024-01-01 00:00:00\n2,x,,\n", "",
        options={"header": "true", "inferSchema": "true"}, **TABLE),
    csv("inferred as text", "1,a\n2,b\n", "", **TABLE),
]  # fmt: skip
JSON = [
    json("types", FULL_JSON, FULL),
    json("multiLine array", '[{"id": 1, "name": "a"},\n {"id": 2}]', options={"multiLine": "true"}),
    json("multiLine object", '{"id": 1,\n "name": "a"}\n', options={"multiLine": "true"}),
    json("array on a line", '[{"id": 1}, {"id": 2}]\n{"id": 3}\n'),
    json("permissive", BROKEN_JSON),
    json("permissive with record", BROKEN_JSON, CORRUPT),
    json(
        "permissive with named record",
        BROKEN_JSON,
        "id BIGINT, bad STRING",
        options={"columnNameOfCorruptRecord": "bad"},
    ),
    json("drop malformed", BROKEN_JSON, options={"mode": "DROPMALFORMED"}),
    json("fail fast", BROKEN_JSON, options={"mode": "FAILFAST"}),
    json("nested", '{"a": {"b": 1, "c": [1, 2]}, "m": {"x": 1}}\n{"a": {}}\n{"a": null, "m": {}}\n',
         "a STRUCT<b: INT, c: ARRAY<INT>>, m MAP<STRING, INT>"),
    json("nested as text", '{"name": {"b": 1, "c": [1, 2.50]}}\n{"name": [1, "x"]}\n{"name": 1.50}\n{"name": true}\n'),
    json("broken inside of a struct", '{"a": {"b": "x", "c": 1}, "id": 1}\n', "a STRUCT<b: INT, c: INT>, id INT"),
    json("broken inside of an array", '{"a": [1, "x", 3], "id": 1}\n', "a ARRAY<INT>, id INT"),
    json("broken inside of an array of structs", '{"a": [{"b": "x", "c": 1}]}\n', "a ARRAY<STRUCT<b: INT, c: INT>>"),
    json("broken inside of a map", '{"a": {"x": 1, "y": "z"}, "id": 1}\n', "a MAP<STRING, INT>, id INT"),
    json("struct with record", '{"a": {"b": "x", "c": 1}, "id": 1}\n', "a STRUCT<b: INT, c: INT>, _corrupt_record STRING"),
    json("numbers as text", '{"id": "7", "name": 1.0}\n{"id": 7.0}\n{"id": 7.5}\n{"id": 12345678901234567890}\n'),
    json("dateFormat", '{"d": "31/12/2024"}\n{"d": "x"}\n', "d DATE", options={"dateFormat": "dd/MM/yyyy"}),
    json("timestampFormat", '{"t": "31/12/2024 10:20"}\n', "t TIMESTAMP",
         options={"timestampFormat": "dd/MM/yyyy HH:mm"}),
    json("timestamps", '{"t": "2024-01-02"}\n{"t": "2024-01-02T03:04:05+01:00"}\n{"t": 0}\n', "t TIMESTAMP"),
    json("special doubles", '{"n": "NaN"}\n{"n": "Infinity"}\n{"n": "-INF"}\n{"n": 1e5}\n', "n DOUBLE"),
    json("case of names", '{"ID": 1, "Name": "a"}\n{"id": 2, "name": "b"}\n'),
    json("a field twice", '{"id": 1, "id": 2}\n'),
    json("escapes", '{"name": "a\\u00e9\\n\\"b\\""}\n'),
    json("blank lines", '{"id": 1}\n\n  \n{"id": 2}\n'),
    json("primitivesAsString", '{"id": 1, "x": true}\n', "", options={"primitivesAsString": "true"}, **TABLE),
    json("inferred", '{"id": 1, "x": 1.5, "s": {"a": [1]}}\n{"id": 2, "x": 2, "z": "t"}\n', "", **TABLE),
    json("empty file", ""),
]  # fmt: skip
ONE, TWO, THREE = ({"id": n, "name": name} for n, name in ((1, "a"), (2, "b"), (3, None)))
OTHERS = [
    FileCase(id="parquet", format="parquet", files={"a.parquet": parquet([ONE, THREE], ID_NAME)}, schema=PEOPLE),
    FileCase(
        id="parquet column missing in a file",
        format="parquet",
        files={
            "a.parquet": parquet([{"id": 1}], pa.schema([("id", pa.int64())])),
            "b.parquet": parquet([TWO], ID_NAME),
        },
        schema=PEOPLE,
    ),
    FileCase(
        id="parquet mergeSchema",
        format="parquet",
        files={
            "a.parquet": parquet([{"id": 1}], pa.schema([("id", pa.int64())])),
            "b.parquet": parquet([{"id": 2, "z": 1.5}], pa.schema([("id", pa.int64()), ("z", pa.float64())])),
        },
        options={"mergeSchema": "true"},
        modes=("table",),
    ),
    FileCase(
        id="parquet narrower integer",
        format="parquet",
        files={"a.parquet": parquet([{"id": 1}], pa.schema([("id", pa.int32())]))},
        schema="id BIGINT",
    ),
    FileCase(
        id="parquet partitions",
        format="parquet",
        files={
            "day=2024-01-02/shop=1/a.parquet": parquet([ONE], ID_NAME),
            "day=2024-01-03/shop=__HIVE_DEFAULT_PARTITION__/b.parquet": parquet([TWO], ID_NAME),
        },
        schema=f"{PEOPLE}, day DATE, shop INT",
    ),
    FileCase(
        id="parquet partitions inferred",
        format="parquet",
        files={
            "n=1/s=a/a.parquet": parquet([ONE], ID_NAME),
            "n=2/s=b%20c/b.parquet": parquet([TWO], ID_NAME),
        },
        modes=("table",),
    ),
    FileCase(id="orc", format="orc", files={"a.orc": orc_bytes([ONE, THREE], ID_NAME)}, schema=PEOPLE),
    FileCase(id="text", format="text", files={"a.txt": "a\n\nb c\r\nd"}),
    FileCase(id="text wholeText", format="text", files={"a.txt": "a\nb\n"}, options={"wholeText": "true"}),
    FileCase(
        id="text lineSep",
        format="text",
        files={"a.txt": "a;b\nc;"},
        options={"lineSep": ";"},
        differs="`lineSep` is refused",
    ),
    FileCase(id="binaryFile", format="binaryFile", files={"a.bin": b"\x00\x01", "b.bin": b"\x02"}, modes=("table",)),
    FileCase(
        id="binaryFile of no bytes",
        format="binaryFile",
        files={"a.bin": b"\x00\x01", "b.bin": b""},
        modes=("table",),
        differs="a file of no bytes is a row; Spark leaves it out",
    ),
    FileCase(
        id="pathGlobFilter",
        format="json",
        files={"a.json": '{"id": 1}', "b.txt": '{"id": 2}', "c.json": '{"id": 3}'},
        schema="id INT",
        options={"pathGlobFilter": "*.json"},
    ),
    FileCase(
        id="folders below",
        format="json",
        files={"a.json": '{"id": 1}', "sub/b.json": '{"id": 2}'},
        schema="id INT",
    ),
    FileCase(
        id="recursiveFileLookup",
        format="json",
        files={"a.json": '{"id": 1}', "x=1/b.json": '{"id": 2}', "sub/deep/c.json": '{"id": 3}'},
        schema="id INT",
        options={"recursiveFileLookup": "true"},
    ),
    FileCase(
        id="hidden files",
        format="json",
        files={"a.json": '{"id": 1}', "_b.json": '{"id": 2}', ".c.json": '{"id": 3}'},
        schema="id INT",
    ),
    FileCase(
        id="glob",
        format="json",
        files={"d1/a.json": '{"id": 1}', "d2/b.json": '{"id": 2}', "e1/c.json": '{"id": 3}'},
        schema="id INT",
        path="d*",
    ),
    FileCase(
        id="glob with braces",
        format="json",
        files={"d1/a.json": '{"id": 1}', "d2/b.json": '{"id": 2}', "e1/c.json": '{"id": 3}'},
        schema="id INT",
        path="{d1,e1}/*.json",
    ),
    FileCase(
        id="modifiedBefore",
        format="json",
        files={"a.json": '{"id": 1}'},
        schema="id INT",
        options={"modifiedBefore": "2020-01-01T00:00:00"},
        modes=("table",),
    ),
]
CASES = [*CSV, *JSON, *OTHERS]
