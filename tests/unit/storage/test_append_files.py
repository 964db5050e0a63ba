"""Files that a cluster writes and this process adds to a table's log: all of them, or none."""

from __future__ import annotations

from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from pyspark.sql.connect import proto

from lakelet.engine.base import Engine
from lakelet.errors import StorageError
from lakelet.plan import relation as plan
from lakelet.storage.base import Receipt, TableDefinition
from lakelet.storage.delta_spark import DeltaSparkStore

ROWS = pa.table({"id": [1, 2, 3]})


class Cluster:
    """Writes the rows, or not where this process looks."""

    def __init__(self, *, is_mounted: bool, observes: bool = True) -> None:
        self._is_mounted, self._observes = is_mounted, observes

    def observed(self, command: proto.Command, **_: Any) -> dict[str, Any]:
        folder = Path(command.write_operation.path)
        if self._is_mounted:
            folder.mkdir(parents=True)
            pq.write_table(ROWS, folder / "part-0.parquet")
            pq.write_table(ROWS.slice(0, 0), folder / "part-1.parquet")
        return {"num_rows": 3, "__lakelet_tasks": "0"} if self._observes else {}

    def collect(self, relation: plan.Relation) -> pa.Table:
        return pa.table({"num_rows": [3], "n": [3]})


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("is_mounted", [True, False])
def test_rows_that_are_not_there_are_not_committed(tmp_path: Path, is_mounted: bool, observes: bool) -> None:
    engine = cast(Engine, Cluster(is_mounted=is_mounted, observes=observes))
    table = DeltaSparkStore(engine).create(str(tmp_path / "t"), TableDefinition(schema=ROWS.schema))
    receipt = Receipt(app_id="flow", batch_id=0)
    if is_mounted:
        table.append_files(engine, plan.local(ROWS), ROWS.schema, receipt=receipt)
        assert (table.version, table.batch_id("flow"), table.rows().num_rows) == (1, 0, 3)
        assert not list((tmp_path / "t").glob("_files-*"))
        return
    with pytest.raises(StorageError, match="STORAGE_OUT_OF_REACH") as raised:
        table.append_files(engine, plan.local(ROWS), ROWS.schema, receipt=receipt)
    assert raised.value.retryable
    assert (table.version, table.batch_id("flow")) == (0, -1)
