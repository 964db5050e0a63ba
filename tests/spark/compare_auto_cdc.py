"""The same change rows through Apache Spark's own AUTO CDC and through ours; prints where the tables differ.

Not part of the test suite, since it needs Java, Spark and minutes: `make compare-spark-cdc`, which makes an environment with
`pyspark[pipelines]==4.3.0` and Iceberg, and gives its folder to this program.

AUTO CDC of Spark writes to tables that support row-level operations of data source V2. Delta Lake 4.4 does not (it has a
MERGE of its own), Iceberg does; `FolderCatalog.java` lets its tables load under Spark 4.3.
"""

from __future__ import annotations

import contextlib
import json
import os
import random
import socket
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.reference import scd

from lakelet.pipeline import Pipeline

SEED = 4
PLAIN, OPERATIONS, PAYLOADS = range(0, 300), range(1000, 1060), range(2000, 2060)
"""Keys without ties, with ties of an upsert and a delete, and with ties of upserts that differ."""
TARGETS = {"scd1": 1, "scd2": 2, "tracked": 2}
FILE = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F


@dp.temporary_view
def changes():
    columns = "id BIGINT, city STRING, name STRING, op STRING, seq BIGINT"
    return spark.readStream.schema(columns).json("{landing}")


def target(name, scd_type, **options):
    dp.create_streaming_table(name{format})
    dp.create_auto_cdc_flow(
        target=name, source="changes", keys=["id"], sequence_by=F.col("seq"), apply_as_deletes=F.expr("op = 'delete'"),
        except_column_list=["op", "seq"], stored_as_scd_type=scd_type, name=name + "_flow", **options
    )


target("scd1", 1)
target("scd2", 2)
target("tracked", 2, track_history_column_list=["name"])
"""
SPEC = "name: compare\nstorage: {storage}\ncatalog: {catalog}\ndatabase: default\nlibraries:\n  - glob: {{include: t.py}}\n"
READ = """
import json, sys
from pyspark.sql import SparkSession
spark = SparkSession.builder.remote(sys.argv[1]).getOrCreate()
print(json.dumps({t: [r.asDict() for r in spark.table(f"ice.default.{t}").drop("__spark_autocdc_metadata").collect()]
                  for t in sys.argv[2:]}))
"""
Row = dict[str, Any]


def batches(seed: int) -> list[list[Row]]:
    """Return change rows in three batches: late, repeated, with NULLs; every third key is deleted at times."""
    choose = random.Random(seed)
    rows: list[Row] = []
    for key in (*PLAIN, *OPERATIONS, *PAYLOADS):
        sequences = choose.sample(range(1, 30), choose.randint(1, 8))
        mine = [_change(choose, key, seq, "delete" if choose.random() < 0.2 else "upsert") for seq in sequences]
        if key in (*OPERATIONS, *PAYLOADS):
            mine[0]["op"] = "upsert"
            mine.append(_change(choose, key, sequences[0], "delete" if key in OPERATIONS else "upsert"))
        rows += [*mine, choose.choice(mine)]
    choose.shuffle(rows)
    third = len(rows) // 3
    return [rows[:third], rows[third : 2 * third], rows[2 * third :]]


def _change(choose: random.Random, key: int, seq: int, op: str) -> Row:
    city, name = choose.choice([None, "oslo", "rome"]), choose.choice([None, "ann", "bob"])
    return {"id": key, "city": city, "name": name, "op": op, "seq": seq}


def reference(rows: list[Row], target: str) -> set[tuple[Any, ...]]:
    events = [
        {
            "key": row["id"],
            "seq": row["seq"],
            "op": row["op"],
            "values": (row["city"], row["name"]) if row["op"] == "upsert" else (None, None),
        }
        for row in rows
    ]
    return scd.scd1(events) if target == "scd1" else scd.scd2(events, tracked=(1,) if target == "tracked" else (0, 1))


def as_rows(found: list[Row], target: str) -> set[tuple[Any, ...]]:
    names = ["id", "city", "name", *(["__START_AT", "__END_AT"] if TARGETS[target] == 2 else [])]
    return {tuple(row[name] for name in names) for row in found}


@contextlib.contextmanager
def spark_server(work: Path, python: Path, iceberg: Path) -> Iterator[tuple[str, dict[str, str]]]:
    """Run a Spark Connect server with an Iceberg catalog `ice`; yields its URL and the environment of its clients."""
    found = subprocess.run(
        [python, "-c", "import pyspark, os; print(os.path.dirname(pyspark.__file__))"],
        check=True, capture_output=True, text=True, env={k: v for k, v in os.environ.items() if k != "PYTHONPATH"},
    )  # fmt: skip
    home = found.stdout.strip()
    environment = {**os.environ, "SPARK_HOME": home, "PYSPARK_PYTHON": str(python)}
    environment["PATH"] = f"{python.parent}{os.pathsep}{environment['PATH']}"
    environment.pop("PYTHONPATH", None)
    classes = work / "classes"
    source = Path(__file__).with_name("FolderCatalog.java")
    path = f"{home}/jars/*{os.pathsep}{iceberg}"
    subprocess.run(["javac", "-nowarn", "-cp", path, "-d", classes, source], check=True, stderr=subprocess.DEVNULL)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    settings = {
        "spark.connect.grpc.binding.port": port,
        "spark.sql.catalog.ice": "FolderCatalog",
        "spark.sql.catalog.ice.warehouse": work / "warehouse",
        "spark.sql.shuffle.partitions": 2,
        "spark.ui.enabled": "false",
    }
    command = [f"{home}/bin/spark-submit", "--class", "org.apache.spark.sql.connect.service.SparkConnectServer"]
    command += ["--master", "local[2]", "--driver-class-path", f"{classes}{os.pathsep}{iceberg}"]
    command += [text for name, value in settings.items() for text in ("--conf", f"{name}={value}")]
    with (work / "server.log").open("w") as log:
        server = subprocess.Popen([*command, "spark-internal"], env=environment, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + 300
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Spark did not start:\n{(work / 'server.log').read_text()[-3000:]}")
            time.sleep(0.5)
        yield f"sc://127.0.0.1:{port}", environment
    finally:
        server.terminate()
        server.wait()


def by_spark(work: Path, given: list[list[Row]], python: Path, iceberg: Path) -> dict[str, list[Row]]:
    project, landing = work / "spark", work / "landing_spark"
    project.mkdir()
    landing.mkdir()
    spec = SPEC.format(storage=(work / "storage").as_uri(), catalog="ice").replace("t.py", "code/**")
    (project / "spark-pipeline.yml").write_text(spec)
    (project / "code").mkdir()
    (project / "code" / "t.py").write_text(FILE.format(landing=landing, format=', format="iceberg"'))
    with spark_server(work, python, iceberg) as (url, environment):
        for number, rows in enumerate(given):
            land(landing, number, rows)
            command = [python.parent / "spark-pipelines", "--remote", url, "run"]
            done = subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, check=False)
            if done.returncode or "Run is COMPLETED" not in done.stdout + done.stderr:
                raise SystemExit(f"Spark failed:\n{(done.stdout + done.stderr)[-3000:]}")
            print(f"Spark: batch {number + 1} of {len(given)}", flush=True)  # noqa: T201
        read = [python, "-c", READ, url, *TARGETS]
        found = subprocess.run(read, env=environment, capture_output=True, text=True, check=True)
    tables: dict[str, list[Row]] = json.loads(found.stdout.splitlines()[-1])
    return tables


def by_lakelet(work: Path, given: list[list[Row]]) -> dict[str, list[Row]]:
    project, landing = work / "lakelet", work / "landing_lakelet"
    project.mkdir()
    landing.mkdir()
    (project / "spark-pipeline.yml").write_text(SPEC.format(storage=work / "data", catalog="spark_catalog"))
    (project / "t.py").write_text(FILE.format(landing=landing, format=""))
    for number, rows in enumerate(given):
        land(landing, number, rows)
        result = Pipeline(project).run()
        if result.exit_code:
            raise SystemExit("\n".join(error.render() for error in result.errors))
    return {name: Pipeline(project).table(name).to_pylist() for name in TARGETS}


def land(folder: Path, number: int, rows: list[Row]) -> None:
    (folder / f"{number}.json").write_text("".join(json.dumps(row) + "\n" for row in rows))


def differing(one: set[tuple[Any, ...]], other: set[tuple[Any, ...]]) -> set[int]:
    return {row[0] for row in one ^ other}


def main() -> int:
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)  # noqa: T201
        return 2
    python, iceberg = (Path(sys.argv[1]) / name for name in ("bin/python", "iceberg.jar"))
    given = batches(SEED)
    rows = [row for batch in given for row in batch]
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        ours, theirs = by_lakelet(work, given), by_spark(work, given, python, iceberg)
    unexpected = 0
    for target in TARGETS:
        wanted = reference(rows, target)
        own, spark = as_rows(ours[target], target), as_rows(theirs[target], target)
        groups = {"no ties": PLAIN, "upsert and delete tie": OPERATIONS, "upserts tie": PAYLOADS}
        for label, keys in groups.items():
            mine = differing(own, wanted) & set(keys)
            apart = differing(own, spark) & set(keys)
            print(f"{target}, {label}: {len(keys)} keys, {len(apart)} differ from Spark, {len(mine)} from the rules")  # noqa: T201
            unexpected += len(mine) + (len(apart) if keys is PLAIN else 0)
            for key in sorted(apart)[:3]:
                show(key, rows, own, spark)
    return 1 if unexpected else 0


def show(key: int, rows: list[Row], own: set[tuple[Any, ...]], spark: set[tuple[Any, ...]]) -> None:
    found: dict[str, list[str]] = defaultdict(list)
    for row in sorted((row for row in rows if row["id"] == key), key=lambda row: row["seq"]):
        found["events"].append(f"{row['seq']} {row['op']} {row['city']} {row['name']}")
    for label, table in (("here", own), ("Spark", spark)):
        found[label] = [str(row[1:]) for row in sorted(table, key=str) if row[0] == key]
    for label, lines in found.items():
        print(f"    {key} {label}: {'; '.join(lines)}")  # noqa: T201


if __name__ == "__main__":
    sys.exit(main())
