"""Apache Spark Declarative Pipelines: `spark-pipelines run`, once a step, against a Spark Connect server that stays up.

That is its fastest local setting: a run in a JVM of its own takes twenty seconds longer. Tables are Iceberg, the format with
row-level operations that Spark's AUTO CDC can write to. The landing zone is read as Parquet files, since no Delta Lake is
built for this Spark; its tables only grow, so that gives the same rows. What it cannot say: rules that are counted (they are
filters here, and `assert_true`), and updates whose NULLs are ignored.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import protocol
import pyspark
import specification as spec
from pyspark.sql import SparkSession

ICEBERG = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0"
CATALOG_SOURCE = Path(__file__).resolve().parents[2] / "tests" / "spark" / "FolderCatalog.java"
SPARK_HOME = Path(pyspark.__file__).parent
BIN = Path(sys.executable).parent
START_SECONDS = 120
SPEC = """
name: apparel
catalog: ice
database: default
storage: {storage}
libraries:
  - glob: {{include: transformations/**}}
"""


def transformations(landing: Path) -> str:
    """Return the pipeline's source file."""
    parts = ["from pyspark import pipelines as dp", "from pyspark.sql import functions as F"]
    for name, folder in spec.STREAMS.items():
        schema = spec.COLUMNS[name]
        first = spec.columns(name)[0][0]
        (must,) = spec.MUST[name].values()
        casts = [f"CAST({column} AS {kind}) AS {column}" for column, kind in spec.columns(name)]
        added = ["current_timestamp() AS ingest_timestamp", "_metadata.file_path AS source_file_path"]
        parts.append(
            f"""
@dp.table(name="bronze_{name}", format="iceberg")
def bronze_{name}():
    rows = spark.readStream.schema({schema!r}).parquet({str(landing / folder)!r})
    return rows.selectExpr(*{casts + added!r}).where("assert_true({must}, 'bronze_{name}: a row without {first}') IS NULL")
"""
        )
        more = {"stores": "manager", "sales": "date"}.get(name)
        changed = {
            "manager": '.withColumn("manager", F.expr("coalesce(manager, \'Unknown\')"))',
            "date": '.withColumn("date", F.col("event_time").cast("date"))',
            None: "",
        }[more]
        parts.append(
            f"""
@dp.temporary_view(name="{name}_cleaned_stream")
def {name}_cleaned_stream():
    return spark.readStream.table("bronze_{name}"){changed}.where({spec.all_of(spec.DROP[name])!r})
"""
        )
    for name, key in spec.KEYS.items():
        parts.append(
            f"""
dp.create_streaming_table("silver_{name}", format="iceberg")
dp.create_auto_cdc_flow(
    target="silver_{name}", source="{name}_cleaned_stream", keys=["{key}"], sequence_by=F.col("last_update_time"),
    except_column_list=["last_update_time", "ingest_timestamp", "source_file_path"], stored_as_scd_type=2,
    track_history_column_list={list(spec.TRACKED[name])!r}, name="silver_{name}",
)

@dp.temporary_view(name="silver_{name}_current")
def silver_{name}_current():
    return spark.read.table("silver_{name}").where("__END_AT IS NULL")
"""
        )
    kept = spec.all_of(spec.FACT_DROP)
    returned = spec.RETURNED.split(", ")
    # `drop` would be analysed while the file loads, when no dataset is known yet.
    stay = [column for column, _ in spec.columns("sales") if column not in ("quantity", "total_amount")]
    stay += ["ingest_timestamp", "source_file_path", "date"]
    parts.append(
        f"""
@dp.table(name="silver_sales_transactions", format="iceberg")
def silver_sales_transactions():
    return spark.readStream.table("sales_cleaned_stream").where({"quantity > 0 AND " + kept!r})

@dp.table(name="silver_returns_transactions", format="iceberg")
def silver_returns_transactions():
    rows = spark.readStream.table("sales_cleaned_stream").where({"quantity < 0 AND " + kept!r})
    return rows.selectExpr(*{stay + returned!r})

@dp.table(name="denormalized_sales_facts", format="iceberg")
def denormalized_sales_facts():
    s = spark.readStream.table("silver_sales_transactions").alias("s")
    for name, key, short in (("stores", "store_id", "st"), ("customers", "customer_id", "c"), ("products", "product_id", "p")):
        current = spark.read.table(f"silver_{{name}}_current").alias(short)
        s = s.join(current, F.expr(f"{{short}}.{{key}} = s.{{key}}"), "left")
    return s.selectExpr(*{spec.FACT_COLUMNS!r})
"""
    )
    for table, query in spec.gold("denormalized_sales_facts").items():
        parts.append(
            f"""
@dp.materialized_view(name="{table}", format="iceberg")
def {table}():
    return spark.sql('''{query}''')
"""
        )
    return "\n".join(parts)


def iceberg() -> Path:
    """Return the jar of Iceberg, which Spark's own resolver downloads once, and make sure the catalog is compiled beside it."""
    cache = BIN.parent / "ivy"
    found = sorted((cache / "jars").glob("*iceberg-spark-runtime*.jar"))
    if not found:
        code = (
            "from pyspark.sql import SparkSession\n"
            f"SparkSession.builder.master('local[1]').config('spark.jars.packages', {ICEBERG!r})"
            f".config('spark.jars.ivy', {str(cache)!r}).config('spark.ui.enabled', 'false').getOrCreate().stop()"
        )
        subprocess.run([sys.executable, "-c", code], check=True, stdin=subprocess.DEVNULL, stdout=sys.stderr)
        (found,) = (sorted((cache / "jars").glob("*iceberg-spark-runtime*.jar")),)
    classes = cache / "classes"
    if not (classes / "FolderCatalog.class").exists():
        path = f"{SPARK_HOME}/jars/*{os.pathsep}{found[0]}"
        subprocess.run(["javac", "-nowarn", "-cp", path, "-d", classes, CATALOG_SOURCE], check=True, stdout=sys.stderr)
    return found[0]


class Pipelines:
    """The server, and a project beside it."""

    def __init__(self, landing: Path, out: Path) -> None:
        self._out, self._project = out, out / "project"
        (self._project / "transformations").mkdir(parents=True)
        (self._project / "spark-pipeline.yml").write_text(SPEC.format(storage=(out / "storage").as_uri()))
        (self._project / "transformations" / "apparel.py").write_text(transformations(landing))
        self._environment = {
            **os.environ,
            "SPARK_HOME": str(SPARK_HOME),
            "PYSPARK_PYTHON": sys.executable,
            "PATH": f"{BIN}{os.pathsep}{os.environ['PATH']}",
        }
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        jar = iceberg()
        settings = {
            "spark.connect.grpc.binding.port": port,
            "spark.sql.catalog.ice": "FolderCatalog",
            "spark.sql.catalog.ice.warehouse": out / "warehouse",
            "spark.sql.session.timeZone": "UTC",
            "spark.sql.shuffle.partitions": 2,
            "spark.driver.memory": "4g",
            "spark.ui.enabled": "false",
        }
        command = [
            SPARK_HOME / "bin" / "spark-submit",
            "--class",
            "org.apache.spark.sql.connect.service.SparkConnectServer",
        ]
        command += ["--master", "local[*]", "--driver-class-path", f"{jar.parents[1] / 'classes'}{os.pathsep}{jar}"]
        command += [text for name, value in settings.items() for text in ("--conf", f"{name}={value}")]
        log = (out / "server.log").open("w")
        # The harness speaks through standard input: no child may read from it.
        self._server = subprocess.Popen(
            [*command, "spark-internal"], env=self._environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log
        )
        self._url = f"sc://127.0.0.1:{port}"
        deadline = time.monotonic() + START_SECONDS
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if self._server.poll() is not None or time.monotonic() > deadline:
                raise SystemExit(f"Spark did not start:\n{(out / 'server.log').read_text()[-3000:]}")
            time.sleep(0.1)
        running.append(self)

    def step(self) -> protocol.Rules:
        """Run the pipeline once; it counts no rules."""
        command = [BIN / "spark-pipelines", "--remote", self._url, "run"]
        done = subprocess.run(
            command,
            cwd=self._project,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
        )
        output = done.stdout + done.stderr
        if done.returncode or "Run is COMPLETED" not in output:
            raise SystemExit(f"spark-pipelines failed:\n{output[-3000:]}")
        return {}

    def end(self) -> None:
        """Write the tables as Parquet files, for who compares them, and stop the server."""
        session = SparkSession.builder.remote(self._url).getOrCreate()
        try:
            for table in spec.TABLES:
                rows = session.table(f"ice.default.{table}").drop("__spark_autocdc_metadata")
                rows.write.parquet(str(self._out / table))
        finally:
            session.stop()  # or it asks a server that is gone for ten minutes
            self._server.terminate()
            self._server.wait()


running: list[Pipelines] = []


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    return Pipelines(landing, out).step


if __name__ == "__main__":
    protocol.serve(make, end=lambda: [each.end() for each in running].clear())
