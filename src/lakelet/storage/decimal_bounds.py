"""Bounds of DECIMAL columns in a table's log: which are written, and which of those that others wrote are believed.

delta-rs computes the bounds of a DECIMAL as doubles, with a scale of 0 cut off at 64 bits, and Sail reads a bound with decimal
places as a double, whoever wrote it. Up to 15 digits that is exact. Beyond, files are skipped that have the value looked for, and
one whose bounds are the same is read as that constant (docs/adr/0036). So our tables have no bounds that may be rounded, and of
other tables those are not believed that a double can be. All functions are pure.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import ColumnProperties, WriterProperties

EXACT_DIGITS = 15
"""So many digits every double keeps."""
DOUBLE_DIGITS = 17
"""So many digits the text of a double has at most."""
_GREATEST_LONG = Decimal(2**63 - 1)
"""What delta-rs writes for anything greater, with a scale of 0; for anything smaller, a number that a double can be."""
_UNBOUNDED = ColumnProperties(statistics_enabled="NONE")


def is_wide(kind: pa.DataType) -> bool:
    """Return whether a type has values that doubles do not keep apart."""
    return bool(pa.types.is_decimal(kind)) and kind.precision > EXACT_DIGITS


def has_wide(schema: pa.Schema) -> bool:
    return any(is_wide(kind) for kind in schema.types)


def holds_wide(kind: pa.DataType) -> bool:
    """Return whether a type is such a decimal, or a struct that has one; elements of lists and maps have no bounds."""
    return is_wide(kind) or (pa.types.is_struct(kind) and any(holds_wide(field.type) for field in kind))


def wide_fields(fields: Iterable[pa.Field], *above: str) -> list[tuple[str, ...]]:
    """Return the names of all such decimals, each after those of the structs that it is in."""
    found = []
    for field in fields:
        if is_wide(field.type):
            found.append((*above, field.name))
        elif pa.types.is_struct(field.type):
            found += wide_fields(field.type, *above, field.name)
    return found


def writer_properties(
    schema: pa.Schema, *, row_group_rows: int | None = None, compacts: bool = False
) -> WriterProperties | None:
    """Return how delta-rs shall write rows of these columns, None for the way that it has by itself.

    Args:
        row_group_rows: rows of a row group; columns have no dictionaries then.
        compacts: for delta-rs's `optimize`, which compresses more than its other operations.
    """
    wide = [field.name for field in schema if is_wide(field.type)]
    inside = any(holds_wide(field.type) and not is_wide(field.type) for field in schema)
    if row_group_rows is None and not wide and not inside:
        return None
    columns = dict.fromkeys(wide, _UNBOUNDED)
    if inside:  # delta-rs takes a path into a struct for the name of a column: so whatever is nested has no bounds
        bounded = ColumnProperties(statistics_enabled="CHUNK")
        columns |= {f.name: bounded for f in schema if not pa.types.is_nested(f.type) and not is_wide(f.type)}
    options: dict[str, Any] = {}
    if row_group_rows is None:  # with properties of any kind, delta-rs compresses only if told to
        options = {"compression": "ZSTD", "compression_level": 4} if compacts else {"compression": "SNAPPY"}
    return WriterProperties(
        max_row_group_size=row_group_rows,
        default_column_properties=ColumnProperties(
            dictionary_enabled=None if row_group_rows is None else False,
            statistics_enabled="NONE" if inside else None if row_group_rows is None else "CHUNK",
        ),
        column_properties=columns or None,
        **options,
    )


def may_be_rounded(value: Decimal, scale: int) -> bool:
    """Return whether a bound may be what delta-rs has made of another value; or what Sail makes of it, with decimal places."""
    _sign, digits, exponent = value.as_tuple()
    assert isinstance(exponent, int)
    if not any(digits) or len(digits) + exponent + scale <= EXACT_DIGITS:
        return False
    return scale > 0 or value == _GREATEST_LONG or int(float(value)) == value


def doubtful(bounds: pa.ChunkedArray) -> np.ndarray:
    """Return which bounds of a column may be rounded."""
    kind = bounds.type
    if not is_wide(kind):
        return np.zeros(len(bounds), bool)
    found = _large(bounds)
    for at in np.flatnonzero(found) if kind.scale == 0 else ():
        found[at] = may_be_rounded(bounds[int(at)].as_py(), 0)
    return found


def rounded(bounds: pa.ChunkedArray) -> np.ndarray:
    """Return which bounds of a column a writer may have rounded, for a reader that takes each as it is written."""
    found = doubtful(bounds)
    if found.any() and bounds.type.scale:
        text = pc.cast(bounds.filter(pa.array(found)), pa.string())
        digits = pc.utf8_trim(pc.replace_substring_regex(text, r"E.*$|[-.]", ""), "0")
        found[found] = pc.less_equal(pc.utf8_length(digits), DOUBLE_DIGITS).to_numpy()
    return found


def deceives(files: pa.Table, path: Sequence[str]) -> bool:
    """Return whether a bound of a column need not be what its file has, for a reader that takes each as it is written.

    Args:
        files: as delta-rs lists them: `num_records`, `null_count`, `min`, `max`.
        path: names of the column, and of the fields in it.
    """
    nulls = _field(files, "null_count", path)
    if nulls is None:
        return False
    has_values = pc.less(nulls, files.column("num_records")).fill_null(False)
    for side in ("min", "max"):
        bounds = _field(files, side, path)
        # delta-rs does not read those with an exponent, which only doubles are written with.
        if bounds is None or pc.any(pc.and_(has_values, pc.is_null(bounds))).as_py() or rounded(bounds).any():
            return True
    return False


def _field(files: pa.Table, column: str, path: Sequence[str]) -> pa.ChunkedArray | None:
    found = files.column(column) if column in files.column_names else None
    for name in path:
        at = -1 if found is None else found.type.get_field_index(name)
        found = None if at < 0 else pc.struct_field(found, at)
    return found


def misread(bounds: pa.ChunkedArray) -> np.ndarray:
    """Return which bounds of a column Sail reads as others, provided that their writer did not round."""
    kind = bounds.type
    found = _large(bounds) if is_wide(kind) and kind.scale else np.zeros(len(bounds), bool)
    for at in np.flatnonzero(found):
        value = bounds[int(at)].as_py()
        found[at] = Decimal(repr(float(value))) != value
    return found


def _large(bounds: pa.ChunkedArray) -> np.ndarray:
    """Return which bounds have more digits than every double keeps."""
    kind = bounds.type
    least = pa.scalar(Decimal((0, (1,), EXACT_DIGITS - kind.scale)), kind)
    large = pc.greater_equal(pc.abs(bounds), least).fill_null(False)
    return np.array(large.to_numpy(zero_copy_only=False) if isinstance(large, pa.Array) else large.to_numpy())
