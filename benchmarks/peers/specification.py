"""The retailer's tables and rules as SQL fragments that DuckDB and Spark both read; peers are written with them.

Each peer runs in its own environment, so this module imports nothing.
"""

from __future__ import annotations

STREAMS = {"customers": "customers", "products": "items", "stores": "stores", "sales": "sales"}
"""Table name in bronze: its landing folder. Dimensions come before the facts that refer to them."""

COLUMNS = {
    "sales": (
        "transaction_id int, store_id int, event_time timestamp, customer_id int, product_id int, quantity int, "
        "unit_price double, total_amount double, payment_method string, discount_applied double, tax_amount double"
    ),
    "customers": (
        "customer_id int, name string, email string, address string, join_date timestamp, loyalty_points int, "
        "phone_number string, age int, gender string, last_update_time timestamp"
    ),
    "products": (
        "product_id int, name string, category string, brand string, price double, stock_quantity int, size string, "
        "color string, description string, last_update_time timestamp"
    ),
    "stores": (
        "store_id int, name string, address string, manager string, open_date timestamp, status string, "
        "phone_number string, last_update_time timestamp"
    ),
}
KEYS = {"customers": "customer_id", "products": "product_id", "stores": "store_id"}
TRACKED = {
    "customers": ("name", "email", "address", "phone_number", "gender"),
    "products": ("name", "category", "brand", "price", "description", "color", "size"),
    "stores": ("name", "address", "manager", "status"),
}

MUST = {
    "sales": {"valid_transaction_id": "transaction_id IS NOT NULL"},
    "customers": {"valid_customer_id": "customer_id IS NOT NULL"},
    "products": {"valid_product_id": "product_id IS NOT NULL"},
    "stores": {"valid_store_id": "store_id IS NOT NULL"},
}
"""Bronze: a row that breaks one stops the update."""

DROP = {
    "sales": {},
    "customers": {"valid_customer_id": "customer_id IS NOT NULL"},
    "products": {
        "valid_product_id": "product_id IS NOT NULL",
        "valid_product_price": "price > 0 AND price < 10000",
    },
    "stores": {"valid_store_id": "store_id IS NOT NULL"},
}
WARN = {
    "sales": {
        "valid_payment_method": "payment_method IN ('Cash', 'Credit Card', 'Debit Card', 'Mobile Pay', 'Gift Card')",
        "realistic_discount": "discount_applied >= 0",
    },
    "customers": {
        "valid_email": "email IS NULL OR email LIKE '%@%.%'",
        "realistic_age": "age BETWEEN 18 AND 100",
        "realistic_loyalty_points": "loyalty_points >= 0",
        "valid_gender": "gender IN ('Male', 'Female', 'Other')",
    },
    "products": {
        "non_negative_stock": "stock_quantity >= 0",
        "valid_category": "category IN ('Casual Wear', 'Formal Wear', 'Sportswear', 'Accessories', 'Footwear')",
        "valid_brand": "brand IS NOT NULL",
    },
    "stores": {
        "valid_manager_name": "manager IS NOT NULL",
        "valid_status": "status IN ('Open', 'Under Renovation')",
    },
}
FACT_DROP = {
    "valid_discount": "discount_applied >= 0",
    "valid_store_id": "store_id IS NOT NULL",
    "valid_customer_id": "customer_id IS NOT NULL",
    "valid_product_id": "product_id IS NOT NULL",
}

TABLES = {
    "bronze_sales": "01_bronze",
    "bronze_customers": "01_bronze",
    "bronze_products": "01_bronze",
    "bronze_stores": "01_bronze",
    "silver_customers": "02_silver",
    "silver_products": "02_silver",
    "silver_stores": "02_silver",
    "silver_sales_transactions": "02_silver",
    "silver_returns_transactions": "02_silver",
    "denormalized_sales_facts": "03_gold",
    "gold_daily_sales_by_store": "03_gold",
    "gold_product_performance": "03_gold",
    "gold_customer_lifetime_value": "03_gold",
}


def columns(name: str) -> list[tuple[str, str]]:
    """Return (column, type) of a landing stream."""
    pairs = (column.split(" ") for column in COLUMNS[name].split(", "))
    return [(column, kind) for column, kind in pairs]


def typed(name: str) -> str:
    """Return the select list that casts every column of a landing stream to its declared type."""
    return ", ".join(f"CAST({column} AS {kind}) AS {column}" for column, kind in columns(name))


def all_of(rules: dict[str, str]) -> str:
    """Return the condition that a row keeps all rules; a NULL breaks one."""
    return " AND ".join(f"coalesce({rule}, false)" for rule in rules.values()) or "true"


def counts(rules: dict[str, str]) -> str:
    """Return the select list that counts the rows and, for each rule, those that pass."""
    passed = "".join(f", count(CASE WHEN {rule} THEN 1 END) AS {name}" for name, rule in rules.items())
    return f"count(*) AS num_rows{passed}"


def rules_of(table: str) -> dict[str, str]:
    """Return the rules that are counted on the cleaned view of a bronze table."""
    return {**DROP[table], **WARN[table]}


def history(name: str, events: str, *, last: str = "last_value({} IGNORE NULLS)") -> str:
    """Return the SCD type 2 query over cleaned change events: the key's versions, in any order of arrival.

    A NULL keeps the value before it; a change of a tracked column opens a version; other columns are updated in place. Of
    two events of one instant the greater one counts.

    Args:
        last: how the dialect writes the last value that is not NULL.
    """
    key = KEYS[name]
    values = [column for column, _ in columns(name) if column not in (key, "last_update_time")]
    in_order = f"PARTITION BY {key} ORDER BY last_update_time"
    greatest = ", ".join(f"{column} DESC NULLS LAST" for column in sorted(values))
    carried = ", ".join(
        f"{last.format(column)} OVER ({in_order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS {column}"
        for column in values
    )
    changed = " OR ".join(f"{column} IS DISTINCT FROM lag({column}) OVER w" for column in TRACKED[name])
    stored = [column for column, _ in columns(name) if column != "last_update_time"]
    shown = ", ".join(f"max_by({column}, last_update_time) AS {column}" for column in values)
    return f"""
        WITH ranked AS (
            SELECT {key}, last_update_time, {", ".join(values)},
                row_number() OVER (PARTITION BY {key}, last_update_time ORDER BY {greatest}) AS rank_of_tie
            FROM {events}
        ), complete AS (
            SELECT {key}, last_update_time, {carried} FROM ranked WHERE rank_of_tie = 1
        ), marked AS (
            SELECT *, CASE WHEN lag(last_update_time) OVER w IS NULL OR {changed} THEN 1 ELSE 0 END AS opens
            FROM complete WINDOW w AS ({in_order})
        ), numbered AS (
            SELECT *, sum(opens) OVER ({in_order} ROWS BETWEEN UNBOUNDED PRECEDING AND CURRENT ROW) AS episode FROM marked
        ), episodes AS (
            SELECT {key}, {shown}, min(last_update_time) AS __START_AT FROM numbered GROUP BY {key}, episode
        )
        SELECT {", ".join(stored)}, __START_AT,
            lead(__START_AT) OVER (PARTITION BY {key} ORDER BY __START_AT) AS __END_AT
        FROM episodes"""


RETURNED = "abs(quantity) AS returned_quantity, abs(total_amount) AS returned_amount"
"""What replaces `quantity` and `total_amount` of a return."""


FACT_COLUMNS = (
    "s.transaction_id", "s.event_time", "s.customer_id", "c.name AS customer_name", "s.product_id",
    "p.name AS product_name", "p.category AS product_category", "s.store_id", "st.name AS store_name", "s.quantity",
    "s.unit_price", "s.total_amount", "s.payment_method", "s.discount_applied", "s.tax_amount",
)  # fmt: skip
"""The wide fact table: a sale `s`, and its customer `c`, product `p` and store `st`."""


def denormalized(sales: str, current: str) -> str:
    """Return the query of the wide fact table.

    Args:
        sales: the new rows of `silver_sales_transactions`.
        current: a format with one `{}`, the relation of the current rows of a dimension.
    """
    return f"""
        SELECT {", ".join(FACT_COLUMNS)}
        FROM {sales} s
        LEFT JOIN {current.format("stores")} st ON st.store_id = s.store_id
        LEFT JOIN {current.format("customers")} c ON c.customer_id = s.customer_id
        LEFT JOIN {current.format("products")} p ON p.product_id = s.product_id"""


def gold(facts: str) -> dict[str, str]:
    """Return the queries of the three aggregates; sessions run in UTC."""
    return {
        "gold_daily_sales_by_store": f"""
            SELECT CAST(event_time AS DATE) AS sale_date, store_id, store_name,
                round(sum(total_amount), 2) AS total_revenue, count(*) AS total_transactions,
                CAST(sum(quantity) AS BIGINT) AS total_items_sold, count(DISTINCT customer_id) AS unique_customers
            FROM {facts} WHERE event_time IS NOT NULL GROUP BY 1, 2, 3""",
        "gold_product_performance": f"""
            SELECT product_id, product_name, product_category, round(sum(total_amount), 2) AS total_revenue,
                CAST(sum(quantity) AS BIGINT) AS total_quantity_sold, count(*) AS total_orders
            FROM {facts} GROUP BY 1, 2, 3""",
        "gold_customer_lifetime_value": f"""
            SELECT customer_id, customer_name, round(sum(total_amount), 2) AS total_spend,
                count(DISTINCT transaction_id) AS total_orders, CAST(min(event_time) AS DATE) AS first_purchase_date,
                CAST(max(event_time) AS DATE) AS last_purchase_date, round(avg(total_amount), 2) AS avg_order_value
            FROM {facts} GROUP BY 1, 2""",
    }
