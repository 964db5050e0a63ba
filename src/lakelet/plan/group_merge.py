"""Partial values of groups as queries: how those of earlier refreshes and those of a slice become one in a cluster.

The rules are those that `execution/partial_values.py` has for Arrow tables.
"""

from __future__ import annotations

from collections.abc import Sequence

from pyspark.sql.types import DoubleType, StructType

from lakelet.plan import relation as plan
from lakelet.plan.group_query import COUNTS, ID, KIND, SLOT, VERSION, GroupQuery
from lakelet.plan.partial_aggregates import DIGEST, LOST, Measure, Merge
from lakelet.plan.relation import Relation

CHANGED = "__lakelet_changed"
"""Column of merged groups: whether the slice has rows of it."""
OWNER = ("__lakelet_owner1", "__lakelet_owner2")
"""Columns of distinct values: the `ID` of their group."""
OVERFLOW = "a sum is too large for its type"
_OLD, _NEW, _SIDES = "__old", "__new", "__sides"


def merged(before: Relation, added: Relation, columns: StructType, measures: Sequence[Measure]) -> Relation:
    """Return the groups of both.

    Grain: a group. Columns: `columns` and `CHANGED`.

    Args:
        before: at most one row a group; has `columns`, and maybe others.
        added: the same of a slice.
        columns: `ID`, and all that a group has.
    """
    inner = {CHANGED: "bool_or(is_new)"}
    outer = {name: name for name in (*columns.names, CHANGED)}
    for measure in measures:
        _merge(measure, columns, inner, outer)
    inner |= {name: f"first({name})" for name in outer if name == outer[name] and name not in (*ID, *inner)}
    names, ids = ", ".join(columns.names), ", ".join(ID)
    query = f"""
        SELECT {_aliased(outer)}
        FROM (
            SELECT {ids}, {_aliased(inner)}
            FROM (SELECT {names}, false AS is_new FROM before UNION ALL SELECT {names}, true AS is_new FROM added)
            GROUP BY {ids}
        )
    """
    return plan.sql(query, {"before": before, "added": added})


def _merge(measure: Measure, columns: StructType, inner: dict[str, str], outer: dict[str, str]) -> None:
    """Add the two steps of one measure: what is aggregated over both sides, and the value from that."""
    names = list(measure.columns)
    match measure.merge:
        case Merge.ADD | Merge.DISTINCT:
            for name in names:
                if name + LOST in columns.names:
                    _add_doubles(name, inner, outer)
                else:
                    inner[name], inner[name + _SIDES] = f"sum({name})", f"count({name})"
                    kind = columns[name].dataType.simpleString()
                    is_too_large = f"{name} IS NULL AND {name}{_SIDES} > 0"  # without ANSI a sum becomes NULL
                    error = f"CAST(raise_error('{OVERFLOW}') AS {kind})"
                    outer[name] = f"CASE WHEN {is_too_large} THEN {error} ELSE CAST({name} AS {kind}) END"
        case Merge.MIN | Merge.MAX:
            inner[names[0]] = f"{measure.merge.value}({names[0]})"
        case Merge.MOMENTS:
            _merge_moments(names, inner, outer)


def _sides(name: str, inner: dict[str, str]) -> tuple[str, str]:
    """Add both sides' values of a column under names of their own; returns those."""
    inner[name + _OLD], inner[name + _NEW] = (
        f"max(CASE WHEN {side} THEN {name} END)" for side in ("NOT is_new", "is_new")
    )
    return name + _OLD, name + _NEW


def _add_doubles(name: str, inner: dict[str, str], outer: dict[str, str]) -> None:
    """What the addition has lost is kept (Neumaier)."""
    old, new = _sides(name, inner)
    lost = [f"coalesce({side}, 0.0D)" for side in _sides(name + LOST, inner)]
    a, b = f"coalesce({old}, 0.0D)", f"coalesce({new}, 0.0D)"
    total = f"({a} + {b})"
    outer[name] = f"CASE WHEN {old} IS NOT NULL OR {new} IS NOT NULL THEN {total} END"
    error = f"CASE WHEN abs({a}) >= abs({b}) THEN ({a} - {total}) + {b} ELSE ({b} - {total}) + {a} END"
    outer[name + LOST] = f"CASE WHEN {total} - {total} = 0.0D THEN {error} + {lost[0]} + {lost[1]} ELSE 0.0D END"


def _merge_moments(names: Sequence[str], inner: dict[str, str], outer: dict[str, str]) -> None:
    """Source: Chan, Golub, LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances (1979)."""
    (n1, n2), (mean1, mean2), (m1, m2) = (_sides(name, inner) for name in names)
    n1, n2 = f"coalesce({n1}, 0L)", f"coalesce({n2}, 0L)"
    count, mean, squares = names
    difference, total = f"({mean2} - {mean1})", f"({n1} + {n2})"

    def either(both: str, first: str, second: str) -> str:
        return f"CASE WHEN {total} = 0 THEN NULL WHEN {n1} = 0 THEN {second} WHEN {n2} = 0 THEN {first} ELSE {both} END"

    outer[count] = total
    outer[mean] = either(f"{mean1} + {difference} * {n2} / {total}", mean1, mean2)
    outer[squares] = either(f"{m1} + {m2} + {difference} * {difference} * {n1} * {n2} / {total}", m1, m2)


def sums_of_doubles(columns: StructType, measures: Sequence[Measure]) -> list[str]:
    """Return the columns of partial values whose additions lose something."""
    names = dict.fromkeys(name for measure in measures if measure.merge is Merge.ADD for name in measure.columns)
    return [name for name in names if isinstance(columns[name].dataType, DoubleType)]


def whole_sums(groups: Relation, columns: StructType) -> Relation:
    """Return groups with their sums of doubles made whole."""
    values = {
        name: f"{name} + coalesce({name + LOST}, 0.0D)" if name + LOST in columns.names else name
        for name in columns.names
        if not name.endswith(LOST)
    }
    return plan.sql(f"SELECT {_aliased(values)} FROM kept", {"kept": groups})


# -- distinct values ----------------------------------------------------------------------------------------------


def distinct_values(groups: GroupQuery, digests: Relation) -> Relation:
    """Return the values that `count(DISTINCT …)` counts.

    Grain: a value in a group, of a measure. Columns: `KIND` (the column of the measure), `SLOT` and `ID[1]` (two hashes of the
    value and its group), `OWNER`.

    Args:
        digests: of `GroupQuery.digests`.
    """
    first, second = DIGEST
    values = [
        f"named_struct('kind', '{name}', 'counts', {name}{COUNTS}, '{first}', {name}.{first}, '{second}', {name}.{second})"
        for name in groups.distinct
    ]
    columns = {KIND: "value.kind", SLOT: f"{ID[0]} ^ value.{first}", ID[1]: f"{ID[1]} ^ value.{second}"}
    columns |= dict(zip(OWNER, ID, strict=True))
    query = f"""
        SELECT DISTINCT {_aliased(columns)}
        FROM (SELECT {", ".join(ID)}, explode(array({", ".join(values)})) AS value FROM digests)
        WHERE value.counts
    """
    return plan.sql(query, {"digests": digests})


def unknown_values(values: Relation, known: Relation) -> Relation:
    """Return the values that are not among those of earlier refreshes.

    Args:
        values: read twice.
        known: has `KIND`, `SLOT` and `ID[1]`.
    """
    names = (KIND, SLOT, ID[1])
    same = " AND ".join(f"found.{name} = nearby.{name}" for name in names)
    # What is known is most: it is read once and sent nowhere.
    query = f"""
        SELECT found.* FROM found LEFT ANTI JOIN (
            SELECT {", ".join(names)} FROM known WHERE {SLOT} IN (SELECT {SLOT} FROM found)
        ) AS nearby ON {same}
    """
    return plan.sql(query, {"found": values, "known": known})


def counted(partial: Relation, columns: StructType, groups: GroupQuery, values: Relation | None) -> Relation:
    """Return the partial values of groups as they are kept: with the numbers of their values, and what additions have lost.

    Args:
        partial: of `GroupQuery.partial`, without those of `distinct`.
        columns: of `partial`.
        values: each once; None if the query counts none.
    """
    kept = {name: f"partial.{name}" for name in columns.names}
    kept |= {name + LOST: "0.0D" for name in sums_of_doubles(columns, groups.measures)}
    sources, join = {"partial": partial}, ""
    if values is not None:
        kept |= {name: f"coalesce(owned.{name}, 0L)" for name in groups.distinct}
        owners = ", ".join(OWNER)
        numbers = _aliased({name: f"count_if({KIND} = '{name}')" for name in groups.distinct})
        same = " AND ".join(f"partial.{own} = owned.{other}" for own, other in zip(ID, OWNER, strict=True))
        join = f"LEFT JOIN (SELECT {owners}, {numbers} FROM found GROUP BY {owners}) AS owned ON {same}"
        sources["found"] = values
    return plan.sql(f"SELECT {_aliased(kept)} FROM partial {join}", sources)


def only(entries: Relation, columns: Sequence[str]) -> Relation:
    """Return entries without the columns that say where they stand."""
    return plan.selected(entries, {name: plan.attribute(name) for name in columns})


def newest(entries: Relation, columns: Sequence[str], *, like: Relation | None = None) -> Relation:
    """Return the newest entry of each group.

    Args:
        columns: what is wanted of an entry.
        like: only groups that share a unit with one of these; None for all.
    """
    names = ", ".join(columns)
    sources = {"entries": entries}
    where = ""
    if like is not None:
        sources["changed"] = like
        where = f"WHERE {SLOT} IN (SELECT {SLOT} FROM changed)"
    query = f"""
        SELECT {names}
        FROM (
            SELECT *, row_number() OVER (PARTITION BY {", ".join(ID)} ORDER BY {VERSION} DESC) AS __lakelet_place
            FROM entries {where}
        )
        WHERE __lakelet_place = 1
    """
    return plan.sql(query, sources)


def _aliased(values: dict[str, str]) -> str:
    return ", ".join(f"{text} AS {name}" for name, text in values.items())
