"""Make a virtual environment with Apache Spark, for the suites that compare with it: `setup_spark.py <folder> [cdc]`.

It is apart from the project's own, since `pyspark` and `pyspark-client` are the same package by two names. With `cdc` it has
what Spark's own pipelines need, and `iceberg.jar` for the tables that its AUTO CDC can write to.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

PYSPARK = "pyspark==4.3.0"
PYSPARK_WITH_PIPELINES = "pyspark[pipelines]==4.3.0"
ICEBERG = "org.apache.iceberg:iceberg-spark-runtime-4.1_2.13:1.11.0"
FETCH = """
import sys
from pyspark.sql import SparkSession
settings = {"spark.jars.packages": sys.argv[1], "spark.jars.ivy": sys.argv[2], "spark.ui.enabled": "false"}
SparkSession.builder.master("local[1]").config(map=settings).getOrCreate().stop()
"""


def main(folder: str, kind: str = "") -> None:
    wanted = PYSPARK_WITH_PIPELINES if kind == "cdc" else PYSPARK
    python = Path(folder) / "bin" / "python"
    for program in ("java", "javac") if kind == "cdc" else ("java",):
        if shutil.which(program) is None:
            sys.exit(f"Apache Spark needs Java 17 or newer: there is no `{program}` on PATH")
    if (Path(folder) / "ready").exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "-q", wanted], check=True)
    if kind == "cdc":
        ivy = Path(folder).resolve() / "ivy"
        subprocess.run([python, "-c", FETCH, ICEBERG, ivy], check=True, stderr=subprocess.DEVNULL)
        (jar,) = (ivy / "jars").glob("*iceberg*.jar")
        shutil.copy(jar, Path(folder) / "iceberg.jar")
    (Path(folder) / "ready").write_text(wanted)


if __name__ == "__main__":
    main(*sys.argv[1:])
