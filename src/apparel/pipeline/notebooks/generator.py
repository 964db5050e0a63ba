# Databricks notebook source
# MAGIC %md
# MAGIC # Generate sales, customers, products and stores
# MAGIC Writes a set number of batches to the landing zone through Spark, then stops. The next run goes on where this one ended.

# COMMAND ----------

# MAGIC %pip install --quiet "deltalake>=1.6" "mimesis>=18"

# COMMAND ----------

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("apparel") is None:
    sys.path.append(str(Path.cwd().parents[2]))  # notebooks → pipeline → apparel → the folder of the packages

# COMMAND ----------

dbutils.widgets.text("batches", "20")
dbutils.widgets.text("interval", "30")
dbutils.widgets.text("seed", "")
dbutils.widgets.text("storage", "/")

# COMMAND ----------

from apparel.generator.clock import Stop
from apparel.generator.settings import GeneratorSettings
from apparel.generator.spark_landing import SparkLanding
from apparel.generator.streams import Generator, run

seed = dbutils.widgets.get("seed")
settings = GeneratorSettings(interval_seconds=float(dbutils.widgets.get("interval")), seed=int(seed) if seed else None)
generator = Generator(settings, SparkLanding(spark, Path(dbutils.widgets.get("storage"))))

# COMMAND ----------

for batch in run(generator, stop=Stop(), batches=int(dbutils.widgets.get("batches"))):
    written = ", ".join(f"{stream} {rows}" for stream, rows in batch.rows.items())
    print(f"batch {batch.number} at {batch.at:%Y-%m-%d %H:%M:%S}Z: {written}")
