"""The flagship as the subject of a soak: AUTO CDC, joins with dimensions, rules and materialized views.

A DuckDB computation that shares nothing with the product but the recorded inputs of the micro-batches says what every
table, every count of a rule and every count of rows must be (`tests/reference/apparel_oracle.py`).
"""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from deltalake import DeltaTable
from tests.reference.apparel_oracle import TABLES, Oracle, reported, table_of
from tests.reference.apparel_play import SETTINGS

from apparel import operations
from apparel.generator.landing import DeltaLanding
from apparel.generator.streams import Generator
from benchmarks.soak_kills import run_update, wrong_counts

CONFIGURATION = {
    "lakelet.views.recomputeRows": "0",
    "pipelines.trigger.interval": "50 milliseconds",
    "lakelet.maintenance.interval": "3 seconds",
    "lakelet.maxBytesPerTrigger": "64kb",
}
APPENDED = (
    *(f"01_bronze.bronze_{name}" for name in ("sales", "customers", "products", "stores")),
    "02_silver.silver_sales_transactions",
    "02_silver.silver_returns_transactions",
    "03_gold.denormalized_sales_facts",
)
"""Tables that only grow: their rows are the rows that their flows have reported."""


@dataclass(slots=True, kw_only=True)
class Retailer:
    """The apparel retailer in one storage.

    Attributes:
        seed: of the rows that are there before the first kill.
    """

    root: Path
    seed: int
    sales_per_batch: int = 40
    interval_seconds: float = 0.4
    name: str = "the apparel retailer"
    rows: str = "sales"
    project: Path = Path(operations.__file__).parent / "pipeline"
    configuration: Mapping[str, str] = field(default_factory=lambda: dict(CONFIGURATION))

    @property
    def storage(self) -> Path:
        return self.root / "storage"

    @property
    def archive(self) -> Path:
        return self.root / "archive"

    def prepare(self) -> None:
        operations.setup(self.storage)
        self._generator(self.seed).write_batch()

    def land(self, seed: int) -> None:
        generator = self._generator(seed)
        while True:
            generator.write_batch()
            time.sleep(self.interval_seconds)

    def _generator(self, seed: int) -> Generator:
        return Generator(replace(SETTINGS, seed=seed, sales_per_batch=self.sales_per_batch), DeltaLanding(self.storage))

    def has_begun(self) -> bool:
        """Return whether all streams have begun: the files of a stream's first batch are those of a snapshot."""
        notes = self.storage / "_checkpoints" / operations.CATALOG
        return all(any((notes / name.replace(".", "/")).glob("*/0/commits/[0-9]*")) for name in APPENDED)

    def maintain(self) -> None:
        self._archive("Volumes", "*.parquet")
        self._archive("tables", "*.parquet")
        operations.maintain(self.storage, retention_hours=0, allow_short_retention=True)

    def save(self) -> None:
        """Keep the intents, which a checkpoint forgets."""
        self._archive("_checkpoints", "offsets/*")

    def _archive(self, folder: str, pattern: str) -> None:
        """Give files a second name, which stays when the first one is removed."""
        for file in (self.storage / folder).rglob(pattern):
            copy = self.archive / file.relative_to(self.storage)
            if "_delta_log" not in file.parts and not file.name.startswith(".") and not copy.exists():
                copy.parent.mkdir(parents=True, exist_ok=True)
                with contextlib.suppress(FileNotFoundError, FileExistsError):  # removed meanwhile; saved meanwhile
                    os.link(file, copy)

    def drain(self) -> None:
        run_update(self)

    def differences(self) -> list[str]:
        for folder, pattern in (("Volumes", "*.parquet"), ("tables", "*.parquet"), ("_checkpoints", "offsets/*")):
            self._archive(folder, pattern)
        oracle = Oracle(self.storage, archive=self.archive)
        found = [text for name in TABLES for text in oracle.differences(name)]
        rules, dropped = reported(self.storage)
        for said, expected, nothing in ((rules, oracle.expectations(), (0, 0)), (dropped, oracle.dropped(), 0)):
            found += [
                f"{name}: the event log says {said.get(name, nothing)}, not {expected.get(name)}"
                for name in {**said, **expected}
                if said.get(name, nothing) != expected.get(name, "that there is such a rule")
            ]
        return found + wrong_counts(self.storage, {name: table_of(self.storage, name) for name in APPENDED})

    def tables(self) -> Mapping[str, Path]:
        return {name: table_of(self.storage, name) for name in TABLES}

    def num_landed(self) -> int:
        return int(DeltaTable(str(self.tables()["01_bronze.bronze_sales"])).to_pyarrow_dataset().count_rows())
