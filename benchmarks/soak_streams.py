"""Streams with state as the subject of a soak: files in, operators with watermarks, sinks.

JSON files come through `cloudFiles`; their rows are deduplicated within the watermark, and without one, aggregated by window,
joined with each other (left outer), and written to a Delta table, to files and to a function outside of the pipeline. What is
in a file follows from its number. No row comes later than the watermark waits for, but for those that come ten hours late: so
the result does not depend on how the rows were cut into micro-batches, and DuckDB computes it from the landed files alone.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from deltalake import DeltaTable
from tests.reference.apparel_oracle import reported

from benchmarks.soak_kills import flow_metrics, run_update, wrong_counts
from lakelet import Pipeline

SPEC = "name: streams\nstorage: storage\nlibraries:\n  - glob: {include: transformations/**}\n"
TABLES = """
import os
from pathlib import Path
from pyspark import pipelines as dp
from pyspark.sql import functions as F

OUTSIDE = Path("{outside}")

@dp.table
@dp.expect_or_drop("has_id", "id IS NOT NULL")
def arrived():
    return (
        spark.readStream.format("cloudFiles")
        .option("cloudFiles.format", "json").option("cloudFiles.maxFilesPerTrigger", "7")
        .schema("id LONG, kind STRING, key LONG, at TIMESTAMP, amount LONG")
        .load("/Volumes/main/raw/incoming")
    )

@dp.table
def keys():
    return spark.readStream.table("arrived").select("kind", "key").dropDuplicates(["kind", "key"])

@dp.table
def firsts():
    return spark.readStream.table("arrived").withWatermark("at", "10 minutes").dropDuplicatesWithinWatermark(["id"])

@dp.table
def minutes():
    rows = spark.readStream.table("firsts").withWatermark("at", "10 minutes")
    groups = rows.groupBy(F.window("at", "1 minute"), "kind")
    sums = groups.agg(F.count("*").alias("n"), F.sum("amount").alias("amount"), F.max("id").alias("newest"))
    return sums.select(F.col("window.start").alias("minute"), "kind", "n", "amount", "newest")

@dp.table
def paid():
    orders = spark.readStream.table("firsts").filter("kind = 'order'").withWatermark("at", "10 minutes").alias("o")
    payments = spark.readStream.table("firsts").filter("kind = 'payment'").withWatermark("at", "10 minutes").alias("p")
    return orders.join(
        payments, F.expr("o.key = p.key AND p.at BETWEEN o.at AND o.at + INTERVAL 8 MINUTES"), "left"
    ).select(F.col("o.id").alias("order"), F.col("p.id").alias("payment"), F.col("p.amount").alias("amount"))

@dp.materialized_view
def totals():
    return spark.read.table("firsts").groupBy("kind").agg(F.count("*").alias("n"), F.sum("amount").alias("amount"))

dp.create_sink("outbox", "delta", {{"path": str(OUTSIDE / "outbox")}})

@dp.append_flow(target="outbox")
def to_outbox():
    return spark.readStream.table("firsts")

dp.create_sink("lines", "json", {{"path": str(OUTSIDE / "lines")}})

@dp.append_flow(target="lines")
def to_lines():
    return spark.readStream.table("firsts")

@dp.foreach_batch_sink(name="calls")
def calls(rows, batch_id):
    name = OUTSIDE / "calls" / str(batch_id)
    rows.toPandas().to_json(name.with_suffix(".part"), orient="records", lines=True, date_format="iso")
    os.replace(name.with_suffix(".part"), name.with_suffix(".json"))

@dp.append_flow(target="calls")
def to_calls():
    return spark.readStream.table("firsts")
"""
CONFIGURATION = {
    "lakelet.views.recomputeRows": "0",
    "pipelines.trigger.interval": "50 milliseconds",
    "lakelet.maintenance.interval": "3 seconds",
}
START = datetime(2026, 1, 1, tzinfo=UTC)
FILE_TIME = timedelta(seconds=30)
"""So much event time goes by from file to file."""
DISORDER_SECONDS = 180
LATE = timedelta(hours=10)
FIRST_FILES = 5
"""These are processed before the first kill, so that there is a watermark."""
LAST_FILE = 10**9
"""One row of each kind a day later closes all windows, and decides which order is not paid any more."""

Row = dict[str, Any]

EXPECTED = """
CREATE TABLE landed AS
    SELECT id, kind, key, CAST("at" AS TIMESTAMPTZ) AS "at", amount
    FROM read_json('{incoming}/[0-9]*.json', format = 'newline_delimited',
        columns = {{id: 'BIGINT', kind: 'VARCHAR', key: 'BIGINT', "at": 'VARCHAR', amount: 'BIGINT'}});
CREATE TABLE arrived AS SELECT * FROM landed WHERE id IS NOT NULL;
CREATE TABLE keys AS SELECT DISTINCT kind, key FROM arrived;
CREATE TABLE late AS FROM arrived WHERE kind = 'late';
CREATE TABLE firsts AS SELECT DISTINCT * FROM arrived WHERE kind <> 'late';
CREATE TABLE minutes AS
    SELECT date_trunc('minute', "at") AS minute, kind, count(*) AS n, sum(amount)::BIGINT AS amount, max(id) AS newest
    FROM firsts WHERE "at" IS NOT NULL AND id < {last} GROUP BY ALL;
CREATE TABLE paid AS
    SELECT o.id AS "order", p.id AS payment, p.amount
    FROM (FROM firsts WHERE kind = 'order' AND id < {last}) o LEFT JOIN (FROM firsts WHERE kind = 'payment') p
        ON o.key = p.key AND p."at" BETWEEN o."at" AND o."at" + INTERVAL 8 MINUTES;
CREATE TABLE totals AS SELECT kind, count(*) AS n, sum(amount)::BIGINT AS amount FROM firsts GROUP BY kind;
"""
STORED = ("arrived", "keys", "firsts", "minutes", "paid", "totals")


# -- what is in a file ------------------------------------------------------------------------------------------------


def rows_of(seed: int, number: int) -> list[Row]:
    """Return the rows of a file: new ones, late ones, some of files before again, and some without an id."""
    if number == LAST_FILE:
        return [
            _row(LAST_FILE + at, kind, -1 - at, START + timedelta(days=400))
            for at, kind in enumerate(("order", "payment"))
        ]
    rows = list(_new_rows(seed, number))
    draw = random.Random(f"{seed}/{number}/again")
    for back in range(1, 10):
        if back <= number and draw.random() < 0.3:
            rows += draw.sample(list(_new_rows(seed, number - back)), 2)
    if draw.random() < 0.3:
        rows.append({"kind": "order", "key": number, "amount": 1})
    draw.shuffle(rows)
    return rows


def _new_rows(seed: int, number: int) -> Iterator[Row]:
    draw = random.Random(f"{seed}/{number}")
    now = START + number * FILE_TIME

    def moment() -> datetime:
        return now - timedelta(seconds=draw.randrange(DISORDER_SECONDS))

    for at in range(4):
        yield _row(number * 10 + at, "order", number * 10 + at, moment(), draw.randrange(1000))
    for at in range(4, 7):  # of an order of this file or one before; it may be too early, too late or of none
        yield _row(
            number * 10 + at,
            "payment",
            (number - draw.randrange(30)) * 10 + draw.randrange(4),
            moment(),
            draw.randrange(1000),
        )
    yield _row(number * 10 + 7, "note", draw.randrange(20), None, 1)
    if number > 2 * FIRST_FILES:
        yield _row(number * 10 + 8, "late", number, now - LATE, 1)


def _row(number: int, kind: str, key: int, at: datetime | None, amount: int = 0) -> Row:
    return {"id": number, "kind": kind, "key": key, "at": None if at is None else at.isoformat(), "amount": amount}


# -- the subject ------------------------------------------------------------------------------------------------------


@dataclass(slots=True, kw_only=True)
class Streams:
    """Files, operators with state and sinks in one storage.

    Attributes:
        seed: of all rows.
    """

    root: Path
    seed: int
    interval_seconds: float = 0.15
    name: str = "streams with state"
    rows: str = "rows"
    configuration: Mapping[str, str] = field(default_factory=lambda: dict(CONFIGURATION))

    @property
    def project(self) -> Path:
        return self.root / "project"

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def incoming(self) -> Path:
        return self.storage / "Volumes" / "main" / "raw" / "incoming"

    @property
    def outside(self) -> Path:
        return self.root / "outside"

    def prepare(self) -> None:
        (self.project / "transformations").mkdir(parents=True)
        (self.outside / "calls").mkdir(parents=True)
        self.incoming.mkdir(parents=True)
        (self.project / "spark-pipeline.yml").write_text(SPEC, "utf-8")
        (self.project / "transformations" / "streams.py").write_text(TABLES.format(outside=self.outside), "utf-8")
        for number in range(FIRST_FILES):
            self._land(number)
        run_update(self)

    def land(self, seed: int) -> None:
        number = max(int(file.stem) for file in self.incoming.glob("[0-9]*.json")) + 1
        while True:
            self._land(number)
            time.sleep(self.interval_seconds)
            number += 1

    def _land(self, number: int) -> None:
        file = self.incoming / f"{number:09d}.json"
        part = file.with_name(f".{file.name}")
        part.write_text("".join(json.dumps(row) + "\n" for row in rows_of(self.seed, number)), "utf-8")
        part.rename(file)

    def has_begun(self) -> bool:
        return True

    def maintain(self) -> None:
        with Pipeline(self.project, storage=self.storage) as pipeline:
            pipeline.maintain(retention_hours=0, allow_short_retention=True)

    def save(self) -> None:
        """The landed files stay, and they are all that the oracle needs."""

    def drain(self) -> None:
        run_update(self)
        self._land(LAST_FILE)
        run_update(self)

    # -- the oracle ---------------------------------------------------------------------------------------------------

    def differences(self) -> list[str]:
        database = duckdb.connect(config={"threads": 1})
        database.execute("SET TimeZone = 'UTC'")
        database.execute(EXPECTED.format(incoming=self.incoming, last=LAST_FILE))
        found: list[str] = []
        for name, rows in self._stored():
            expected = name if name in STORED else "firsts"
            columns = ", ".join(f'"{column}"' for column, *_ in database.execute(f"DESCRIBE {expected}").fetchall())
            database.register("stored", rows)
            for what, one, other in (("is missing", expected, "stored"), ("is not expected", "stored", expected)):
                difference = database.execute(
                    f"SELECT {columns} FROM {one} EXCEPT ALL SELECT {columns} FROM {other} ORDER BY ALL"
                ).fetchall()
                if difference:
                    found.append(f"{name}: this and {len(difference) - 1} more rows: {what}: {difference[0]}")
            database.unregister("stored")
        counts = [
            database.execute(f"SELECT count(*) FROM {rows}").fetchone()[0] for rows in ("arrived", "landed", "late")
        ]
        return found + self._wrong_counts(*counts)

    def _wrong_counts(self, num_arrived: int, num_landed: int, num_late: int) -> list[str]:
        found = wrong_counts(self.storage, {name: self.tables()[name] for name in STORED if name != "totals"})
        rules, _ = reported(self.storage)
        expected = {("arrived", "arrived", "has_id"): (num_arrived, num_landed - num_arrived)}
        if rules != expected:
            found.append(f"the event log says of the rules {rules}, not {expected}")
        said = sum(
            metrics.get("num_rows_dropped_by_watermark") or 0
            for flow, metrics in flow_metrics(self.storage)[0]
            if flow == "firsts"
        )
        if said != num_late:
            found.append(f"firsts: the event log says that {said} rows were late, not {num_late}")
        return found

    def _stored(self) -> Iterator[tuple[str, pa.Table]]:
        for name, location in self.tables().items():
            yield name, DeltaTable(str(location)).to_pyarrow_table()
        for folder in ("lines", "calls"):
            rows = [
                json.loads(line)
                for file in (self.outside / folder).glob("*.json")
                for line in file.read_text("utf-8").splitlines()
            ]
            yield (
                folder,
                pa.table(
                    {
                        "id": pa.array([row["id"] for row in rows], pa.int64()),
                        "kind": pa.array([row["kind"] for row in rows]),
                        "key": pa.array([row["key"] for row in rows], pa.int64()),
                        "at": pa.array(
                            [datetime.fromisoformat(row["at"]) if row.get("at") else None for row in rows],
                            pa.timestamp("us", "UTC"),
                        ),
                        "amount": pa.array([row["amount"] for row in rows], pa.int64()),
                    }
                ),
            )

    def tables(self) -> Mapping[str, Path]:
        folder = self.storage / "tables" / "spark_catalog" / "default"
        return {**{name: folder / name for name in STORED}, "outbox": self.outside / "outbox"}

    def num_landed(self) -> int:
        return int(DeltaTable(str(self.tables()["arrived"])).to_pyarrow_dataset().count_rows())
