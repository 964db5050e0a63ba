"""Compaction, vacuum and log clean-up that take nothing from a flow that is behind.

What flows still need stands in their checkpoints: where a committed batch has stopped reading, and what a batch that was begun
reads. All of it is read from the storage folder, with the code of the pipeline or without: a flow that has been taken out
of the code, and may come back, keeps what it needs until its checkpoint is reset.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from lakelet.errors import SpecError
from lakelet.execution.checkpoint import (
    Batch,
    batches_in_use,
    checkpoint_folders,
    flow_name,
    read_generation,
    read_json,
)
from lakelet.execution.view_record import ViewRecords
from lakelet.faults import reach
from lakelet.places import Place
from lakelet.storage.base import TableStore
from lakelet.storage.catalog import Catalog
from lakelet.storage.retention import old_log_files, versions_before_removals

RETENTION_HOURS = 168
LOG_RETENTION_HOURS = 720


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What flows still need of one table.

    Attributes:
        log_from: the first version whose commit must stay in the log.
        rows_from: the first version of which rows, and those of all later ones, are still to be read; None if none are.
        flow: whose checkpoint it is; of several, one that has rows to read and is furthest behind.
    """

    log_from: int
    rows_from: int | None = None
    flow: str

    def and_also(self, other: Need | None) -> Need:
        """Return what meets both."""
        if other is None:
            return self
        rows = [version for version in (self.rows_from, other.rows_from) if version is not None]
        return Need(
            log_from=min(self.log_from, other.log_from),
            rows_from=min(rows, default=None),
            flow=min(self, other, key=lambda need: (need.rows_from is None, need.rows_from, need.log_from)).flow,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Maintained:
    """What maintenance did to one table, or would do.

    Attributes:
        table: its location, relative to the storage folder if it is below it.
        files_before: data files before compaction.
        files_after: data files after it.
        vacuumed_files: data files deleted.
        log_files: files of the log deleted.
        kept_for: the flow for which files stay that the newest version does not have, None if there is none.
        skipped: why nothing was done, None if it was.
    """

    table: str
    files_before: int = 0
    files_after: int = 0
    vacuumed_files: int = 0
    log_files: int = 0
    kept_for: str | None = None
    skipped: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Retention:
    """How long stays what the newest version of a table does not need: for readers that no checkpoint here knows of.

    Raises:
        SpecError: `RETENTION_TOO_SHORT`, unless short ones are allowed.
    """

    files_hours: int = RETENTION_HOURS
    log_hours: int = LOG_RETENTION_HOURS
    allow_short: bool = False

    def __post_init__(self) -> None:
        if self.files_hours < RETENTION_HOURS and not self.allow_short:
            raise SpecError(
                "RETENTION_TOO_SHORT",
                f"a retention of {self.files_hours} hours is below {RETENTION_HOURS}",
                cause="whoever reads an older version of a table just now, or writes to it, would miss its files; this "
                "pipeline's own flows are safe",
                hint="make sure that nobody else uses the tables, then pass --allow-short-retention",
            )


def versions_in_use(catalog: Catalog) -> dict[str, Need]:
    """Return, by location, what the checkpoints of a storage folder still need of tables.

    Raises:
        StorageError: `CHECKPOINT_CORRUPT`, `CHECKPOINT_TOO_NEW`.
    """
    found: dict[str, Need] = {}
    for folder in checkpoint_folders(catalog):
        for text, need in _needs(catalog, folder):
            location = catalog.absolute(text)
            found[location] = need.and_also(found.get(location))
    return found


def _needs(catalog: Catalog, folder: Place) -> Iterator[tuple[str, Need]]:
    """Yield what one dataset's flows need, by location as the checkpoint has it."""
    name, own = folder.name, _location(catalog, folder)
    hidden = str(catalog.storage.joinpath("_auxiliary", *folder.parts[-3:]))
    records = ViewRecords(folder)
    for record in filter(None, (records.note(), records.intent())):
        for location, read in record.inputs.items():
            yield location, Need(log_from=read.version + 1, flow=name)
        if record.state_version is not None:
            yield records.state_location, Need(log_from=record.state_version + 1, flow=name)
        if own is not None and record.table_version >= 0:
            yield own, Need(log_from=record.table_version + 1, flow=name)
    for place, committed, unfinished in batches_in_use(folder, read_generation(folder)):
        flow = flow_name(place.parent.name)
        if committed is not None:
            yield from _streams(committed, "end", flow)
            note = read_json(place / "commits" / str(committed.id))
            for table, key in ((own, "table_version"), (hidden, "auxiliary_version")):
                if table is not None and key in note:
                    yield table, Need(log_from=note[key] + 1, flow=flow)
        if unfinished is not None:
            yield from _streams(unfinished, "start", flow)
            tables = dict(unfinished.versions)
            state = unfinished.state.get("versions", {})
            tables |= {str(place / "state" / table): version for table, version in state.items() if version is not None}
            for location, version in tables.items():
                yield location, Need(log_from=version, rows_from=version, flow=flow)


def _streams(batch: Batch, side: str, flow: str) -> Iterator[tuple[str, Need]]:
    """Yield what a flow needs of the tables that it reads as streams: those of a batch begin with what it has not read."""
    for source, location in batch.tables.items():
        version = int(batch.sources[source][side]["version"])
        yield location, Need(log_from=version, rows_from=version, flow=flow)


def _location(catalog: Catalog, folder: Place) -> str | None:
    path = folder / "definition.json"
    return None if not path.is_file() else read_json(path).get("location")


def pipeline_tables(catalog: Catalog) -> tuple[str, ...]:
    """Return the locations of the tables that a storage folder's pipelines write: datasets, AUTO CDC, state, event log."""
    found: list[str] = []
    for folder in checkpoint_folders(catalog):
        if (text := _location(catalog, folder)) is not None:
            found.append(catalog.absolute(text))
            found.append(str(catalog.storage.joinpath("_auxiliary", *folder.parts[-3:])))
            found.append(ViewRecords(folder).state_location)
        for place, _, _ in batches_in_use(folder, read_generation(folder)):
            found += sorted(str(path) for path in place.glob("state/*") if path.is_dir())
    return (*found, str(catalog.system / "events"))


def keyed_tables(catalog: Catalog) -> frozenset[str]:
    """Return the locations of AUTO CDC targets and of what is remembered of them, and of views: their files are in an order
    of their own, and are not put together."""
    found = set()
    for folder in checkpoint_folders(catalog):
        found.add(ViewRecords(folder).state_location)
        hidden = catalog.storage.joinpath("_auxiliary", *folder.parts[-3:])
        if hidden.is_dir():
            found |= {str(hidden), *(catalog.absolute(text) for text in filter(None, [_location(catalog, folder)]))}
    return frozenset(found)


def maintain_table(
    store: TableStore,
    location: str,
    *,
    label: str,
    need: Need | None,
    retention: Retention,
    compact: bool = True,
    now: datetime | None = None,
    dry_run: bool = False,
) -> Maintained:
    """Put a table's small files together, and remove old files and the oldest part of its log.

    No row changes: compaction says `dataChange = false`, so nothing that reads the table as a stream or as the input of a
    view has work to do. Running it again, or after it died, is fine. Call it where no flow merges into the table.

    Args:
        need: what flows still need of it; that stays, however old.
        compact: put small files together.

    Raises:
        StorageError: the table cannot be read or written.
    """
    table = store.open(location)
    if table is None:
        return Maintained(table=label, skipped="no table")
    keep: tuple[int, ...] = ()
    if need is not None and need.rows_from is not None:
        found = versions_before_removals(location, since=need.rows_from)
        if found is None:
            return Maintained(
                table=label,
                skipped=f"the flow {need.flow} needs version {need.rows_from}, which the log no longer has",
                kept_for=need.flow,
            )
        keep = found
    before = table.size().files
    if compact and before > 1 and not dry_run:
        table.keep_log()
        newest = table.version
        table.compact()
        reach("maintenance.compacted")
        if need is not None and need.rows_from is not None and need.rows_from <= newest:
            keep = (*keep, newest)
    removed = table.remove_old_files(retention_hours=retention.files_hours, keep_versions=keep, dry_run=dry_run)
    return Maintained(
        table=label,
        files_before=before,
        files_after=table.size().files,
        vacuumed_files=removed,
        log_files=_clean_log(location, need, retention, now or datetime.now(UTC), dry_run=dry_run),
        kept_for=need.flow if need is not None and keep else None,
    )


def _clean_log(location: str, need: Need | None, retention: Retention, now: datetime, *, dry_run: bool) -> int:
    """Remove the oldest part of a log, oldest file first: what a clean-up that died leaves is a shorter log."""
    files = old_log_files(
        location,
        needed_from=None if need is None else need.log_from,
        now=now,
        retention_hours=retention.log_hours,
    )
    if not dry_run:
        for file in files:
            file.unlink(missing_ok=True)
            reach("maintenance.commit_removed")
    return len(files)


def maintain(
    catalog: Catalog,
    store: TableStore,
    *,
    retention: Retention,
    now: datetime | None = None,
    dry_run: bool = False,
) -> tuple[Maintained, ...]:
    """Maintain every table that the pipelines of a storage folder write; the caller holds their lock.

    Raises:
        StorageError: a checkpoint or a table cannot be read or written.
    """
    needs = versions_in_use(catalog)
    keyed = keyed_tables(catalog)
    return tuple(
        maintain_table(
            store,
            location,
            label=catalog.relative(location),
            need=needs.get(location),
            retention=retention,
            compact=location not in keyed or not store.keeps_key_order,
            now=now,
            dry_run=dry_run,
        )
        for location in pipeline_tables(catalog)
        if store.exists(location)
    )
