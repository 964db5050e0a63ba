"""How the rows of a query reach a table.

Through this process: the engine streams them, the rules are counted on the way, delta-rs writes. Or in the cluster: one job
computes, counts and commits, and only the counts come here. What a flow asks for is the same.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol, cast

import pyarrow as pa
from pyspark.sql.connect import proto
from pyspark.sql.pandas.types import from_arrow_schema, to_arrow_schema

from lakelet.engine.base import Engine
from lakelet.errors import QueryError
from lakelet.execution.expectations import Quality, any_of, count_rules, enforce, marked
from lakelet.graph.elements import Action, Dataset
from lakelet.plan import relation as plan
from lakelet.plan.relation import Relation
from lakelet.storage.base import Receipt, Table
from lakelet.storage.delta_spark import fitted, staged_files, write_files
from lakelet.storage.schema import conform, nullable

if TYPE_CHECKING:
    from lakelet.storage.delta_spark import DeltaSparkTable

OBSERVATION = "lakelet"
VIOLATED = "LAKELET_RULE_VIOLATED"


class PendingRows(Protocol):
    """The rows of one batch, rules not yet counted; used once."""

    @property
    def schema(self) -> pa.Schema:
        """Columns of the query."""
        ...

    def count(self) -> int:
        """Count the rules and write nothing; returns how many rows would be written.

        Raises:
            ExpectationViolation: a fail rule is violated.
        """
        ...

    def append(self, table: Table, *, receipt: Receipt, evolve: bool) -> int:
        """Commit the rows that the rules let through; returns how many."""
        ...

    def replace(
        self, table: Table, columns: pa.Schema | None, *, receipt: Receipt, partition_cols: tuple[str, ...] | None
    ) -> int:
        """Swap the table's rows for these.

        Args:
            columns: what the table has afterwards; None for the columns of the query.
        """
        ...


def pending_rows(engine: Engine, rows: Relation, dataset: Dataset, display: str, quality: Quality) -> PendingRows:
    """Return the rows of a query on the way that suits the engine."""
    if engine.capabilities.cluster_writes:
        return ClusterRows(engine, rows, dataset, display, quality)
    return StreamedRows(engine, rows, dataset, display, quality)


class StreamedRows:
    """Rows that stream through this process."""

    def __init__(self, engine: Engine, rows: Relation, dataset: Dataset, display: str, quality: Quality) -> None:
        self._reader = enforce(engine.stream(marked(rows, dataset.expectations)), dataset, display, quality)

    @property
    def schema(self) -> pa.Schema:
        return self._reader.schema

    def count(self) -> int:
        return sum(batch.num_rows for batch in self._reader)

    def append(self, table: Table, *, receipt: Receipt, evolve: bool) -> int:
        return table.append(self._reader, receipt=receipt, evolve=evolve)

    def replace(
        self, table: Table, columns: pa.Schema | None, *, receipt: Receipt, partition_cols: tuple[str, ...] | None
    ) -> int:
        reader = self._reader if columns is None else with_columns_of(self._reader, columns)
        return table.replace(reader, receipt=receipt, partition_cols=partition_cols)


class ClusterRows:
    """Rows that the engine computes, counts and commits in one job.

    A violated fail rule ends the job before it commits; only then the rules are counted in a job of their own, for the message.
    """

    def __init__(self, engine: Engine, rows: Relation, dataset: Dataset, display: str, quality: Quality) -> None:
        self._engine = engine
        self._rows = rows
        self._dataset = dataset
        self._display = display
        self._quality = quality
        self.schema = to_arrow_schema(engine.schema(rows), timezone="UTC")

    def count(self) -> int:
        total, dropped = count_rules(self._rows, self._dataset, self._display, self._engine, self._quality)
        self._quality.num_rows = total
        return total - dropped

    def append(self, table: Table, *, receipt: Receipt, evolve: bool) -> int:
        target = cast("DeltaSparkTable", table)
        return self._committed(
            lambda rows: target.append_query(self._engine, rows, self.schema, receipt=receipt, evolve=evolve)
        )

    def replace(
        self, table: Table, columns: pa.Schema | None, *, receipt: Receipt, partition_cols: tuple[str, ...] | None
    ) -> int:
        target = cast("DeltaSparkTable", table)
        wanted = nullable(self.schema) if columns is None else columns
        return self._committed(
            lambda rows: target.replace_query(
                self._engine, rows, self.schema, wanted, receipt=receipt, partition_cols=partition_cols
            )
        )

    def stage(self, folder: str) -> tuple[Relation, int]:
        """Write the rows that the rules let through, once, into a folder of bare files; returns them and how many they are.

        Raises:
            ExpectationViolation: a fail rule is violated.
        """
        columns = nullable(self.schema)

        def write(rows: Relation) -> dict[str, Any]:
            return write_files(self._engine, folder, fitted(rows, self.schema, columns, complete=True, nested=True))

        count = self._committed(write)
        return staged_files(folder, from_arrow_schema(columns)), count

    def _committed(self, write: Any) -> int:
        rules = self._dataset.expectations
        try:
            seen = write(self._guarded())
        except QueryError as error:
            if VIOLATED in f"{error.message} {error.cause}":
                self.count()  # raises with counts and examples
            raise
        if "total" not in seen or self._quality.on_dropped is not None:
            return self.count()  # the commit was there already, and nothing was run
        failed = [seen[f"failed{number}"] for number in range(len(rules))]
        self._quality.num_rows = seen["total"]
        if rules:
            self._quality.add(self._display, rules, seen["total"], failed, seen["dropped"])
        return int(seen["total"] - seen["dropped"])

    def _guarded(self) -> Relation:
        """Return the rows to write: counted first, then without those that drop rules remove; a fail rule raises."""
        rules = self._dataset.expectations
        violations = [plan.is_not_true(plan.expression_of(rule.condition)) for rule in rules]
        measures = {"total": plan.expression("count(*)"), "dropped": plan.expression("count_if(false)")}
        measures |= {f"failed{number}": plan.call("count_if", item) for number, item in enumerate(violations)}
        drops = _of(Action.DROP, self._dataset, violations)
        if drops is not None:
            measures["dropped"] = plan.call("count_if", drops)
        counted = plan.observed(self._rows, OBSERVATION, measures)
        fails = _of(Action.FAIL, self._dataset, violations)
        if fails is None and drops is None:
            return counted
        false, true = plan.expression("false"), plan.expression("true")
        branches = [] if fails is None else [fails, plan.expression(f"CAST(raise_error('{VIOLATED}') AS BOOLEAN)")]
        branches += [] if drops is None else [drops, false]
        # One condition: as two, the optimizer could put the drop below the failure and hide rows that violate both.
        return plan.filtered(counted, plan.call("when", *branches, true))


def _of(action: Action, dataset: Dataset, violations: list[proto.Expression]) -> proto.Expression | None:
    chosen = [item for item, rule in zip(violations, dataset.expectations, strict=True) if rule.action is action]
    return any_of(chosen) if chosen else None


def with_columns_of(reader: pa.RecordBatchReader, schema: pa.Schema) -> pa.RecordBatchReader:
    """Return the rows with all columns of `schema`: a swap must not lose those of the dataset's other flows."""
    return pa.RecordBatchReader.from_batches(schema, (conform(batch, schema) for batch in reader))
