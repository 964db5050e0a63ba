"""Each peer in a virtual environment of its own, with the versions that it was measured with."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parent
ROOT = Path(os.environ.get("LAKELET_BENCH_ENVIRONMENTS", HERE.parents[1] / ".venv-bench"))

PACKAGES = {
    "spark": ("pyspark==4.2.1", "pyarrow==26.0.1", "pandas==2.3.3", "numpy==2.4.6"),
    "declarative": ("pyspark[pipelines]==4.3.0",),
    "pathway": ("pathway==0.33.0", "duckdb==2.0.0"),
    "dbt": ("dbt-core==1.10.23", "dbt-duckdb==1.10.1", "duckdb==2.0.0"),
    "chart": ("matplotlib==3.11.2",),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """One contender.

    Attributes:
        environment: a key of `PACKAGES`; None runs in lakelet's own environment.
        stores: how its tables can be read back, `delta`, `parquet` or `duckdb`.
        apart: tables that it cannot hold as the others do, which are not compared; the report says why.
        lag: steps more that a batch needs to come through all tables.
        settings: added to the environment variables.
        most_sales: the largest history that it is asked for, so that the whole run ends within the hour.
    """

    name: str
    label: str
    script: str
    environment: str | None = None
    stores: str = "delta"
    apart: tuple[str, ...] = ()
    lag: int = 0
    settings: dict[str, str] = field(default_factory=dict)
    most_sales: int = 100_000_000

    def command(self, landing: Path, out: Path) -> list[str]:
        return [python(self.environment), str(HERE / self.script), str(landing), str(out)]


PEERS = (
    Peer(name="lakelet", label="lakelet", script="ours.py"),
    Peer(name="floor", label="DuckDB + delta-rs by hand (the floor)", script="floor.py"),
    Peer(
        name="spark",
        label="Spark Structured Streaming by hand, Delta",
        script="structured_streaming.py",
        environment="spark",
        most_sales=5_000_000,
    ),
    Peer(
        name="declarative",
        label="Spark Declarative Pipelines, server kept up",
        script="declarative_pipelines.py",
        environment="declarative",
        stores="parquet",
        apart=(
            "silver_customers",
            "denormalized_sales_facts",
            "gold_product_performance",
            "gold_customer_lifetime_value",
        ),
        lag=2,
        most_sales=5_000_000,
    ),
    Peer(
        name="pathway",
        label="Pathway",
        script="pathway_streams.py",
        environment="pathway",
        most_sales=1_000_000,
    ),
    Peer(
        name="dbt",
        label="dbt-duckdb, incremental",
        script="dbt_duckdb.py",
        environment="dbt",
        stores="duckdb",
        most_sales=5_000_000,
    ),
    Peer(
        name="dbt-complete",
        label="dbt-duckdb, complete",
        script="dbt_duckdb.py",
        environment="dbt",
        stores="duckdb",
        settings={"DBT_STYLE": "complete"},
        most_sales=5_000_000,
    ),
)


def python(environment: str | None) -> str:
    """Return the interpreter of an environment, which is made and filled if it is not there."""
    if environment is None:
        return sys.executable
    folder = ROOT / environment
    interpreter = folder / "bin" / "python"
    done = folder / "packages.txt"
    wanted = "\n".join(PACKAGES[environment])
    if not done.exists() or done.read_text("utf-8") != wanted:
        venv.create(folder, with_pip=True)
        subprocess.run([interpreter, "-m", "pip", "install", "-q", "uv"], check=True)
        # pip tries out versions of Pathway's forty dependencies for many minutes.
        install = [folder / "bin" / "uv", "pip", "install", "-q", "--python", interpreter]
        subprocess.run([*install, *PACKAGES[environment]], check=True)
        done.write_text(wanted, "utf-8")
    return str(interpreter)
