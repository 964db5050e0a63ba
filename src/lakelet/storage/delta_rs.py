"""The Delta tables of a folder or a bucket, through delta-rs: found, made, dropped, and kept open between micro-batches."""

from __future__ import annotations

import re

from deltalake import DeltaTable
from deltalake.exceptions import TableNotFoundError

from lakelet.errors import StorageError
from lakelet.places import is_remote, place, remove_folder
from lakelet.storage import known_tables
from lakelet.storage.base import TableDefinition
from lakelet.storage.delta_log import has_log, version_gone
from lakelet.storage.delta_rs_table import CHECKPOINT_INTERVAL, KEEPS_LOG, DeltaRsTable
from lakelet.storage.failures import storage_errors
from lakelet.storage.handles import Handles, OpenTable
from lakelet.storage.schema import nullable


class DeltaRsStore:
    """Delta tables on the local file system and in object stores."""

    keeps_key_order = True

    def __init__(self) -> None:
        self._handles = Handles()

    def open(self, location: str, *, version: int | None = None) -> DeltaRsTable | None:
        check_location(location)
        known = self._known(location) if version is None else None
        if known is not None:
            return known
        try:
            with storage_errors(location):
                if not is_remote(location) and not (place(location) / "_delta_log").is_dir():
                    return None
                if version is not None:
                    return self._table(DeltaTable(location, version=version), location)
                return self._lent(self._handles.take(location) or OpenTable.new(DeltaTable(location)), location)
        except TableNotFoundError as error:
            if version is not None:
                raise version_gone(location, version) from error
            return None

    def _table(self, delta: DeltaTable, location: str) -> DeltaRsTable:
        return DeltaRsTable(delta, location)

    def _known(self, location: str) -> DeltaRsTable | None:
        """Return the newest version of a table if this process knows it without its log."""
        known = known_tables.newest(location)
        return None if known is None else DeltaRsTable(None, location, known=known)

    def _lent(self, handle: OpenTable, location: str) -> DeltaRsTable:
        """Return a table whose handle goes back when the table is no longer used."""
        table = self._table(handle.delta, location)
        self._handles.lend(handle, location, to=table)
        return table

    def exists(self, location: str) -> bool:
        return has_log(location)

    def create(self, location: str, definition: TableDefinition) -> DeltaRsTable:
        present = self.open(location)
        if present is not None:
            return present
        with storage_errors(location):
            place(location).mkdir(parents=True, exist_ok=True)
            table = DeltaTable.create(
                location,
                schema=nullable(definition.schema),
                mode="error",
                partition_by=list(definition.partition_cols) or None,
                description=definition.comment,
                configuration={
                    "delta.checkpointInterval": CHECKPOINT_INTERVAL,
                    **({KEEPS_LOG: "false"} if definition.keeps_log else {}),
                    **definition.properties,
                },
                raise_if_key_not_exists=False,
            )
            return self._lent(OpenTable.new(table), location)

    def drop(self, location: str) -> None:
        self._handles.forget(location)
        with storage_errors(location):
            remove_folder(place(location))


_UNWRITABLE = re.compile(r"[\[\]^|\\\x00-\x1f]|%[0-9A-Fa-f]{2}")


def check_location(location: str) -> None:
    """Refuse a folder that delta-rs would take for another one, or die of.

    Raises:
        StorageError: `UNSUPPORTED_PATH`.
    """
    found = _UNWRITABLE.search(location)
    if found:
        raise StorageError(
            "UNSUPPORTED_PATH",
            f"there can be no table at `{location}`",
            cause=f"the table writer cannot handle `{found.group()}` in a path",
            hint="choose another folder for the storage, or another name for the dataset",
        )
