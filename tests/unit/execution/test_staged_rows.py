"""Rows that are staged: once a batch, again where nothing says that they are whole or the query has changed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import pyarrow as pa
import pytest
from pyspark.sql.connect import proto
from pyspark.sql.types import LongType, NullType, StructField, StructType, TimestampNTZType, TimestampType

from lakelet.engine.base import Engine
from lakelet.execution.checkpoint import Checkpoint
from lakelet.execution.staged_rows import Input, Staging, Timing, forget_staged, micros
from lakelet.execution.watermark import Thresholds
from lakelet.plan import relation as plan

COLUMNS = StructType([StructField("id", LongType()), StructField("nothing", NullType())])
COUNTS = {"num_rows": 3, "num_late": 2, "num_open": 1}


@dataclass
class Cluster:
    """Makes the folders that it is told to write to."""

    written: list[Path] = field(default_factory=list)

    def observed(self, command: proto.Command, **_: Any) -> dict[str, Any]:
        self.written.append(Path(command.write_operation.path))
        self.written[-1].mkdir(parents=True)
        return COUNTS | {"__lakelet_tasks": ""}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Checkpoint:
    return Checkpoint(tmp_path, "flow", 0)


def staging(
    checkpoint: Checkpoint, cluster: Cluster, *, batch_id: int = 3, query: str = "digest", **options: Any
) -> Staging:
    given = {"is_begun": False, "thresholds": Thresholds(), **options}
    return Staging(checkpoint=checkpoint, engine=cast(Engine, cluster), batch_id=batch_id, query=query, **given)


def staged(checkpoint: Checkpoint, cluster: Cluster, *, keep: bool = True, **options: Any) -> Path:
    """Return the folder with the rows of the only input."""
    inputs = {"rows": Input(rows=plan.empty(COLUMNS), columns=COLUMNS, timing=Timing())}
    (rows,) = staging(checkpoint, cluster, **options).inputs(inputs, keep=keep)
    assert (rows.num_input, rows.num_late, rows.num_rows, rows.num_open) == (5, 2, 3, 1)
    assert [column.dataType.simpleString() for column in rows.columns] == ["bigint", "string"]
    return Path(rows.path)


def test_a_replay_goes_on_from_the_same_rows(checkpoint: Checkpoint) -> None:
    first, second = Cluster(), Cluster()
    assert staged(checkpoint, first) == staged(checkpoint, second)
    assert (len(first.written), len(second.written)) == (1, 0)


@pytest.mark.parametrize("changed", [{"batch_id": 4}, {"query": "another"}])
def test_another_batch_and_another_query_are_run(checkpoint: Checkpoint, changed: dict[str, Any]) -> None:
    before = staged(checkpoint, Cluster())
    after = staged(checkpoint, cluster := Cluster(), **changed)
    assert cluster.written == [after]
    assert after != before


def test_a_batch_that_has_remembered_rows_goes_on_from_them_whatever_the_query_is_now(checkpoint: Checkpoint) -> None:
    before = staged(checkpoint, Cluster())
    assert staged(checkpoint, Cluster(), query="another", is_begun=True) == before


def test_counts_that_got_lost_are_those_of_the_files(checkpoint: Checkpoint) -> None:
    """Only of the rows that came too late, which are in no file, the query is asked again."""

    class Forgetful(Cluster):
        def observed(self, command: proto.Command, **options: Any) -> dict[str, Any]:
            super().observed(command, **options)
            return {}

        def collect(self, relation: plan.Relation) -> pa.Table:
            names = {value.alias.name[0] for value in relation.aggregate.aggregate_expressions}
            assert ("parquet" in str(relation)) == ("num_open" in names)
            found = {"num_rows": 3, "num_open": 1, "num_late": 2, "n": 0}
            return pa.table({name: [found[name]] for name in names})

    staged(checkpoint, Forgetful())


def test_a_rehearsal_leaves_nothing_for_the_batch(checkpoint: Checkpoint) -> None:
    rehearsed = staged(checkpoint, Cluster(), keep=False)
    assert staged(checkpoint, Cluster()) != rehearsed
    assert not rehearsed.exists()


def test_what_an_attempt_that_died_has_left_goes_with_the_next_one(checkpoint: Checkpoint) -> None:
    class Death(Exception):
        pass

    class Dying(Cluster):
        def observed(self, command: proto.Command, **options: Any) -> dict[str, Any]:
            super().observed(command, **options)
            raise Death

    dying = Dying()
    with pytest.raises(Death):
        staged(checkpoint, dying)
    kept = staged(checkpoint, Cluster())
    assert sorted(path.name for path in (checkpoint.folder / "staged").iterdir()) == [kept.parent.name]
    forget_staged(checkpoint)
    assert {path.name for path in checkpoint.folder.iterdir()} == {"offsets", "commits"}


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (TimestampType(), "unix_micros(`at`)"),
        (TimestampNTZType(), "unix_micros(CAST(concat(CAST(`at` AS STRING), 'Z') AS TIMESTAMP))"),
        (StructType([StructField("start", TimestampType()), StructField("end", TimestampType())]), "unix_micros(`at`.`end`)"),
    ],
    ids=["instant", "without a zone", "window"],
)  # fmt: skip
def test_event_time_in_microseconds(kind: Any, text: str) -> None:
    assert micros("at", StructType([StructField("at", kind)])) == text
