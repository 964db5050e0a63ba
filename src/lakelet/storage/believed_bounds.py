"""Which versions of tables have bounds that lead an engine astray, remembered: few tables have decimals that long.

A version is looked at once, and those near it only as far as their commits tell: one without metadata has the same columns.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from dataclasses import dataclass

import pyarrow as pa

from lakelet.storage import known_tables
from lakelet.storage.base import TableStore
from lakelet.storage.decimal_bounds import wide_fields
from lakelet.storage.delta_log import commit_file, sets_metadata

REMEMBERED = 256
FOLLOWED_COMMITS = 32
"""Of more commits than that since a known version, the table is opened: that is faster."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Seen:
    """What is known of one version.

    Attributes:
        commit: identifies the file of the version's commit, which another table at this place does not have.
    """

    version: int
    commit: tuple[int, int] | None
    is_wide: bool
    leads_astray: bool = False


_seen: OrderedDict[tuple[str, int, bool], _Seen] = OrderedDict()
_newest: dict[str, _Seen] = {}
_lock = threading.Lock()


def leads_astray(store: TableStore, location: str, version: int, *, read_exactly: bool) -> bool:
    """Return whether a file of this version has a bound of a DECIMAL that need not be what the file has.

    Args:
        read_exactly: by an engine with the capability `exact_bounds`.

    Costs one call of the file system for a version that was looked at, and one more for each commit since.
    """
    commit = commit_file(location, version)
    with _lock:
        seen, before = _seen.get((location, version, read_exactly)), _newest.get(location)
    if seen is None or seen.commit != commit:
        seen = _look(store, location, version, commit, before, read_exactly=read_exactly)
        with _lock:
            _seen[location, version, read_exactly] = seen
            while len(_seen) > REMEMBERED:
                _newest.pop(_seen.popitem(last=False)[0][0], None)
            if before is None or before.version <= version or before.commit != commit_file(location, before.version):
                _newest[location] = seen
    return seen.leads_astray


def _look(
    store: TableStore,
    location: str,
    version: int,
    commit: tuple[int, int] | None,
    before: _Seen | None,
    *,
    read_exactly: bool,
) -> _Seen:
    schema = known_tables.schema_of(location, version, commit)
    if schema is None and before is not None and not before.is_wide and _keeps_columns(location, before, version):
        return _Seen(version=version, commit=commit, is_wide=False)
    if schema is not None and not wide_fields(schema):
        return _Seen(version=version, commit=commit, is_wide=False)
    table = store.open(location)  # the newest one is open, most often
    if table is None or table.version != version:
        table = store.open(location, version=version)
    schema = pa.schema([]) if table is None else table.schema
    wide = bool(wide_fields(schema))
    found = wide and table is not None and table.bounds_lead_astray(read_exactly=read_exactly)
    return _Seen(version=version, commit=commit, is_wide=wide, leads_astray=found)


def _keeps_columns(location: str, before: _Seen, version: int) -> bool:
    """Return whether the log says that two versions have the same columns."""
    first, last = sorted((before.version, version))
    if before.commit is None or not 0 < last - first <= FOLLOWED_COMMITS:
        return False
    if commit_file(location, before.version) != before.commit:
        return False
    return not any(sets_metadata(location, number) for number in range(first + 1, last + 1))
