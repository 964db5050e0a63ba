"""A small project that tests break, run as a user runs it; what every error must look like is checked here."""

from __future__ import annotations

import os
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
from click.testing import CliRunner
from deltalake import DeltaTable, write_deltalake

from lakelet.cli import cli

SPEC = """\
name: shop
storage: store
libraries:
  - glob: {include: transformations/**}
"""
IMPORTS = "from pyspark import pipelines as dp\nfrom pyspark.sql import functions as F\n\n"
ORDERS = """
@dp.table
def orders():
    return spark.readStream.format("delta").load("landing/orders")

"""
FILE = "transformations/shop.py"
ROWS = pa.table(
    {
        "order_id": pa.array([1, 2, 3], pa.int32()),
        "amount": pa.array([1.5, 2.5, 3.5], pa.float64()),
        "customer": pa.array(["ann", "bob", "x1"]),
    }
)
_INTERNALS = (
    "ObjectName(",
    "Identifier(",
    "site-packages",
    "/lakelet/",
    "Physical plan",
    "INTERNAL_ERROR",
    "DataType::",
)


@dataclass(frozen=True)
class Outcome:
    """What a command printed and how it ended."""

    exit_code: int
    stdout: str
    stderr: str

    @property
    def errors(self) -> dict[str, str]:
        """Each error by its condition, as the terminal shows it."""
        blocks = re.split(r"^(?=error\[)", self.stderr, flags=re.MULTILINE)[1:]
        return {block[len("error[") : block.index("]")]: block for block in blocks}


class Project:
    """A pipeline project on disk, with three orders landed in a Delta table."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.source = ""
        (root / "transformations").mkdir(parents=True)
        (root / "spark-pipeline.yml").write_text(SPEC)
        self.land(ROWS)

    def write(self, file: str, text: str) -> None:
        path = self.root / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def pipeline(self, code: str, *, orders: bool = True) -> None:
        """Write the pipeline's file; `orders` is declared before `code`."""
        self.source = IMPORTS + (ORDERS if orders else "") + textwrap.dedent(code)
        self.write(FILE, self.source)

    def place(self, marker: str = "# here") -> str:
        """Return file and line of the comment in the pipeline's file."""
        lines = [number for number, line in enumerate(self.source.splitlines(), 1) if marker in line]
        assert len(lines) == 1, f"{marker} is on lines {lines}"
        return f"{FILE}:{lines[0]}"

    def land(self, rows: pa.Table, *, folder: str = "landing/orders", mode: str = "append") -> None:
        write_deltalake(str(self.root / folder), rows, mode=mode)

    def run(self, *arguments: str) -> Outcome:
        before = Path.cwd()
        os.chdir(self.root)
        try:
            result = CliRunner().invoke(cli, list(arguments) or ["run"])
        finally:
            os.chdir(before)
        return Outcome(result.exit_code, result.stdout, result.stderr)

    def tables(self) -> dict[str, int]:
        """Return the rows of every table that the pipeline has made."""
        folder = self.root / "store" / "tables" / "spark_catalog" / "default"
        found = sorted(path.parent.name for path in folder.glob("*/_delta_log"))
        return {name: DeltaTable(str(folder / name)).to_pyarrow_table().num_rows for name in found}

    def refuses(
        self,
        condition: str,
        *says: str,
        place: str | None = "# here",
        hint: str,
        arguments: tuple[str, ...] = ("run",),
        alone: bool = True,
    ) -> str:
        """Run, and check that nothing ran: one error, where it is, what it says, what to do, and nothing written.

        Args:
            place: a comment in the pipeline's file, or the place itself; None for none.
            hint: part of the hint.
            alone: the error is the only one.
        """
        before = self.tables()
        outcome = self.run(*arguments)
        assert outcome.exit_code == 2, outcome.stderr
        assert self.tables() == before, "a refused pipeline wrote a table"
        return self.check(outcome, condition, *says, place=place, hint=hint, alone=alone)

    def fails(self, condition: str, *says: str, place: str | None = "# here", hint: str, alone: bool = True) -> str:
        """Run, and check that one flow failed, and how."""
        outcome = self.run()
        assert outcome.exit_code == 1, outcome.stderr
        return self.check(outcome, condition, *says, place=place, hint=hint, alone=alone)

    def check(
        self, outcome: Outcome, condition: str, *says: str, place: str | None, hint: str, alone: bool = True
    ) -> str:
        assert condition in outcome.errors, outcome.stderr
        if alone:
            assert list(outcome.errors) == [condition], outcome.stderr
        for block in outcome.errors.values():
            assert "\nhint: " in block, f"no hint:\n{block}"
            for internal in _INTERNALS:
                assert internal not in block, block
        error = outcome.errors[condition]
        if place is not None:
            expected = self.place(place) if place.startswith("#") else place
            assert f"  --> {expected}" in error, error
        for text in says:
            assert text in error, error
        assert hint in error.rpartition("\nhint: ")[2], error
        return error
