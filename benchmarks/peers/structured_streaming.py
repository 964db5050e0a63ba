"""Apache Spark, written by hand: Structured Streaming with `foreachBatch`, Delta Lake tables, MERGE for the histories.

One warm session on all cores; the dimensions run side by side, then the facts, then the aggregates, so that a sale meets
the dimension rows that landed before it. `availableNow` queries keep that order; permanently running ones would not.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import protocol
import specification as spec
from pyspark.sql import DataFrame, SparkSession

DELTA = "io.delta:delta-spark_4.2_2.13:4.4.0"
LAST = "last_value({}, true)"


def session() -> SparkSession:
    settings = {
        "spark.jars.packages": DELTA,
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.shuffle.partitions": "2",
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.driver.memory": "4g",
        "spark.ui.enabled": "false",
        "spark.log.level": "ERROR",
    }
    builder = SparkSession.builder.master("local[*]").appName("peer")
    for key, value in settings.items():
        builder = builder.config(key, value)
    return builder.getOrCreate()


class Streaming:
    """All tables, one `availableNow` run of each query a step."""

    def __init__(self, landing: Path, out: Path) -> None:
        self._landing = landing
        self._out = out
        self._spark = session()
        self._rules: protocol.Rules = {}

    def step(self) -> protocol.Rules:
        """Bring every table up to date with what has landed."""
        self._rules = {}
        with ThreadPoolExecutor(3) as pool:
            list(pool.map(self._run, [name for name in spec.STREAMS if name != "sales"]))
        self._run("sales")
        if (self._out / "denormalized_sales_facts").exists():
            with ThreadPoolExecutor(3) as pool:
                list(pool.map(self._aggregate, spec.gold(self._name("denormalized_sales_facts")).items()))
        return self._rules

    def _run(self, name: str) -> None:
        folder = self._landing / spec.STREAMS[name]
        if not folder.exists():
            return
        rows = self._spark.readStream.format("delta").load(str(folder))
        rows = rows.selectExpr(
            *[f"CAST({column} AS {kind}) AS {column}" for column, kind in spec.columns(name)],
            "current_timestamp() AS ingest_timestamp",
            "input_file_name() AS source_file_path",
        )
        write = self._facts if name == "sales" else lambda batch, number: self._dimension(name, batch, number)
        query = rows.writeStream.foreachBatch(write).option("checkpointLocation", str(self._out / "checkpoints" / name))
        query.trigger(availableNow=True).start().awaitTermination()

    def _bronze(self, name: str, batch: DataFrame, number: int) -> DataFrame:
        batch.persist()
        (broken,) = batch.selectExpr(f"count_if(NOT ({spec.all_of(spec.MUST[name])}))").first()
        if broken:
            raise RuntimeError(f"bronze_{name}: {broken} rows without an id")
        self._append(f"bronze_{name}", batch, number)
        return batch

    def _dimension(self, name: str, batch: DataFrame, number: int) -> None:
        spark, key = batch.sparkSession, spec.KEYS[name]
        arrived = self._bronze(name, batch, number)
        if name == "stores":
            manager = "coalesce(manager, 'Unknown') AS manager"
            arrived = arrived.selectExpr(*[manager if column == "manager" else column for column in arrived.columns])
        self._count(f"{name}_cleaned_stream", arrived, spec.rules_of(name))
        cleaned = arrived.where(spec.all_of(spec.DROP[name])).drop("ingest_timestamp", "source_file_path")
        self._append(f"events_{name}", cleaned, number)
        keys = cleaned.select(key).distinct()
        events = spark.read.format("delta").load(str(self._out / f"events_{name}"))
        events.join(keys, key, "left_semi").createOrReplaceTempView(f"touched_{name}")
        now = spark.sql(spec.history(name, f"touched_{name}", last=LAST)).persist()
        target = self._out / f"silver_{name}"
        if not target.exists():
            now.write.format("delta").save(str(target))
        else:
            before = spark.read.format("delta").load(str(target)).join(keys, key, "left_semi")
            now.createOrReplaceTempView(f"now_{name}")
            before.createOrReplaceTempView(f"before_{name}")
            spark.sql(
                f"SELECT *, 'U' AS op FROM (SELECT * FROM now_{name} EXCEPT SELECT * FROM before_{name}) UNION ALL "
                f"SELECT b.*, 'D' FROM before_{name} b LEFT ANTI JOIN now_{name} n "
                f"ON b.{key} = n.{key} AND b.__START_AT = n.__START_AT"
            ).createOrReplaceTempView(f"changes_{name}")
            columns = now.columns
            spark.sql(
                f"MERGE INTO {self._name(f'silver_{name}')} t USING changes_{name} s "
                f"ON t.{key} = s.{key} AND t.__START_AT = s.__START_AT WHEN MATCHED AND s.op = 'D' THEN DELETE "
                f"WHEN MATCHED THEN UPDATE SET {', '.join(f'{c} = s.{c}' for c in columns)} "
                f"WHEN NOT MATCHED AND s.op = 'U' THEN INSERT ({', '.join(columns)}) "
                f"VALUES ({', '.join(f's.{c}' for c in columns)})"
            )
        now.unpersist()
        batch.unpersist()

    def _facts(self, batch: DataFrame, number: int) -> None:
        spark = batch.sparkSession
        arrived = self._bronze("sales", batch, number).selectExpr("*", "CAST(event_time AS DATE) AS date")
        self._count("sales_cleaned_stream", arrived, spec.rules_of("sales"))
        kept = spec.all_of(spec.FACT_DROP)
        for table, sign in (("silver_sales_transactions", ">"), ("silver_returns_transactions", "<")):
            self._count(table, arrived.where(f"quantity {sign} 0"), spec.FACT_DROP)
        sold = arrived.where(f"quantity > 0 AND {kept}")
        self._append("silver_sales_transactions", sold, number)
        returned = arrived.where(f"quantity < 0 AND {kept}").selectExpr("*", *spec.RETURNED.split(", "))
        self._append("silver_returns_transactions", returned.drop("quantity", "total_amount"), number)
        sold.createOrReplaceTempView("sold")
        current = f"(SELECT * FROM delta.`{self._out}/silver_{{}}` WHERE __END_AT IS NULL)"
        self._append("denormalized_sales_facts", spark.sql(spec.denormalized("sold", current)), number)
        batch.unpersist()

    def _aggregate(self, item: tuple[str, str]) -> None:
        table, query = item
        rows = self._spark.sql(query).write.format("delta").mode("overwrite").option("overwriteSchema", "true")
        rows.save(str(self._out / table))

    def _append(self, table: str, rows: DataFrame, number: int) -> None:
        """Append exactly once: Delta skips a batch number that the table has already."""
        writer = rows.write.format("delta").mode("append").option("txnAppId", table).option("txnVersion", number)
        writer.save(str(self._out / table))

    def _count(self, name: str, rows: DataFrame, checks: dict[str, str]) -> None:
        found = rows.selectExpr("count(*)", *[f"count_if({rule})" for rule in checks.values()]).first()
        self._rules[name] = dict(zip(["num_rows", *checks], found, strict=True))

    def _name(self, table: str) -> str:
        return f"delta.`{self._out / table}`"


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    out.mkdir(parents=True, exist_ok=True)
    return Streaming(landing, out).step


if __name__ == "__main__":
    protocol.serve(make)
