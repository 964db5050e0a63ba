"""The apparel pipeline a second time: every table and every count of a rule, in DuckDB, from the landing files.

The SQL below is written from the business specification alone and shares nothing with `src`. Of the pipeline's own
records it uses only what no landing file can tell: the intents of the micro-batches, which say when a file was ingested
and at which version of the dimensions a batch of sales was joined.

    oracle = Oracle(storage)
    oracle.differences("02_silver.silver_customers")   # [] if the stored rows are the expected ones
    oracle.expectations(), reported(storage)           # (flow, dataset, rule) -> (passed, failed)
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import duckdb
import pyarrow as pa
from deltalake import DeltaTable

CATALOG = "apparel_store"
STREAMS = {"sales": "sales", "customers": "customers", "items": "products", "stores": "stores"}
"""Landing folder: the name that bronze has for it."""

COLUMNS = {
    "sales": {
        "transaction_id": "INTEGER", "store_id": "INTEGER", "event_time": "TIMESTAMPTZ", "customer_id": "INTEGER",
        "product_id": "INTEGER", "quantity": "INTEGER", "unit_price": "DOUBLE", "total_amount": "DOUBLE",
        "payment_method": "VARCHAR", "discount_applied": "DOUBLE", "tax_amount": "DOUBLE",
    },
    "customers": {
        "customer_id": "INTEGER", "name": "VARCHAR", "email": "VARCHAR", "address": "VARCHAR",
        "join_date": "TIMESTAMPTZ",
        "loyalty_points": "INTEGER", "phone_number": "VARCHAR", "age": "INTEGER", "gender": "VARCHAR",
        "last_update_time": "TIMESTAMPTZ",
    },
    "products": {
        "product_id": "INTEGER", "name": "VARCHAR", "category": "VARCHAR", "brand": "VARCHAR", "price": "DOUBLE",
        "stock_quantity": "INTEGER", "size": "VARCHAR", "color": "VARCHAR", "description": "VARCHAR",
        "last_update_time": "TIMESTAMPTZ",
    },
    "stores": {
        "store_id": "INTEGER", "name": "VARCHAR", "address": "VARCHAR", "manager": "VARCHAR",
        "open_date": "TIMESTAMPTZ",
        "status": "VARCHAR", "phone_number": "VARCHAR", "last_update_time": "TIMESTAMPTZ",
    },
}  # fmt: skip

KEYS = {"customers": "customer_id", "products": "product_id", "stores": "store_id"}
TRACKED = {
    "customers": ["name", "email", "address", "phone_number", "gender"],
    "products": ["name", "category", "brand", "price", "description", "color", "size"],
    "stores": ["name", "address", "manager", "status"],
}

BRONZE_RULES = {
    "sales": {"valid_transaction_id": "transaction_id IS NOT NULL"},
    "customers": {"valid_customer_id": "customer_id IS NOT NULL"},
    "products": {"valid_product_id": "product_id IS NOT NULL"},
    "stores": {"valid_store_id": "store_id IS NOT NULL"},
}
VIEW_DROPS = {
    "sales": {},
    "customers": {"valid_customer_id": "customer_id IS NOT NULL"},
    "products": {
        "valid_product_id": "product_id IS NOT NULL",
        "valid_product_price": "price > 0 AND price < 10000",
    },
    "stores": {"valid_store_id": "store_id IS NOT NULL"},
}
VIEW_WARNS = {
    "sales": {
        "valid_payment_method": "payment_method IN ('Cash','Credit Card','Debit Card','Mobile Pay','Gift Card')",
        "realistic_discount": "discount_applied >= 0",
    },
    "customers": {
        "valid_email": "email IS NULL OR email LIKE '%@%.%'",
        "realistic_age": "age >= 18 AND age <= 100",
        "realistic_loyalty_points": "loyalty_points >= 0",
        "valid_gender": "gender IN ('Male', 'Female', 'Other')",
    },
    "products": {
        "non_negative_stock": "stock_quantity >= 0",
        "valid_category": "category IN ('Casual Wear','Formal Wear','Sportswear','Accessories','Footwear')",
        "valid_brand": "brand IS NOT NULL",
    },
    "stores": {
        "valid_manager_name": "manager IS NOT NULL",
        "valid_status": "status IN ('Open', 'Under Renovation')",
    },
}
FACT_DROPS = {
    "valid_discount": "discount_applied >= 0",
    "valid_store_id": "store_id IS NOT NULL",
    "valid_customer_id": "customer_id IS NOT NULL",
    "valid_product_id": "product_id IS NOT NULL",
}

TABLES = (
    "01_bronze.bronze_sales",
    "01_bronze.bronze_customers",
    "01_bronze.bronze_products",
    "01_bronze.bronze_stores",
    "02_silver.silver_customers",
    "02_silver.silver_products",
    "02_silver.silver_stores",
    "02_silver.silver_sales_transactions",
    "02_silver.silver_returns_transactions",
    "03_gold.denormalized_sales_facts",
    "03_gold.gold_daily_sales_by_store",
    "03_gold.gold_product_performance",
    "03_gold.gold_customer_lifetime_value",
)
GRAIN = {
    "03_gold.gold_daily_sales_by_store": ["sale_date", "store_id", "store_name"],
    "03_gold.gold_product_performance": ["product_id", "product_name", "product_category"],
    "03_gold.gold_customer_lifetime_value": ["customer_id", "customer_name"],
}
"""The aggregates. Their doubles are rounded sums: engines add in different orders, so the last digit may differ."""

LAST_DIGIT = 0.01

Count = tuple[int, int]
Rule = tuple[str, str, str]


# -- what is on disk --------------------------------------------------------------------------------------------------


def landing_of(storage: Path, folder: str) -> Path:
    return storage / "Volumes" / CATALOG / "00_landing" / "streaming" / folder


def table_of(storage: Path, name: str) -> Path:
    schema, _, table = name.partition(".")
    return storage / "tables" / CATALOG / schema / table


def data_files(location: Path, version: int | None = None) -> list[str]:
    """Return the data files of a table at a version, as plain paths."""
    return [unquote(uri.removeprefix("file://")) for uri in DeltaTable(str(location), version=version).file_uris()]


def arrived_files(location: Path) -> list[str]:
    """Return every data file that brought rows to an append-only table, those that compaction has put together included."""
    newest = DeltaTable(str(location)).version()
    return [file for version in range(newest + 1) for file in _changes(location, version)[0]]


def versions(storage: Path) -> dict[str, int]:
    """Return the version of every Delta table below a storage root but the event log's, by relative path."""
    logs = [log for log in storage.glob("**/_delta_log") if "system" not in log.relative_to(storage).parts]
    return {str(log.parent.relative_to(storage)): DeltaTable(str(log.parent)).version() for log in sorted(logs)}


def checkpoints(storage: Path) -> dict[str, bytes]:
    """Return every checkpoint file with what is in it."""
    root = storage / "_checkpoints"
    return {str(file.relative_to(root)): file.read_bytes() for file in sorted(root.glob("**/*")) if file.is_file()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """One micro-batch of a flow with one streaming source: the files it read, and the table versions beside them."""

    at: datetime
    files: tuple[str, ...]
    versions: dict[str, int]


def intents(storage: Path, dataset: str, source: Path, *, archive: Path | None = None) -> list[Intent]:
    """Return the micro-batches of a dataset's only flow, in order; they read `source`.

    A checkpoint forgets batches that are long done: more than 20 can only be recomputed with an archive of their intents.
    """
    schema, _, name = dataset.partition(".")
    found = {
        int(file.name): json.loads(file.read_text())
        for root in filter(None, (archive, storage))
        for file in (root / "_checkpoints" / CATALOG / schema / name).glob("*/*/offsets/*")
        if file.name.isdigit()
    }
    assert sorted(found) == list(range(len(found))), f"{dataset} has had batches that nobody kept"
    result = []
    for number in sorted(found):
        (offsets,) = found[number]["sources"].values()
        result.append(
            Intent(
                at=datetime.fromisoformat(found[number]["at"]),
                files=tuple(_between(source, offsets["start"], offsets["end"])),
                versions={Path(location).name: version for location, version in found[number]["versions"].items()},
            )
        )
    return result


def _between(location: Path, start: dict[str, Any], end: dict[str, Any]) -> Iterator[str]:
    """Yield the files between two offsets: "everything before file `index` of that version has been read"."""
    version, index, snapshot = start["version"], start["index"], start["snapshot"]
    while (version, index) < (end["version"], end["index"]):
        files, removed = _snapshot(location, version) if snapshot else _changes(location, version)
        assert snapshot or not removed, f"version {version} of {location} removes rows"
        yield from files[index : end["index"] if version == end["version"] else None]
        version, index, snapshot = version + 1, 0, False


def _changes(location: Path, version: int) -> tuple[list[str], set[str]]:
    """Return the files that one commit adds, and those that it removes."""
    lines = (location / "_delta_log" / f"{version:020d}.json").read_text().splitlines()
    actions = [json.loads(line) for line in lines]
    added, removed = (
        [
            str(location / unquote(action[kind]["path"]))
            for action in actions
            if kind in action and action[kind]["dataChange"]
        ]
        for kind in ("add", "remove")
    )
    return added, set(removed)


def _snapshot(location: Path, version: int) -> tuple[list[str], set[str]]:
    """Return the files of a whole version in the order in which they came."""
    files: list[str] = []
    for number in range(version + 1):
        added, removed = _changes(location, number)
        files = [file for file in files if file not in removed] + added
    return files, set()


def reported(storage: Path) -> tuple[dict[Rule, Count], dict[str, int]]:
    """Return what the event log says: (passed, failed) per (flow, dataset, rule), and dropped rows per flow."""
    rules: defaultdict[Rule, list[int]] = defaultdict(lambda: [0, 0])
    dropped: defaultdict[str, int] = defaultdict(int)
    log = DeltaTable(str(storage / "system" / "events")).to_pyarrow_table(columns=["origin", "details", "event_type"])
    for event in log.to_pylist():
        if event["event_type"] != "flow_progress":
            continue
        quality = json.loads(event["details"])["flow_progress"].get("data_quality")
        if quality is None:
            continue
        flow = event["origin"]["flow_name"]
        dropped[flow] += quality["dropped_records"]
        for rule in quality["expectations"]:
            count = rules[flow, rule["dataset"], rule["name"]]
            count[0] += rule["passed_records"]
            count[1] += rule["failed_records"]
    return {rule: (passed, failed) for rule, (passed, failed) in rules.items()}, dict(dropped)


# -- what it should be ------------------------------------------------------------------------------------------------


class Oracle:
    """Everything that the pipeline should hold, given what lies in the landing zone now.

    Args:
        stepped_over: bronze tables were repaired: their rows with a NULL id are dropped, and counted.
        archive: copies of data files and intents below the storage root, by the same relative path; needed where tables were
            compacted and vacuumed, and where checkpoints forgot batches.
    """

    def __init__(self, storage: Path, *, stepped_over: bool = False, archive: Path | None = None) -> None:
        self.storage = storage
        self._archive = archive
        self._stepped_over = stepped_over
        self._db = duckdb.connect(config={"threads": 1})
        self._db.execute("SET TimeZone = 'UTC'")
        for folder, name in STREAMS.items():
            self._landing(folder, name)
            self._bronze(folder, name)
        for name in KEYS:
            self._cleaned(name)
            self._history(name)
        self._facts()
        self._denormalized()
        self._gold()

    def differences(self, table: str, *, examples: int = 3) -> list[str]:
        """Return how the stored rows of a table differ from the expected ones, as sentences; nothing if they do not."""
        self._read("stored", data_files(table_of(self.storage, table)), table_of(self.storage, table))
        expected = f"expected_{table.partition('.')[2]}"
        wanted = [(name, kind) for name, kind, *_ in self._rows(f"DESCRIBE {expected}")]
        found = [(name, kind) for name, kind, *_ in self._rows("DESCRIBE stored")]
        if wanted != found:
            return [f"{table}: columns are {found}, not {wanted}"]
        if table in GRAIN:
            return self._aggregate_differences(table, expected, [name for name, _ in wanted], examples)
        names = ", ".join(f'"{name}"' for name, _ in wanted)
        result = []
        for what, one, other in (("is missing", expected, "stored"), ("is not expected", "stored", expected)):
            self._db.execute(
                f"CREATE OR REPLACE TEMP TABLE difference AS "
                f"SELECT {names} FROM {one} EXCEPT ALL SELECT {names} FROM {other}"
            )
            ((count,),) = self._rows("SELECT count(*) FROM difference")
            rows = self._dicts(f"SELECT * FROM difference ORDER BY ALL LIMIT {examples}")
            result += [f"{table}: this and {count - 1} more rows: {what}: {row}" for row in rows]
        return result

    def expectations(self) -> dict[Rule, Count]:
        """Return (passed, failed) per (flow, dataset, rule). A view reports once for each flow that reads it."""
        result: dict[Rule, Count] = {}
        for name, rules in BRONZE_RULES.items():
            table = f"01_bronze.bronze_{name}"
            result |= self._counts(table, table, f"landing_{name}", rules)
        readers = {name: [f"02_silver.silver_{name}"] for name in KEYS}
        readers["sales"] = ["02_silver.silver_sales_transactions", "02_silver.silver_returns_transactions"]
        for name, flows in readers.items():
            for flow in flows:
                rules = {**VIEW_DROPS[name], **VIEW_WARNS[name]}
                result |= self._counts(flow, f"{name}_cleaned_stream", f"arrived_{name}", rules)
        for table, sign in (("silver_sales_transactions", ">"), ("silver_returns_transactions", "<")):
            name = f"02_silver.{table}"
            result |= self._counts(name, name, f"(SELECT * FROM arrived_sales WHERE quantity {sign} 0)", FACT_DROPS)
        return result

    def dropped(self) -> dict[str, int]:
        """Return per flow how many rows its rules remove."""
        result = {
            f"01_bronze.bronze_{name}": self._violating(f"landing_{name}", BRONZE_RULES[name]) for name in COLUMNS
        }
        for name in KEYS:
            result[f"02_silver.silver_{name}"] = self._violating(f"arrived_{name}", VIEW_DROPS[name])
        for table, sign in (("silver_sales_transactions", ">"), ("silver_returns_transactions", "<")):
            rows = f"(SELECT * FROM arrived_sales WHERE quantity {sign} 0)"
            result[f"02_silver.{table}"] = self._violating(rows, FACT_DROPS)
        return result

    def rows(self, sql: str) -> list[dict[str, Any]]:
        """Query `expected_<table>`, `landing_<name>`."""
        return self._dicts(sql)

    # -- bronze -------------------------------------------------------------------------------------------------------

    def _landing(self, folder: str, name: str) -> None:
        location = landing_of(self.storage, folder)
        self._read(f"files_{name}", self._arrived(location), location, with_file=True)
        typed = ", ".join(f"CAST({column} AS {kind}) AS {column}" for column, kind in COLUMNS[name].items())
        self._db.execute(f"CREATE TABLE landing_{name} AS SELECT {typed}, file FROM files_{name}")

    def _bronze(self, folder: str, name: str) -> None:
        """Every landed row once; ingested when the batch that read its file was begun."""
        batches = intents(
            self.storage, f"01_bronze.bronze_{name}", landing_of(self.storage, folder), archive=self._archive
        )
        self._table("ingested", {"file": pa.string(), "at": pa.timestamp("us", "UTC")},
                    [(file, batch.at) for batch in batches for file in batch.files])  # fmt: skip
        (key_is_set,) = BRONZE_RULES[name].values()
        kept = f"WHERE {key_is_set}" if self._stepped_over else ""
        self._db.execute(
            f"CREATE TABLE expected_bronze_{name} AS SELECT l.* EXCLUDE (file), i.at AS ingest_timestamp, "
            f"'file://' || l.file AS source_file_path FROM landing_{name} l LEFT JOIN ingested i USING (file) {kept}"
        )

    # -- silver -------------------------------------------------------------------------------------------------------

    def _cleaned(self, name: str) -> None:
        """`arrived_`: the view's own output, over which its rules count; `cleaned_`: without the dropped rows."""
        replaced = "REPLACE (coalesce(manager, 'Unknown') AS manager)" if name == "stores" else ""
        self._db.execute(f"CREATE TABLE arrived_{name} AS SELECT * {replaced} FROM expected_bronze_{name}")
        kept = " AND ".join(f"({rule}) IS TRUE" for rule in VIEW_DROPS[name].values())
        self._db.execute(f"CREATE TABLE cleaned_{name} AS SELECT * FROM arrived_{name} WHERE {kept}")

    def _history(self, name: str) -> None:
        """SCD type 2: a NULL keeps the value before, a change of a tracked column opens a version."""
        key = KEYS[name]
        values = [column for column in COLUMNS[name] if column not in (key, "last_update_time")]
        # Of events with one sequence the greatest counts, column by column in alphabetical order, NULL smallest.
        greatest = ", ".join(f"{column} DESC NULLS LAST" for column in sorted(values))
        in_order = f"PARTITION BY {key} ORDER BY last_update_time"
        carried = ", ".join(
            f"last_value({column} IGNORE NULLS) OVER ({in_order} ROWS UNBOUNDED PRECEDING) AS {column}"
            for column in values
        )
        changed = " OR ".join(f"{column} IS DISTINCT FROM lag({column}) OVER w" for column in TRACKED[name])
        shown = ", ".join(f"last({column} ORDER BY last_update_time) AS {column}" for column in values)
        self._db.execute(f"""
            CREATE TABLE expected_silver_{name} AS
            WITH one_per_instant AS (
                SELECT * FROM cleaned_{name}
                QUALIFY row_number() OVER (PARTITION BY {key}, last_update_time ORDER BY {greatest}) = 1
            ), complete AS (
                SELECT {key}, last_update_time, {carried} FROM one_per_instant
            ), marked AS (
                SELECT *, lag(last_update_time) OVER w IS NULL OR {changed} AS opens
                FROM complete WINDOW w AS ({in_order})
            ), numbered AS (
                SELECT *, count(*) FILTER (WHERE opens) OVER ({in_order}) AS episode FROM marked
            ), episodes AS (
                SELECT {key}, {shown}, min(last_update_time) AS __START_AT FROM numbered GROUP BY {key}, episode
            )
            SELECT {", ".join(column for column in COLUMNS[name] if column != "last_update_time")}, __START_AT,
                lead(__START_AT) OVER (PARTITION BY {key} ORDER BY __START_AT) AS __END_AT
            FROM episodes""")

    def _facts(self) -> None:
        self._db.execute(
            "CREATE TABLE arrived_sales AS "
            "SELECT *, CAST(event_time AT TIME ZONE 'UTC' AS DATE) AS date FROM expected_bronze_sales"
        )
        kept = " AND ".join(f"({rule}) IS TRUE" for rule in FACT_DROPS.values())
        self._db.execute(
            "CREATE TABLE expected_silver_sales_transactions AS "
            f"SELECT * FROM arrived_sales WHERE quantity > 0 AND {kept}"
        )
        self._db.execute(
            "CREATE TABLE expected_silver_returns_transactions AS SELECT * EXCLUDE (quantity, total_amount), "
            "-quantity AS returned_quantity, abs(total_amount) AS returned_amount "
            f"FROM arrived_sales WHERE quantity < 0 AND {kept}"
        )

    # -- gold ---------------------------------------------------------------------------------------------------------

    def _denormalized(self) -> None:
        """Each sale once, with the names at the dimension versions that its batch had pinned."""
        source = table_of(self.storage, "02_silver.silver_sales_transactions")
        batches = intents(self.storage, "03_gold.denormalized_sales_facts", source, archive=self._archive)
        numbers = [(file, number) for number, batch in enumerate(batches) for file in batch.files]
        self._table("joined", {"file": pa.string(), "batch": pa.int32()}, numbers)
        self._read("arrived_facts", self._arrived(source), source, with_file=True)
        for name, key in KEYS.items():
            table = f"silver_{name}"
            location = table_of(self.storage, f"02_silver.{table}")
            columns = f"{key}, name" + (", category" if name == "products" else "")
            self._db.execute(f"CREATE TABLE seen_{name} (batch INTEGER, {key} INTEGER, name VARCHAR"
                             f"{', category VARCHAR' if name == 'products' else ''})")  # fmt: skip
            for number, batch in enumerate(batches):
                version = batch.versions[table]
                self._read("pinned", data_files(location, version), location)
                self._db.execute(
                    f"INSERT INTO seen_{name} SELECT {number}, {columns} FROM pinned WHERE __END_AT IS NULL"
                )
        self._db.execute("""
            CREATE TABLE expected_denormalized_sales_facts AS
            SELECT s.transaction_id, s.event_time, s.customer_id, c.name AS customer_name, s.product_id,
                p.name AS product_name, p.category AS product_category, s.store_id, st.name AS store_name, s.quantity,
                s.unit_price, s.total_amount, s.payment_method, s.discount_applied, s.tax_amount
            FROM arrived_facts s
            LEFT JOIN joined b USING (file)
            LEFT JOIN seen_customers c ON c.batch = b.batch AND c.customer_id = s.customer_id
            LEFT JOIN seen_products p ON p.batch = b.batch AND p.product_id = s.product_id
            LEFT JOIN seen_stores st ON st.batch = b.batch AND st.store_id = s.store_id""")

    def _gold(self) -> None:
        self._db.execute("""
            CREATE TABLE expected_gold_daily_sales_by_store AS
            SELECT CAST(event_time AT TIME ZONE 'UTC' AS DATE) AS sale_date, store_id, store_name,
                round(sum(total_amount), 2) AS total_revenue, count(*) AS total_transactions,
                CAST(sum(quantity) AS BIGINT) AS total_items_sold, count(DISTINCT customer_id) AS unique_customers
            FROM expected_denormalized_sales_facts WHERE event_time IS NOT NULL GROUP BY ALL""")
        self._db.execute("""
            CREATE TABLE expected_gold_product_performance AS
            SELECT product_id, product_name, product_category, round(sum(total_amount), 2) AS total_revenue,
                CAST(sum(quantity) AS BIGINT) AS total_quantity_sold, count(*) AS total_orders
            FROM expected_denormalized_sales_facts GROUP BY ALL""")
        self._db.execute("""
            CREATE TABLE expected_gold_customer_lifetime_value AS
            SELECT customer_id, customer_name, round(sum(total_amount), 2) AS total_spend,
                count(DISTINCT transaction_id) AS total_orders,
                CAST(min(event_time) AT TIME ZONE 'UTC' AS DATE) AS first_purchase_date,
                CAST(max(event_time) AT TIME ZONE 'UTC' AS DATE) AS last_purchase_date,
                round(avg(total_amount), 2) AS avg_order_value
            FROM expected_denormalized_sales_facts GROUP BY ALL""")

    # -- comparing ----------------------------------------------------------------------------------------------------

    def _aggregate_differences(self, table: str, expected: str, columns: Sequence[str], examples: int) -> list[str]:
        grain = GRAIN[table]
        ((rows, groups),) = self._rows(f"SELECT count(*), count(DISTINCT ({', '.join(grain)})) FROM stored")
        result = [] if rows == groups else [f"{table}: {rows} rows for {groups} groups"]
        kinds = {name: kind for name, kind, *_ in self._rows(f"DESCRIBE {expected}")}
        differs = ["e._found IS NULL", "s._found IS NULL"]
        for column in columns:
            differs.append(f"(e.{column} IS NULL) <> (s.{column} IS NULL)")
            is_double = kinds[column] == "DOUBLE"
            differs.append(
                f"abs(e.{column} - s.{column}) > {LAST_DIGIT} * 1.0001" if is_double else f"e.{column} <> s.{column}"
            )
        same_group = " AND ".join(f"e.{column} IS NOT DISTINCT FROM s.{column}" for column in grain)
        found = self._dicts(
            f"SELECT e.*, s.* FROM (SELECT *, true AS _found FROM {expected}) e "
            f"FULL JOIN (SELECT *, true AS _found FROM stored) s ON {same_group} WHERE {' OR '.join(differs)}"
        )
        return result + [f"{table}: this and {len(found) - 1} more groups differ: {row}" for row in found[:examples]]

    def _counts(self, flow: str, dataset: str, rows: str, rules: dict[str, str]) -> dict[Rule, Count]:
        passed = ", ".join(f"count(*) FILTER (WHERE ({rule}) IS TRUE)" for rule in rules.values())
        ((total, *counts),) = self._rows(f"SELECT count(*), {passed} FROM {rows}")
        return {(flow, dataset, rule): (n, total - n) for rule, n in zip(rules, counts, strict=True)}

    def _violating(self, rows: str, rules: dict[str, str]) -> int:
        broken = " OR ".join(f"({rule}) IS NOT TRUE" for rule in rules.values())
        ((count,),) = self._rows(f"SELECT count(*) FROM {rows} WHERE {broken}")
        return int(count)

    # -- files -------------------------------------------------------------------------------------------------------

    def _arrived(self, location: Path) -> list[str]:
        """Return the files that brought the rows of a table; those of its newest version where nothing was ever removed."""
        return data_files(location) if self._archive is None else arrived_files(location)

    def _kept(self, files: Sequence[str]) -> list[str]:
        """Return where the files are now: where they were, or in the archive."""
        if self._archive is None:
            return list(files)
        return [str(self._archive / Path(file).relative_to(self.storage)) for file in files]

    # -- DuckDB -------------------------------------------------------------------------------------------------------

    def _read(self, name: str, files: Sequence[str], location: Path, *, with_file: bool = False) -> None:
        """Make a view of data files; none, an empty one with the columns of the table."""
        if files:
            file = ", filename = 'file'" if with_file else ""
            original = f"REPLACE (replace(file, '{self._archive}/', '{self.storage}/') AS file)" if with_file else ""
            self._db.execute(
                f"CREATE OR REPLACE TEMP VIEW {name} AS "
                f"SELECT * {original} FROM read_parquet({self._kept(files)!r}, union_by_name = true{file})"
            )
            return
        schema = pa.schema(DeltaTable(str(location)).schema().to_arrow())
        if with_file:
            schema = schema.append(pa.field("file", pa.string()))
        self._db.register(name, schema.empty_table())

    def _table(self, name: str, columns: dict[str, pa.DataType], rows: Sequence[tuple[Any, ...]]) -> None:
        arrays = [pa.array([row[at] for row in rows], kind) for at, kind in enumerate(columns.values())]
        self._db.register("given", pa.table(dict(zip(columns, arrays, strict=True))))
        self._db.execute(f"CREATE OR REPLACE TEMP TABLE {name} AS SELECT * FROM given")

    def _rows(self, sql: str) -> list[tuple[Any, ...]]:
        return self._db.execute(sql).fetchall()

    def _dicts(self, sql: str) -> list[dict[str, Any]]:
        return list(self._db.sql(sql).to_arrow_table().to_pylist())
