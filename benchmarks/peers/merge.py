"""Apache Spark's MERGE of small batches into a Delta table: `merge.py <rows.parquet> <folder> <changes> <turns>`.

Runs in the environment of the Spark peer, one warm session on all cores, and prints the milliseconds of each turn but the
first two as a JSON list.
"""

from __future__ import annotations

import json
import random
import sys
import time

from pyspark.sql import functions as F
from structured_streaming import session

WARM_UP = 2


def main(rows: str, folder: str, changes: int, turns: int) -> list[float]:
    spark = session()
    spark.read.parquet(rows).write.format("delta").save(folder)
    table, choose = spark.read.format("delta").load(folder), random.Random(1)
    count = table.count()
    columns = ", ".join(f"t.{name} = s.{name}" for name in table.columns)
    found = []
    for turn in range(WARM_UP + turns):
        some = table.where(F.col("id").isin(choose.sample(range(count), changes))).collect()
        given = [{**row.asDict(), "points": -turn, "seq": row["seq"] + turn} for row in some]
        started = time.perf_counter()
        spark.createDataFrame(given, table.schema).createOrReplaceTempView("changes")
        spark.sql(
            f"MERGE INTO delta.`{folder}` t USING changes s ON t.id = s.id "
            f"WHEN MATCHED THEN UPDATE SET {columns} WHEN NOT MATCHED THEN INSERT *"
        )
        found.append((time.perf_counter() - started) * 1000)
    (merged,) = spark.sql(f"SELECT count_if(points < 0) FROM delta.`{folder}`").first()
    assert merged > 0, "no change has arrived"
    return found[WARM_UP:]


if __name__ == "__main__":
    print(json.dumps(main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))), flush=True)
