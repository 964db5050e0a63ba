# Databricks notebook source
# MAGIC %md
# MAGIC # Look after the retailer
# MAGIC Lists what the generator wrote, counts what refers to nothing, compacts and vacuums the landing tables.
# MAGIC With `drop_tables` and `clear_landing` it starts over.

# COMMAND ----------

# MAGIC %pip install --quiet "deltalake>=1.6" "mimesis>=18"

# COMMAND ----------

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("apparel") is None:
    sys.path.append(str(Path.cwd().parents[2]))  # notebooks → pipeline → apparel → the folder of the packages

# COMMAND ----------

dbutils.widgets.text("retention_hours", "168")
dbutils.widgets.dropdown("drop_tables", "false", ["false", "true"])
dbutils.widgets.dropdown("clear_landing", "false", ["false", "true"])
dbutils.widgets.text("storage", "/")

# COMMAND ----------

from apparel import operations, workspace

storage = Path(dbutils.widgets.get("storage"))
for listing in operations.list_written(storage):
    print(f"{listing.stream}: {listing.rows} rows in {listing.files} files, {listing.first_at} to {listing.last_at}")

# COMMAND ----------

for key in operations.health(storage).foreign_keys:
    print(f"sales by {key.foreign_key}: {key.orphans} refer to nothing, {key.nulls} are NULL")

# COMMAND ----------

for stream in workspace.maintain(spark, storage, retention_hours=int(dbutils.widgets.get("retention_hours"))):
    print(f"compacted and vacuumed {stream}")

# COMMAND ----------

if dbutils.widgets.get("drop_tables") == "true":
    print("dropped", workspace.drop_tables(spark))
if dbutils.widgets.get("clear_landing") == "true":
    print("cleared", workspace.clear_landing(dbutils))
