"""What the operators with state of a pipeline remember, for people to look at."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from lakelet.execution.checkpoint import Checkpoint, read_generation, read_json
from lakelet.execution.state import ENDS_AT, ENDS_AT_TYPE
from lakelet.execution.stateful import description_file, state_folder
from lakelet.execution.watermark import Thresholds, shown
from lakelet.graph.dataflow_graph import DataflowGraph, ResolvedFlow
from lakelet.places import open_file
from lakelet.storage.base import Table, TableStore
from lakelet.storage.catalog import Catalog


@dataclass(frozen=True, slots=True, kw_only=True)
class StateReport:
    """One state table of a flow.

    Attributes:
        rows: what the watermark has not passed yet.
        bytes: on disk, with what is passed and not cleaned up yet.
        watermark: the one of the last batch, None without one.
        oldest: the earliest event time at which a row will be forgotten, None if none ever is.
    """

    flow: str
    dataset: str
    operator: str
    table: str
    location: str
    rows: int
    bytes: int
    files: int
    watermark: str | None
    oldest: str | None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as JSON-ready values."""
        return asdict(self)


def state_reports(
    graph: DataflowGraph, catalog: Catalog, store: TableStore, flows: Iterable[ResolvedFlow]
) -> tuple[StateReport, ...]:
    """Return a report of each state table of `flows`; a flow that remembers nothing has none."""
    reports: list[StateReport] = []
    for flow in flows:
        folder = catalog.checkpoint(flow.target)
        if not folder.is_dir():
            continue
        checkpoint = Checkpoint(folder, flow.name, read_generation(folder))
        path = description_file(checkpoint)
        if not path.is_file():
            continue
        last = checkpoint.committed()
        now = Thresholds.from_json(last.state.get("watermark", {})).now if last is not None else None
        for location in sorted(item for item in state_folder(checkpoint).glob("*") if item.is_dir()):
            table = store.open(str(location))
            if table is None:
                continue
            ends = _ends(table) if ENDS_AT in table.schema.names else None
            if ends is not None and now is not None:
                ends = ends.filter(pc.or_kleene(pc.is_null(ends), pc.greater(ends, now)))
            size = table.size()
            reports.append(
                StateReport(
                    flow=flow.name,
                    dataset=graph.display(flow.target),
                    operator=str(read_json(path)["description"]["operator"]),
                    table=location.name,
                    location=str(location),
                    rows=size.rows if ends is None else len(ends),
                    bytes=size.bytes,
                    files=size.files,
                    watermark=shown(now),
                    oldest=None if ends is None else shown(pc.min(ends).as_py()),
                )
            )
    return tuple(reports)


def _ends(table: Table) -> pa.ChunkedArray:
    """Return when the rows of a table end, in microseconds; reads that column only."""
    columns = [pq.ParquetFile(open_file(file.path)).read(columns=[ENDS_AT]).column(0) for file in table.files()]
    return pa.chunked_array(
        [piece.cast(ENDS_AT_TYPE).cast(pa.int64()) for column in columns for piece in column.chunks], pa.int64()
    )
