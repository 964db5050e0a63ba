"""Make a virtual environment with Apache Spark, for the suite that compares with it: `setup_spark.py <folder>`.

It is apart from the project's own, since `pyspark` and `pyspark-client` are the same package by two names.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import venv
from pathlib import Path

PYSPARK = "pyspark==4.3.0"


def main(folder: str) -> None:
    python = Path(folder) / "bin" / "python"
    if shutil.which("java") is None:
        sys.exit("Apache Spark needs Java 17 or newer on PATH")
    if (Path(folder) / "ready").exists():
        return
    venv.create(folder, with_pip=True, clear=True)
    subprocess.run([python, "-m", "pip", "install", "-q", PYSPARK], check=True)
    (Path(folder) / "ready").write_text(PYSPARK)


if __name__ == "__main__":
    main(*sys.argv[1:])
