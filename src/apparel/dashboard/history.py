"""How a customer, a product or a store changed: the versions that AUTO CDC keeps (SCD type 2), as a timeline."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lakelet.web import PageRequest, Site, ViewNotFoundError

MOST_CHANGED = 15
VERSIONS = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Dimension:
    """One history table, and the columns that open a new version."""

    kind: str
    title: str
    table: str
    key: str
    tracked: tuple[str, ...]


DIMENSIONS = {
    dimension.kind: dimension
    for dimension in (
        Dimension(
            kind="customers",
            title="Customer",
            table="02_silver.silver_customers",
            key="customer_id",
            tracked=("name", "email", "address", "phone_number", "gender"),
        ),
        Dimension(
            kind="products",
            title="Product",
            table="02_silver.silver_products",
            key="product_id",
            tracked=("name", "category", "brand", "price", "description", "color", "size"),
        ),
        Dimension(
            kind="stores",
            title="Store",
            table="02_silver.silver_stores",
            key="store_id",
            tracked=("name", "address", "manager", "status"),
        ),
    )
}


def listing(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return the customers, products and stores with the most versions, and what was searched for.

    Parameters: `kind` and `id`, to look one up.
    """
    kinds = []
    for dimension in DIMENSIONS.values():
        rows = site.query(
            f"SELECT {dimension.key} AS id, max(name) AS name, count(*) AS versions, max(__START_AT) AS changed_at "
            f"FROM {dimension.table} GROUP BY {dimension.key} ORDER BY versions DESC, id LIMIT {MOST_CHANGED}"
        )
        kinds.append({"kind": dimension.kind, "title": dimension.title, "rows": list(rows)})
    return {"kinds": kinds, "kind": request.text("kind"), "id": request.text("id")}


def one(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return the versions of one customer, product or store, the newest first, each with what changed in it."""
    dimension = DIMENSIONS.get(request.path["kind"])
    text = request.path["id"]
    if dimension is None or not (text.isascii() and text.isdecimal() and len(text) < 10):
        raise ViewNotFoundError(f"there is no history of `{request.path['kind']}` `{text}`")
    rows = site.query(
        f"SELECT * FROM {dimension.table} WHERE {dimension.key} = {int(text)} ORDER BY __START_AT LIMIT {VERSIONS}"
    )
    if not rows:
        raise ViewNotFoundError(f"{dimension.title.lower()} {text} has no history")
    return {
        "kind": dimension.kind,
        "title": dimension.title,
        "id": int(text),
        "name": rows[-1]["name"],
        "versions": _versions(rows, dimension)[::-1],
    }


def _versions(rows: Sequence[Mapping[str, Any]], dimension: Dimension) -> list[dict[str, Any]]:
    versions = []
    before: Mapping[str, Any] | None = None
    for row in rows:
        changed = [] if before is None else [name for name in dimension.tracked if row[name] != before[name]]
        versions.append(
            {
                "start": row["__START_AT"],
                "end": row["__END_AT"],
                "is_current": row["__END_AT"] is None,
                "changes": [
                    {"column": name, "from": before[name] if before else None, "to": row[name]} for name in changed
                ],
                "values": {name: value for name, value in row.items() if not name.startswith("__")},
            }
        )
        before = row
    return versions
