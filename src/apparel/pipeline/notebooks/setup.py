# Databricks notebook source
# MAGIC %md
# MAGIC # Set up the retailer
# MAGIC Creates catalog, schemas, volume and landing folders. Running it again changes nothing.

# COMMAND ----------

# MAGIC %pip install --quiet "deltalake>=1.6" "mimesis>=18"

# COMMAND ----------

import importlib.util
import sys
from pathlib import Path

if importlib.util.find_spec("apparel") is None:
    sys.path.append(str(Path.cwd().parents[2]))  # notebooks → pipeline → apparel → the folder of the packages

# COMMAND ----------

from apparel import workspace

for place in workspace.setup(spark, dbutils):
    print(place)
