"""Files that a cluster writes: each of its machines may have a disk of its own at the same path, and tells of a success."""

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
from lakelet.storage.delta_spark import stage, write_files

ROWS = pa.table({"id": [1, 2, 3, 4]})


class Cluster:
    """Writes two rows in each of two tasks, and nothing in a third one, to files of one row.

    Attributes:
        unmounted: tasks whose machine writes elsewhere.
    """

    def __init__(self, *, unmounted: tuple[int, ...] = (), observes: bool = True) -> None:
        self.unmounted, self.observes = unmounted, observes

    def observed(self, command: proto.Command, **_: Any) -> dict[str, Any]:
        folder = Path(command.write_operation.path)
        if "://" not in command.write_operation.path:
            folder.mkdir(parents=True)
            for task in {0, 2} - {*self.unmounted}:
                for part in range(2):
                    pq.write_table(ROWS.slice(task + part, 1), folder / f"part-{task:05d}-x-c{part:03d}.parquet")
        return {"num_rows": 4, "__lakelet_tasks": "2,0"} if self.observes else {}

    def collect(self, relation: plan.Relation) -> pa.Table:
        [name] = [value.alias.name[0] for value in relation.aggregate.aggregate_expressions]
        return pa.table({name: [4]})


def engine(**facts: Any) -> Engine:
    return cast(Engine, Cluster(**facts))


@pytest.mark.parametrize("observes", [True, False])
def test_rows_that_are_all_there_are_staged(tmp_path: Path, observes: bool) -> None:
    count = {"num_rows": plan.expression("count(*)")}
    cluster = engine(observes=observes)
    _, counts = stage(cluster, str(tmp_path / "x"), plan.local(ROWS), ROWS.schema, ROWS.schema, count)
    assert counts == {"num_rows": 4}


@pytest.mark.parametrize("observes", [True, False])
@pytest.mark.parametrize("unmounted", [(0,), (2,), (0, 2)])
def test_rows_of_a_machine_with_a_disk_of_its_own_are_missed(
    tmp_path: Path, unmounted: tuple[int, ...], observes: bool
) -> None:
    count = {"num_rows": plan.expression("count(*)")}
    cluster = engine(unmounted=unmounted, observes=observes)
    with pytest.raises(StorageError, match="STORAGE_OUT_OF_REACH") as raised:
        stage(cluster, str(tmp_path / "x"), plan.local(ROWS), ROWS.schema, ROWS.schema, count)
    assert raised.value.retryable


def test_an_object_store_is_the_same_for_all_machines() -> None:
    assert write_files(engine(), "s3://bucket/x", plan.local(ROWS)) == {"num_rows": 4}
