"""What the shop sells: revenue, products, customers, returns, and the sales of this moment."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

from lakelet.web import PageRequest, Site

DAILY = "SELECT * FROM 03_gold.gold_daily_sales_by_store ORDER BY sale_date, store_id"
PRODUCTS = """
SELECT product_id, product_name, product_category, total_revenue, total_quantity_sold, total_orders
FROM 03_gold.gold_product_performance ORDER BY total_revenue DESC, product_id LIMIT 10
"""
CATEGORIES = """
SELECT coalesce(product_category, 'unknown') AS category, round(sum(total_revenue), 2) AS revenue
FROM 03_gold.gold_product_performance GROUP BY coalesce(product_category, 'unknown') ORDER BY revenue DESC
"""
CUSTOMERS = """
SELECT customer_id, customer_name, total_spend, total_orders, avg_order_value, first_purchase_date, last_purchase_date
FROM 03_gold.gold_customer_lifetime_value ORDER BY total_spend DESC, customer_id LIMIT 10
"""
VALUES = """
SELECT count(*) AS customers, round(avg(total_spend), 2) AS average, round(sum(total_spend), 2) AS revenue,
       sum(total_orders) AS orders
FROM 03_gold.gold_customer_lifetime_value
"""
RETURNS = """
SELECT store_id, count(*) AS returns, sum(returned_quantity) AS items, round(sum(returned_amount), 2) AS amount
FROM 02_silver.silver_returns_transactions GROUP BY store_id ORDER BY amount DESC
"""
TAKEN = "SELECT store_id, count(*) AS sales FROM 02_silver.silver_sales_transactions GROUP BY store_id"
"""Sales as fresh as the returns: gold tables follow later while a continuous update runs."""
TICKER = """
SELECT transaction_id, event_time, store_id, store_name, customer_id, customer_name, product_id, product_name, quantity,
       total_amount, payment_method
FROM 03_gold.denormalized_sales_facts ORDER BY event_time DESC, transaction_id DESC LIMIT 12
"""
MINUTES = """
SELECT date_trunc('MINUTE', event_time) AS minute, round(sum(total_amount), 2) AS revenue, count(*) AS sales
FROM 03_gold.denormalized_sales_facts GROUP BY date_trunc('MINUTE', event_time) ORDER BY minute DESC LIMIT 60
"""

SHOWN_DAYS = 14
HEATS = 4

Row = Mapping[str, Any]


def data(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return the figures of the retailer; lists are empty before the first update."""
    daily = site.query(DAILY)
    stores = _with_all(_stores(daily, site.query(RETURNS)), site.query(TAKEN))
    store_days = _store_days(daily)
    minutes = site.query(MINUTES)[::-1]
    values = site.query(VALUES)
    return {
        "totals": _totals(daily, stores, values),
        "stores": stores,
        "days": _days(daily),
        "store_days": store_days,
        "day_table": _day_table(store_days, stores),
        "minutes": minutes,
        "products": site.query(PRODUCTS),
        "categories": site.query(CATEGORIES),
        "customers": site.query(CUSTOMERS),
        "ticker": site.query(TICKER),
        "charts": {"days": _day_chart(store_days, stores), "minutes": _minute_chart(minutes)},
    }


def _totals(daily: Sequence[Row], stores: Sequence[Row], values: Sequence[Row]) -> dict[str, Any]:
    sold = sum(row["total_transactions"] for row in daily)
    returned = sum(store["returns"] for store in stores)
    return {
        "revenue": round(sum(row["total_revenue"] for row in daily), 2),
        "sales": sold,
        "items": sum(row["total_items_sold"] for row in daily),
        "customers": values[0]["customers"] if values else 0,
        "average_customer": values[0]["average"] if values else None,
        "returns": returned,
        "returned_amount": round(sum(store["returned_amount"] for store in stores), 2),
        "all": sum(store["all"] for store in stores),
    }


def _with_all(stores: list[dict[str, Any]], taken: Sequence[Row]) -> list[dict[str, Any]]:
    """Return stores with `all`: their sales and returns, of which returns are a share."""
    sales = {row["store_id"]: row["sales"] for row in taken}
    return [{**store, "all": sales.get(store["store_id"], 0) + store["returns"]} for store in stores]


def _stores(daily: Sequence[Row], returns: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row a store over all days, the most revenue first; a store's newest name is its name."""
    stores: dict[Any, dict[str, Any]] = {}
    for row in daily:
        store = stores.setdefault(row["store_id"], _store(row["store_id"]))
        store["store_name"] = row["store_name"] or store["store_name"]
        store["revenue"] = round(store["revenue"] + row["total_revenue"], 2)
        store["sales"] += row["total_transactions"]
        store["items"] += row["total_items_sold"]
    for row in returns:
        store = stores.setdefault(row["store_id"], _store(row["store_id"]))
        store["returns"], store["returned_amount"] = row["returns"], row["amount"]
    return sorted(stores.values(), key=lambda store: (-store["revenue"], store["store_id"]))


def _store(store_id: Any) -> dict[str, Any]:
    return {
        "store_id": store_id,
        "store_name": None,
        "revenue": 0.0,
        "sales": 0,
        "items": 0,
        "returns": 0,
        "returned_amount": 0.0,
    }


def _days(daily: Sequence[Row]) -> list[dict[str, Any]]:
    days: dict[str, dict[str, Any]] = {}
    for row in daily:
        day = days.setdefault(row["sale_date"], {"day": row["sale_date"], "revenue": 0.0, "sales": 0})
        day["revenue"] = round(day["revenue"] + row["total_revenue"], 2)
        day["sales"] += row["total_transactions"]
    return list(days.values())


def _store_days(daily: Sequence[Row]) -> list[dict[str, Any]]:
    """Return one row a store and day, by day; a store that was renamed on a day has one row all the same."""
    found: dict[tuple[Any, Any], dict[str, Any]] = {}
    for row in daily:
        store_id, day = row["store_id"], row["sale_date"]
        item = found.setdefault((day, store_id), {"store_id": store_id, "day": day, "revenue": 0.0, "sales": 0})
        item["revenue"] = round(item["revenue"] + row["total_revenue"], 2)
        item["sales"] += row["total_transactions"]
    return list(found.values())


def _day_table(store_days: Sequence[Row], stores: Sequence[Row]) -> dict[str, Any]:
    """Return revenue with a column for each of the last days, the newest first; `heat` is 1 to 4, 0 without sales."""
    days = sorted({row["day"] for row in store_days}, reverse=True)[:SHOWN_DAYS]
    revenue = {(row["store_id"], row["day"]): row["revenue"] for row in store_days if row["day"] in days}
    most = max(revenue.values(), default=0.0)

    def cell(store_id: Any, day: str) -> dict[str, Any]:
        value = revenue.get((store_id, day))
        heat = max(1, math.ceil(HEATS * value / most)) if value and most > 0 else 0
        return {"revenue": value, "heat": heat}

    sold = [store for store in stores if store["sales"]]
    return {
        "days": days,
        "stores": [
            {"store_id": store["store_id"], "store_name": store["store_name"],
             "cells": [cell(store["store_id"], day) for day in days]}
            for store in sold
        ],
    }  # fmt: skip


def _day_chart(store_days: Sequence[Row], stores: Sequence[Row]) -> dict[str, Any] | None:
    """Return revenue by day, one line for each of the five best stores; None until there are two days."""
    days = sorted({row["day"] for row in store_days})
    if len(days) < 2:
        return None
    revenue = {(row["store_id"], row["day"]): row["revenue"] for row in store_days}
    return {
        "x": days,
        "series": [
            {"label": store["store_name"] or f"store {store['store_id']}",
             "values": [revenue.get((store["store_id"], day)) for day in days]}
            for store in stores[:5]
        ],
    }  # fmt: skip


def _minute_chart(minutes: Sequence[Row]) -> dict[str, Any]:
    return {
        "x": [row["minute"] for row in minutes],
        "series": [
            {"label": "revenue", "values": [row["revenue"] for row in minutes], "bars": True, "scale": "revenue"},
            {"label": "sales", "values": [row["sales"] for row in minutes], "scale": "sales"},
        ],
    }
