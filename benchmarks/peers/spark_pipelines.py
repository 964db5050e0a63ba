"""Apache Spark's own declarative pipelines: `spark-pipelines run`, a new process for every update, as it works today.

Delta is the default table format, so that MERGE and consistent reads are there. What it cannot say is left out: rules have no
counts and a NULL id stops nothing. Histories are materialized views that are computed anew, since its AUTO CDC does not
ignore NULLs.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import protocol
import specification as spec
import structured_streaming

HERE = Path(__file__).resolve().parent

TRANSFORMATIONS = """
import sys
sys.path.insert(0, {here!r})
import specification as spec
from pyspark import pipelines as dp
from pyspark.sql import SparkSession, functions as F

spark = SparkSession.active()
LANDING = {landing!r}


def bronze(name, folder):
    @dp.table(name=f"bronze_{{name}}")
    def rows():
        landed = spark.readStream.format("delta").load(f"{{LANDING}}/{{folder}}")
        return landed.selectExpr(
            *[f"CAST({{column}} AS {{kind}}) AS {{column}}" for column, kind in spec.columns(name)],
            "current_timestamp() AS ingest_timestamp", "input_file_name() AS source_file_path",
        )


for name, folder in spec.STREAMS.items():
    bronze(name, folder)


@dp.table
def silver_sales_transactions():
    sales = spark.readStream.table("bronze_sales").selectExpr("*", "CAST(event_time AS DATE) AS date")
    return sales.where(f"quantity > 0 AND {{spec.all_of(spec.FACT_DROP)}}")


@dp.table
def silver_returns_transactions():
    sales = spark.readStream.table("bronze_sales").selectExpr("*", "CAST(event_time AS DATE) AS date")
    returned = sales.where(f"quantity < 0 AND {{spec.all_of(spec.FACT_DROP)}}")
    return returned.selectExpr("*", *spec.RETURNED.split(", ")).drop("quantity", "total_amount")


@dp.table
def denormalized_sales_facts():
    sales = spark.readStream.table("silver_sales_transactions")
    for name, shown in (("stores", ["name"]), ("customers", ["name"]), ("products", ["name", "category"])):
        key, one = spec.KEYS[name], name[:-1]
        current = spark.read.table(f"silver_{{name}}").where("__END_AT IS NULL")
        sales = sales.join(current.select(key, *[F.col(c).alias(f"{{one}}_{{c}}") for c in shown]), key, "left")
    return sales.select(
        "transaction_id", "event_time", "customer_id", "customer_name", "product_id", "product_name", "product_category",
        "store_id", "store_name", "quantity", "unit_price", "total_amount", "payment_method", "discount_applied",
        "tax_amount",
    )
"""


def _views() -> str:
    """Return the views as SQL: its Python functions may not ask for `spark.sql` over tables of the pipeline."""
    queries: dict[str, str] = {}
    for name in spec.KEYS:
        manager = "* EXCEPT (manager), coalesce(manager, 'Unknown') AS manager" if name == "stores" else "*"
        events = f"(SELECT {manager} FROM bronze_{name} WHERE {spec.all_of(spec.DROP[name])})"
        queries[f"silver_{name}"] = spec.history(name, events, last="last_value({}, true)")
    queries |= spec.gold("denormalized_sales_facts")
    return "".join(f"CREATE MATERIALIZED VIEW {table} AS {query};\n" for table, query in queries.items())


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    (out / "transformations").mkdir(parents=True)
    (out / "transformations" / "tables.py").write_text(TRANSFORMATIONS.format(here=str(HERE), landing=str(landing)))
    (out / "transformations" / "views.sql").write_text(_views())
    settings = {
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
    }
    text = ["name: peer", f"storage: file://{out}/state", "libraries:", "  - glob: {include: transformations/**}"]
    text += ["configuration:", *(f"  {key}: {json.dumps(value)}" for key, value in settings.items())]
    (out / "spark-pipeline.yml").write_text("\n".join(text))
    static = {
        "spark.jars.packages": structured_streaming.DELTA,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.sources.default": "delta",
        "spark.sql.catalogImplementation": "hive",
        "spark.sql.warehouse.dir": str(out / "warehouse"),
        "spark.driver.memory": "4g",
        "spark.ui.enabled": "false",
    }
    # Options of the command do not reach the sessions that it makes; its configuration file does.
    (out / "conf").mkdir()
    (out / "conf" / "spark-defaults.conf").write_text("".join(f"{key} {value}\n" for key, value in static.items()))
    command = [str(Path(sys.executable).parent / "spark-pipelines"), "run", "--spec", str(out / "spark-pipeline.yml")]
    environment = {**os.environ, "SPARK_CONF_DIR": str(out / "conf"), "SPARK_LOCAL_IP": "127.0.0.1"}

    def step() -> protocol.Rules:
        done = subprocess.run(command, cwd=out, capture_output=True, text=True, env=environment)
        (out / "log.txt").open("a").write(done.stdout + done.stderr)
        if done.returncode:
            raise SystemExit(done.stdout[-2000:] + done.stderr[-4000:])
        return {}

    return step


if __name__ == "__main__":
    protocol.serve(make)
