"""What a materialized view was computed from: the note of its last refresh, and the intent of one under way.

A refresh writes its intent, then the partial values of its groups (if it keeps any), then the view, then its note. Both tables
carry its number as a receipt, so after a crash the next update knows how far it came.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any

from lakelet.execution.checkpoint import FORMAT, STAGED, read_derived, write_json
from lakelet.places import Place


@dataclass(frozen=True, slots=True, kw_only=True)
class InputVersion:
    """The version of a table that a refresh read.

    Attributes:
        table_id: of the table, as its log has it; None where nobody asked.
        commit_file: what identifies the file of that commit on this file system.
    """

    version: int
    table_id: str | None = None
    commit_file: tuple[int, int] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class ViewRecord:
    """One refresh.

    Attributes:
        batch: its number, the receipt in the view's table and in its state.
        technique: how the view was brought up to date.
        engine: that must go on with what is kept of the groups; None where any can.
        kept: what is kept of the groups, with its types.
        in_cluster: a cluster writes the tables, and may go on with it when this process is gone.
        inputs: by location relative to the storage folder.
        files: what lay at the paths of plain files that the query reads.
        has_state: partial values of the groups are kept.
        table_version: of the view after the refresh, -1 in an intent.
        state_version: of the table with the partial values after the refresh; None where none are kept, and in an intent.
        input_rows: of a view with groups, in all tables that it read, as their logs say; None where nobody counted.
    """

    batch: int
    technique: str
    generation: int
    fingerprint: str
    engine: str | None
    time_zone: str
    inputs: Mapping[str, InputVersion]
    files: list[list[Any]]
    kept: str = ""
    in_cluster: bool = False
    has_state: bool = False
    table_version: int = -1
    state_version: int | None = None
    input_rows: int | None = None

    def is_like(self, other: ViewRecord) -> bool:
        """Return whether two refreshes are of the same query under the same settings."""
        return all(
            getattr(self, name) == getattr(other, name)
            for name in ("generation", "fingerprint", "engine", "kept", "time_zone")
        )


class ViewRecords:
    """The two files of one view.

    Args:
        folder: the checkpoint of the dataset.
    """

    def __init__(self, folder: Place) -> None:
        self._note = folder / "view.json"
        self._intent = folder / "view_intent.json"
        self.state_location = str(folder / "view_state")
        self.staging = str(folder / STAGED)

    def note(self) -> ViewRecord | None:
        return _read(self._note)

    def intent(self) -> ViewRecord | None:
        """Return the refresh that was begun and not noted, None if there is none."""
        intent, note = _read(self._intent), self.note()
        return intent if intent is not None and (note is None or intent.batch > note.batch) else None

    def write_intent(self, record: ViewRecord) -> None:
        _write(self._intent, record)

    def write_note(self, record: ViewRecord, *, table_version: int, state_version: int | None) -> None:
        # The receipts in the tables tell the same, if a loss of power takes it.
        note = replace(record, table_version=table_version, state_version=state_version)
        _write(self._note, note, durable=False)


def _write(path: Place, record: ViewRecord, *, durable: bool = True) -> None:
    write_json(path, {"format": FORMAT, **asdict(record)}, durable=durable)


def _read(path: Place) -> ViewRecord | None:
    """Return a record; a damaged one, and one of a release that kept less, is none: the view is computed anew.

    What a later release has beside it is left out.
    """
    data = read_derived(path)
    if "batch" not in data:
        return None
    data.pop("format")
    inputs = {
        name: InputVersion(
            version=item["version"],
            table_id=item["table_id"],
            commit_file=tuple(item["commit_file"]) if item["commit_file"] else None,
        )
        for name, item in data.pop("inputs").items()
    }
    known = {field.name for field in fields(ViewRecord)}
    return ViewRecord(inputs=inputs, **{name: value for name, value in data.items() if name in known})
