"""The project that `lakelet init` writes: small, complete, and runnable at once."""

from __future__ import annotations

import re
from pathlib import Path

from lakelet.errors import SpecError
from lakelet.spec import SPEC_FILE_NAMES

SPEC = """\
name: {name}
storage: pipeline-storage          # a folder, relative to this file
libraries:
  - glob:
      include: transformations/**
"""

CUSTOMERS = '''\
"""Customers: raw changes in, one current row for each customer out.

The same file runs on Databricks and with Apache Spark Declarative Pipelines.
"""

from pyspark import pipelines as dp
from pyspark.sql import DataFrame, SparkSession
from pyspark.sql import functions as F

spark = SparkSession.active()

CHANGES = [
    (1, "Ada", "ada@example.com", "Oslo", "2026-01-01 09:00:00", "upsert"),
    (2, "Ben", "ben@example.com", "Bergen", "2026-01-01 09:05:00", "upsert"),
    (3, "Cleo", "not an address", "Oslo", "2026-01-01 09:10:00", "upsert"),
    (1, "Ada", "ada@example.com", "Bergen", "2026-02-01 10:00:00", "upsert"),
    (4, "Dina", "dina@example.com", "Oslo", "2026-02-02 11:00:00", "upsert"),
    (2, "Ben", "ben@example.com", "Bergen", "2026-03-01 12:00:00", "delete"),
]

dp.create_streaming_table("raw_changes", comment="Every change of a customer, as it arrived.")


@dp.append_flow(target="raw_changes", once=True)
def sample_changes() -> DataFrame:
    """Stands for a real source: a folder of Delta files, or a table of another pipeline."""
    columns = "id INT, name STRING, email STRING, city STRING, changed_at STRING, operation STRING"
    return spark.createDataFrame(CHANGES, columns)


@dp.table(comment="Changes that can be trusted.")
@dp.expect_or_drop("valid_email", "email LIKE '%_@_%.__%'")
@dp.expect("known_city", "city IS NOT NULL")
def customer_changes() -> DataFrame:
    return spark.readStream.table("raw_changes").withColumn("changed_at", F.to_timestamp("changed_at"))


dp.create_streaming_table("customers", comment="One row for each customer: the latest.")
dp.create_auto_cdc_flow(
    target="customers",
    source="customer_changes",
    keys=["id"],
    sequence_by="changed_at",
    apply_as_deletes="operation = 'delete'",
    except_column_list=["operation"],
    stored_as_scd_type=1,
)


@dp.materialized_view(comment="How many customers live where.")
def customers_by_city() -> DataFrame:
    return spark.read.table("customers").groupBy("city").agg(F.count("*").alias("customers"))
'''

GITIGNORE = "pipeline-storage/\n__pycache__/\n"


def write_project(folder: Path, *, name: str) -> list[Path]:
    """Write a project and return its files.

    Raises:
        SpecError: `PROJECT_NAME_INVALID`, `PROJECT_EXISTS` where the folder has files of this name,
            `PROJECT_NOT_WRITABLE`.
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", name):
        raise SpecError(
            "PROJECT_NAME_INVALID",
            f"`{name}` cannot name a pipeline",
            hint="use letters, digits, `_`, `-` and `.`, and begin with a letter or digit",
        )
    contents = {
        "spark-pipeline.yml": SPEC.format(name=_yaml(name)),
        "transformations/customers.py": CUSTOMERS,
        ".gitignore": GITIGNORE,
    }
    present = [file for file in (*SPEC_FILE_NAMES, *contents) if (folder / file).exists()]
    if present:
        raise SpecError(
            "PROJECT_EXISTS",
            f"`{folder}` already has `{present[0]}`",
            hint="choose another folder with `--dir`",
        )
    written = []
    try:
        for file, text in contents.items():
            path = folder / file
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise SpecError(
            "PROJECT_NOT_WRITABLE",
            f"the project cannot be written to `{folder}`",
            cause=str(error),
            hint="check the folder",
        ) from error
    return written


def _yaml(name: str) -> str:
    """Quote a name that YAML would read as something else than text, such as `true` or `2026`."""
    import yaml

    return name if isinstance(yaml.safe_load(name), str) else f'"{name}"'
