"""The clauses of AUTO CDC (formerly APPLY CHANGES) in SQL.

Grammar: https://docs.databricks.com/aws/en/ldp/developer/ldp-sql-ref-apply-changes-into
"""

from __future__ import annotations

from typing import Any

from lakelet.errors import DefinitionError
from lakelet.pipelines.sql_cursor import Cursor

CLAUSES = (
    "KEYS (…)",
    "IGNORE NULL UPDATES [ON …]",
    "APPLY AS DELETE WHEN …",
    "APPLY AS TRUNCATE WHEN …",
    "SEQUENCE BY …",
    "COLUMNS …",
    "STORED AS SCD TYPE 1|2",
    "TRACK HISTORY ON …",
    "COLUMNS TO UPDATE …",
    "WHERE …",
)
_STARTS = (
    ("KEYS", "("),
    ("IGNORE", "NULL"),
    ("APPLY", "AS"),
    ("SEQUENCE", "BY"),
    ("COLUMNS", "("),
    ("COLUMNS", "*"),
    ("COLUMNS", "TO", "UPDATE"),
    ("STORED", "AS"),
    ("TRACK", "HISTORY"),
    ("WHERE",),
)


def read_clauses(cursor: Cursor) -> dict[str, Any]:
    """Read the clauses after the source, in any order, to the end of the statement.

    Returns:
        Keyword arguments of `AutoCdcFlow`.

    Raises:
        DefinitionError: for an unknown, repeated, missing or contradictory clause.
    """
    start = cursor.i
    given: dict[str, Any] = {}
    while not cursor.at_end:
        at = cursor.i
        clause = _read_clause(cursor)
        repeated = given.keys() & clause.keys()
        if repeated:
            cursor.i = at
            raise cursor.error(f"the clause {cursor.token} is given twice")
        given |= clause
    cursor.i = start
    if "keys" not in given:
        raise cursor.error("AUTO CDC needs KEYS", hint="add `KEYS (id)` after the source")
    if "sequence_by" not in given:
        raise cursor.error("AUTO CDC needs SEQUENCE BY", hint="add `SEQUENCE BY column`")
    _check_scd_type(cursor, given)
    if "columns_to_update" in given and "ignore_null_updates" in given:
        raise cursor.error(
            "IGNORE NULL UPDATES and COLUMNS TO UPDATE cannot be set together",
            condition="CANNOT_SET_TOGETHER",
            hint="remove one of the two clauses",
        )
    return given


def _read_clause(cursor: Cursor) -> dict[str, Any]:
    if cursor.accept("KEYS"):
        return {"keys": cursor.names_in_group("KEYS")}
    if cursor.accept("IGNORE", "NULL", "UPDATES"):
        given: dict[str, Any] = {"ignore_null_updates": True}
        if cursor.accept("ON"):
            given |= _read_columns(cursor, "IGNORE NULL UPDATES ON", "ignore_null_updates")
        return given
    if cursor.accept("APPLY", "AS", "DELETE", "WHEN"):
        return {"apply_as_deletes": _read_expression(cursor, "APPLY AS DELETE WHEN")}
    if cursor.accept("APPLY", "AS", "TRUNCATE", "WHEN"):
        return {"apply_as_truncates": _read_expression(cursor, "APPLY AS TRUNCATE WHEN")}
    if cursor.accept("SEQUENCE", "BY"):
        return {"sequence_by": _read_expression(cursor, "SEQUENCE BY")}
    if cursor.accept("COLUMNS", "TO", "UPDATE"):
        return {"columns_to_update": cursor.column("COLUMNS TO UPDATE")}
    if cursor.accept("COLUMNS"):
        lists = _read_columns(cursor, "COLUMNS", "")
        return {"except_column_list" if "except" in key else "column_list": value for key, value in lists.items()}
    if cursor.accept("STORED", "AS"):
        return {"scd_type": _read_scd_type(cursor)}
    if cursor.accept("TRACK", "HISTORY", "ON"):
        return _read_columns(cursor, "TRACK HISTORY ON", "track_history")
    if cursor.accept("WHERE"):
        return {"where": _read_expression(cursor, "WHERE")}
    raise cursor.unknown_clause(CLAUSES)


def _read_columns(cursor: Cursor, clause: str, prefix: str) -> dict[str, Any]:
    """Read `(a, b)`, `a, b`, `* EXCEPT (c)` or `*`, which is the default."""
    if cursor.accept("*"):
        if not cursor.accept("EXCEPT"):
            return {}
        return {f"{prefix}_except_column_list": cursor.names_in_group(f"{clause} * EXCEPT")}
    names = cursor.names_in_group(clause) if cursor.sees("(") else cursor.names(clause)
    return {f"{prefix}_column_list": names}


def _read_expression(cursor: Cursor, clause: str) -> str:
    """Read an expression up to the next clause."""
    start = cursor.i
    while not cursor.at_end and not any(cursor.sees(*words) for words in _STARTS):
        if cursor.i > start and cursor.sees("COLUMNS"):
            break
        cursor.skip_token()
    return cursor.expression(start, clause)


def _read_scd_type(cursor: Cursor) -> int:
    if cursor.accept("BITEMPORAL"):
        raise cursor.unsupported("bitemporal tables are not supported", hint="use `STORED AS SCD TYPE 2`")
    cursor.expect("SCD")
    cursor.expect("TYPE")
    if not (cursor.sees("1") or cursor.sees("2")):
        raise cursor.error(f"expected SCD TYPE 1 or 2, found {cursor.token}")
    return int(cursor.skip_token().text)


def _check_scd_type(cursor: Cursor, given: dict[str, Any]) -> None:
    scd_type = given.get("scd_type", 1)
    if scd_type == 1 and any(key.startswith("track_history") for key in given):
        raise _contradiction(
            cursor,
            "AUTOCDC_TRACK_HISTORY_REQUIRES_SCD2",
            "TRACK HISTORY needs SCD type 2",
            "STORED AS SCD TYPE 2",
        )
    if scd_type == 2 and "apply_as_truncates" in given:
        raise _contradiction(
            cursor,
            "AUTOCDC_TRUNCATE_REQUIRES_SCD1",
            "APPLY AS TRUNCATE needs SCD type 1",
            "STORED AS SCD TYPE 1",
        )


def _contradiction(cursor: Cursor, condition: str, message: str, wanted: str) -> DefinitionError:
    return cursor.error(message, condition=condition, hint=f"write `{wanted}`, or remove the clause")
