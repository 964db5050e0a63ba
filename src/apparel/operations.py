"""Operating the retailer's storage: set up, list, check, maintain.

Plain functions that return what they found or did; nothing here prints or asks. What they know of a storage
root:

    <storage>/Volumes/apparel_store/00_landing/streaming/<stream>   the landing zone
    <storage>/tables/apparel_store/<schema>/<table>                 the pipeline's tables
    <storage>/{_checkpoints,_auxiliary,system}                      the pipeline's state and event log
    <storage>/_lock                                                 the process that runs an update
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from apparel.generator.landing import (
    add_actions,
    count_rows,
    distinct_ids,
    landing_error,
    landing_folder,
    open_delta,
    reading,
)
from apparel.generator.model import DIMENSIONS, Ids, Stream
from apparel.reset import lock_holder
from lakelet.errors import LockError
from lakelet.execution.lock import pipeline_lock
from lakelet.execution.maintenance import (
    RETENTION_HOURS,
    Maintained,
    Retention,
    keyed_tables,
    maintain_table,
    pipeline_tables,
    versions_in_use,
)
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_rs import DeltaRsStore

CATALOG = "apparel_store"
SCHEMAS = ("01_bronze", "02_silver", "03_gold")
_SCAN_ROWS = 131_072


# --- setup


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """A catalog, schema, volume or folder, and whether `setup` created it or found it."""

    kind: str
    name: str
    path: Path
    created: bool


def setup(storage: Path) -> tuple[Place, ...]:
    """Create catalog, schemas, volume and landing folders, as empty folders; what is there stays as it is.

    Raises:
        LakeletError: LANDING_PERMISSION_DENIED, LANDING_DISK_FULL, LANDING_WRITE_FAILED.
    """
    places = []
    for kind, name, path in wanted_places(storage):
        created = not path.is_dir()
        try:
            path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise landing_error(error, path, "write") from error
        places.append(Place(kind=kind, name=name, path=path, created=created))
    return tuple(places)


def wanted_places(storage: Path) -> list[tuple[str, str, Path]]:
    """Return what `setup` creates, in order: kind, name, and where it lies below a local storage root."""
    landing, tables = landing_folder(storage), storage / "tables" / CATALOG
    return [
        ("catalog", CATALOG, tables),
        ("schema", f"{CATALOG}.00_landing", landing.parent),
        *(("schema", f"{CATALOG}.{schema}", tables / schema) for schema in SCHEMAS),
        ("volume", f"{CATALOG}.00_landing.streaming", landing),
        *(("folder", f"/Volumes/{CATALOG}/00_landing/streaming/{stream}", landing / stream) for stream in Stream),
    ]


# --- list and health


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamListing:
    """What the generator wrote to one stream.

    Attributes:
        versions: commits of the table, 0 if there is none.
        first_at: earliest event or update time, to the millisecond; None while there is no row.
        last_at: the latest one.
    """

    stream: str
    rows: int
    versions: int
    files: int
    size_bytes: int
    first_at: datetime | None
    last_at: datetime | None


def list_written(storage: Path) -> tuple[StreamListing, ...]:
    """List what the generator wrote, per stream; from the tables' logs, without reading data.

    Raises:
        LakeletError: LANDING_NOT_DELTA, LANDING_UNREADABLE.
    """
    return tuple(_listing(landing_folder(storage) / stream, stream) for stream in Stream)


def _listing(folder: Path, stream: Stream) -> StreamListing:
    table = open_delta(folder)
    if table is None:
        return StreamListing(stream=stream, rows=0, versions=0, files=0, size_bytes=0, first_at=None, last_at=None)
    with reading(folder):
        actions = add_actions(table)

        def statistic(name: str) -> pa.ChunkedArray:
            known = f"{name}.{stream.time}" in actions.column_names
            return actions[f"{name}.{stream.time}"] if known else pa.chunked_array([pa.nulls(0, pa.int64())])

        return StreamListing(
            stream=stream,
            rows=count_rows(table),
            versions=table.version() + 1,
            files=actions.num_rows,
            size_bytes=pc.sum(actions["size_bytes"]).as_py() or 0,
            first_at=pc.min(statistic("min")).as_py(),
            last_at=pc.max(statistic("max")).as_py(),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class ForeignKeyHealth:
    """How one foreign key of sales fares.

    Attributes:
        orphans: sales whose value no dimension row has.
        nulls: sales without a value; they reference nothing and are no orphans.
    """

    foreign_key: str
    dimension: str
    orphans: int
    nulls: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """Row count of each landing stream, and the foreign keys of sales."""

    rows: dict[str, int]
    foreign_keys: tuple[ForeignKeyHealth, ...]


def health(storage: Path) -> Health:
    """Count rows, and sales that reference an id which no dimension row has.

    Reads the key columns only, batch by batch: memory is that of the distinct dimension ids.

    Raises:
        LakeletError: LANDING_NOT_DELTA, LANDING_UNREADABLE.
    """
    folder = landing_folder(storage)
    tables = {stream: open_delta(folder / stream) for stream in Stream}
    known: dict[str, Ids] = {}
    rows: dict[str, int] = {}
    for stream, table in tables.items():
        with reading(folder / stream):
            rows[stream] = 0 if table is None else count_rows(table)
            if stream in DIMENSIONS:
                ids: Ids = np.empty(0, np.int32)
                known[stream.key] = ids if table is None else distinct_ids(table, stream.key)
    orphans, nulls = dict.fromkeys(known, 0), dict.fromkeys(known, 0)
    with reading(folder / Stream.SALES):
        for batch in _scan(tables[Stream.SALES], list(known)):
            for key, ids in known.items():
                values = batch.column(key)
                nulls[key] += values.null_count
                orphans[key] += _count_missing(values.drop_null().to_numpy(zero_copy_only=False), ids)
    return Health(
        rows=rows,
        foreign_keys=tuple(
            ForeignKeyHealth(
                foreign_key=stream.key, dimension=stream, orphans=orphans[stream.key], nulls=nulls[stream.key]
            )
            for stream in DIMENSIONS
        ),
    )


def _scan(table: DeltaTable | None, columns: list[str]) -> Iterator[pa.RecordBatch]:
    if table is None:
        return
    dataset = table.to_pyarrow_dataset()
    yield from dataset.scanner(
        columns=columns, batch_size=_SCAN_ROWS, batch_readahead=2, fragment_readahead=2
    ).to_batches()


def _count_missing(values: Ids, known: Ids) -> int:
    """Count values that a sorted array lacks."""
    if len(known) == 0:
        return len(values)
    nearest = np.minimum(np.searchsorted(known, values), len(known) - 1)
    return int(np.count_nonzero(known[nearest] != values))


# --- maintenance


def maintain(
    storage: Path,
    *,
    retention_hours: int = RETENTION_HOURS,
    allow_short_retention: bool = False,
    dry_run: bool = False,
) -> tuple[Maintained, ...]:
    """Compact and vacuum the landing tables and the pipeline's tables.

    Compaction commits say `dataChange = false`: a streaming reader sees no new row. Vacuum deletes what no version of the
    last `retention_hours` refers to, the leftovers of killed writers among it; what a flow of this storage has not read yet
    stays, however old. Safe beside a running generator; the pipeline's own tables are skipped while an update runs, since
    its merges would conflict.

    Args:
        storage: the storage root.
        retention_hours: files that a table dropped more recently stay, for readers of other pipelines.
        allow_short_retention: accept less than 168 hours.
        dry_run: change nothing, count what vacuum would delete.

    Raises:
        SpecError: RETENTION_TOO_SHORT.
        LakeletError: CHECKPOINT_CORRUPT, LANDING_NOT_DELTA, LANDING_UNREADABLE, TABLE_IO_FAILED.
    """
    retention = Retention(files_hours=retention_hours, allow_short=allow_short_retention)
    store = DeltaRsStore()

    def tend(folder: Path) -> Maintained:
        name = str(folder.relative_to(storage))
        if open_delta(folder) is None:
            return Maintained(table=name, skipped="no table")
        catalog = Catalog(storage=storage, root=storage)
        return maintain_table(
            store,
            str(folder),
            label=name,
            need=versions_in_use(catalog).get(str(folder)),
            retention=retention,
            compact=str(folder) not in keyed_tables(catalog),
            dry_run=dry_run,
        )

    done = [tend(landing_folder(storage) / stream) for stream in Stream]
    with _no_update(storage, dry_run=dry_run) as idle:
        tables = pipeline_tables(Catalog(storage=storage, root=storage))
        for folder in [Path(location) for location in tables if store.exists(location)]:
            busy = Maintained(table=str(folder.relative_to(storage)), skipped="an update is running")
            done.append(tend(folder) if idle else busy)
    return tuple(done)


@contextlib.contextmanager
def _no_update(storage: Path, *, dry_run: bool) -> Iterator[bool]:
    """Keep updates from starting, unless one runs already or nothing is changed; yields whether none runs."""
    with contextlib.ExitStack() as held:
        idle = lock_holder(storage) is None
        if idle and not dry_run and storage.is_dir():
            try:
                held.enter_context(pipeline_lock(storage / "_lock", pipeline="apparel maintain"))
            except LockError:
                idle = False
        yield idle
