"""Pathway: the tables as one dataflow that stays up, in Python on its Rust engine, one worker.

Its own Delta Lake connector needs a licence key, so rows come in through its Python connector, and what its outputs say has
changed is committed with delta-rs: appended, merged by key for the histories, overwritten for the aggregates. Pathway keeps
all state in memory.
"""

from __future__ import annotations

import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pathway as pw
import protocol
import pyarrow as pa
import pyarrow.parquet as pq
import specification as spec
from deltalake import DeltaTable, write_deltalake

TYPES = {"int": int | None, "string": str | None, "double": float | None, "timestamp": int | None}
ARROW = {"int": pa.int32(), "string": pa.string(), "double": pa.float64(), "timestamp": pa.timestamp("us", "UTC")}
DAY = 86_400_000_000
"""Timestamps travel as microseconds, days as their number since 1970."""
WORKER_STEP_SECONDS = 0.002
COMMIT_MILLIS = 5
"""An input without rows must move on as well, or what is joined with it waits."""
FACTS = {
    "transaction_id": "int", "event_time": "timestamp", "customer_id": "int", "customer_name": "string",
    "product_id": "int", "product_name": "string", "product_category": "string", "store_id": "int",
    "store_name": "string", "quantity": "int", "unit_price": "double", "total_amount": "double",
    "payment_method": "string", "discount_applied": "double", "tax_amount": "double",
}  # fmt: skip
GOLD = {
    "gold_daily_sales_by_store": {
        "sale_date": pa.date32(), "store_id": pa.int32(), "store_name": pa.string(), "total_revenue": pa.float64(),
        "total_transactions": pa.int64(), "total_items_sold": pa.int64(), "unique_customers": pa.int64(),
    },
    "gold_product_performance": {
        "product_id": pa.int32(), "product_name": pa.string(), "product_category": pa.string(),
        "total_revenue": pa.float64(), "total_quantity_sold": pa.int64(), "total_orders": pa.int64(),
    },
    "gold_customer_lifetime_value": {
        "customer_id": pa.int32(), "customer_name": pa.string(), "total_spend": pa.float64(), "total_orders": pa.int64(),
        "first_purchase_date": pa.date32(), "last_purchase_date": pa.date32(), "avg_order_value": pa.float64(),
    },
}  # fmt: skip
ORIGIN = {"ingest_timestamp": "timestamp", "source_file_path": "string"}
RETURNED = {"returned_quantity": "quantity", "returned_amount": "total_amount"}
Row = dict[str, Any]


def one_of(column: Any, *values: str) -> Any:
    found = column == values[0]
    for value in values[1:]:
        found |= column == value
    return found


def between(column: Any, low: float, high: float) -> Any:
    return (pw.coalesce(column, low - 1) >= low) & (pw.coalesce(column, low - 1) <= high)


def checks(table: str, t: Any) -> dict[str, Any]:
    """Return the rules of a cleaned view as expressions that are true where a row passes."""
    found: dict[str, dict[str, Callable[[], Any]]] = {
        "sales": {
            "valid_payment_method": lambda: one_of(
                t.payment_method, "Cash", "Credit Card", "Debit Card", "Mobile Pay", "Gift Card"
            ),
            "realistic_discount": lambda: pw.coalesce(t.discount_applied, -1.0) >= 0,
        },
        "customers": {
            "valid_customer_id": lambda: t.customer_id.is_not_none(),
            "valid_email": lambda: pw.apply_with_type(
                lambda email: email is None or "." in email.partition("@")[2], bool, t.email
            ),
            "realistic_age": lambda: between(t.age, 18, 100),
            "realistic_loyalty_points": lambda: pw.coalesce(t.loyalty_points, -1) >= 0,
            "valid_gender": lambda: one_of(t.gender, "Male", "Female", "Other"),
        },
        "products": {
            "valid_product_id": lambda: t.product_id.is_not_none(),
            "valid_product_price": lambda: (pw.coalesce(t.price, 0.0) > 0) & (pw.coalesce(t.price, 0.0) < 10_000),
            "non_negative_stock": lambda: pw.coalesce(t.stock_quantity, -1) >= 0,
            "valid_category": lambda: one_of(
                t.category, "Casual Wear", "Formal Wear", "Sportswear", "Accessories", "Footwear"
            ),
            "valid_brand": lambda: t.brand.is_not_none(),
        },
        "stores": {
            "valid_store_id": lambda: t.store_id.is_not_none(),
            "valid_manager_name": lambda: t.manager.is_not_none(),
            "valid_status": lambda: one_of(t.status, "Open", "Under Renovation"),
        },
        "facts": {
            "valid_discount": lambda: pw.coalesce(t.discount_applied, -1.0) >= 0,
            "valid_store_id": lambda: t.store_id.is_not_none(),
            "valid_customer_id": lambda: t.customer_id.is_not_none(),
            "valid_product_id": lambda: t.product_id.is_not_none(),
        },
    }
    return {name: check() for name, check in found[table].items()}


def all_of(conditions: dict[str, Any]) -> Any:
    *rest, kept = conditions.values()
    for condition in rest:
        kept &= condition
    return kept


def versions(name: str) -> Callable[[tuple[Row, ...]], tuple[Row, ...]]:
    """Return the rule of SCD type 2: all events of a key in, its versions out; the specification's query says the same."""
    stored = [column for column, _ in spec.columns(name) if column != "last_update_time"]
    values = [column for column in stored if column != spec.KEYS[name]]
    ties = sorted(values)

    def history(events: tuple[pw.Json, ...]) -> tuple[pw.Json, ...]:
        chosen: dict[int, Row] = {}
        for event in (event.value for event in events):
            order = [(event[column] is not None, event[column]) for column in ties]
            before = chosen.get(event["last_update_time"])
            if before is None or order > [(before[column] is not None, before[column]) for column in ties]:
                chosen[event["last_update_time"]] = event
        rows: list[Row] = []
        for at, event in sorted(chosen.items()):
            shown = {column: event[column] for column in stored}
            if rows:
                last = rows[-1]
                shown = {column: last[column] if value is None else value for column, value in shown.items()}
                if all(last[column] == shown[column] for column in spec.TRACKED[name]):
                    last.update(shown)
                    continue
                last["__END_AT"] = at
            rows.append({**shown, "__START_AT": at, "__END_AT": None})
        return tuple(pw.Json(row) for row in rows)

    return history


class Rows(pw.io.python.ConnectorSubject):
    """The new rows of one landing table."""

    def __init__(self) -> None:
        super().__init__()
        self.batches: queue.Queue[list[Row]] = queue.Queue()

    def run(self) -> None:
        while rows := self.batches.get():
            for row in rows:
                self.next(**row)
            self.commit()


class Output:
    """What has changed in one table of the dataflow."""

    def __init__(self, table: pw.Table, changed: threading.Condition) -> None:
        self.table = table
        self._changed = changed
        self.received = 0
        self.changes: list[tuple[bool, Row]] = []
        pw.io.subscribe(table, on_change=self._change, on_time_end=self._end)

    def _change(self, key: pw.Pointer, row: Row, time: int, is_addition: bool) -> None:
        self.received += 1
        self.changes.append((is_addition, row))

    def _end(self, time: int) -> None:
        with self._changed:
            self._changed.notify_all()

    def take(self) -> list[tuple[bool, Row]]:
        taken, self.changes = self.changes, []
        return taken


class Dataflow:
    def __init__(self, landing: Path, out: Path) -> None:
        self._landing, self._out = landing, out
        self._seen = dict.fromkeys(spec.STREAMS, -1)
        self._sent = dict.fromkeys(spec.STREAMS, 0)
        self._changed = threading.Condition()
        self._subjects = {name: Rows() for name in spec.STREAMS}
        self._groups: dict[str, dict[tuple[Any, ...], Row]] = {table: {} for table in GOLD}
        self._counted: dict[str, Row] = {}
        self.outputs: dict[str, Output] = {}
        self._appended = [
            name for name in spec.TABLES if name not in GOLD and name.removeprefix("silver_") not in spec.KEYS
        ]
        self._build()
        self._failed: list[BaseException] = []
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        try:
            pw.run(monitoring_level=pw.MonitoringLevel.NONE)
        except BaseException as error:
            self._failed.append(error)
            raise

    def _build(self) -> None:
        current: dict[str, pw.Table] = {}
        for name, subject in self._subjects.items():
            columns = {column: TYPES[kind] for column, kind in [*spec.columns(name), *ORIGIN.items()]}
            arrived = pw.io.python.read(
                subject, schema=pw.schema_from_types(**columns), autocommit_duration_ms=COMMIT_MILLIS, name=name
            )
            self._out_of(f"bronze_{name}", arrived)
            if name == "stores":
                arrived = arrived.with_columns(manager=pw.coalesce(arrived.manager, "Unknown"))
            rules = checks(name, arrived)
            self._count(f"{name}_cleaned_stream", arrived, rules)
            if name == "sales":
                self._facts(arrived, current)
            else:
                current[name] = self._history(
                    name, arrived.filter(all_of({rule: rules[rule] for rule in spec.DROP[name]}))
                )
        rows = [self.outputs[name].table.select(one=1) for name in self._appended]
        self._out_of("appended", pw.Table.concat_reindex(*rows).reduce(num_rows=pw.reducers.count()))

    def _history(self, name: str, cleaned: pw.Table) -> pw.Table:
        """Build the history of a dimension; returns its current rows, by key and name."""
        key, names = spec.KEYS[name], [column for column, _ in spec.columns(name)]
        event = pw.apply_with_type(
            lambda *values: pw.Json(dict(zip(names, values, strict=True))),
            pw.Json,
            *[cleaned[column] for column in names],
        )
        grouped = cleaned.select(key=pw.unwrap(cleaned[key]), event=event)
        grouped = grouped.groupby(grouped.key).reduce(grouped.key, events=pw.reducers.tuple(grouped.event))
        rule = versions(name)
        rows = grouped.select(grouped.key, row=pw.apply_with_type(rule, tuple[pw.Json, ...], grouped.events)).flatten(
            pw.this.row
        )
        self._out_of(f"silver_{name}", rows)
        shown = {"name": str | None, "category": str | None}
        newest = rows.filter(pw.apply_with_type(lambda row: row.value["__END_AT"] is None, bool, rows.row))
        return newest.select(
            newest.key,
            **{
                column: pw.apply_with_type(lambda row, column=column: row.value.get(column), kind, newest.row)
                for column, kind in shown.items()
            },
        )

    def _facts(self, arrived: pw.Table, current: dict[str, pw.Table]) -> None:
        arrived = arrived.with_columns(date=pw.coalesce(arrived.event_time, 0) // DAY)
        for table, side in (
            ("silver_sales_transactions", pw.coalesce(arrived.quantity, 0) > 0),
            ("silver_returns_transactions", pw.coalesce(arrived.quantity, 0) < 0),
        ):
            rows = arrived.filter(side)
            rules = checks("facts", rows)
            self._count(table, rows, rules)
            kept = rows.filter(all_of(rules))
            if table == "silver_sales_transactions":
                sold = kept
            else:
                kept = kept.select(
                    *[kept[column] for column in kept.column_names() if column not in RETURNED.values()],
                    **{column: abs(pw.unwrap(kept[of])) for column, of in RETURNED.items()},
                )
            self._out_of(table, kept)
        stores, customers, products = current["stores"], current["customers"], current["products"]
        wide = sold.asof_now_join_left(stores, sold.store_id == stores.key).select(*sold, store_name=stores.name)
        wide = wide.asof_now_join_left(customers, wide.customer_id == customers.key).select(
            *wide, customer_name=customers.name
        )
        wide = wide.asof_now_join_left(products, wide.product_id == products.key).select(
            *wide, product_name=products.name, product_category=products.category
        )
        facts = wide.select(*[wide[column] for column in FACTS])
        self._out_of("denormalized_sales_facts", facts)
        filled = facts.with_columns(
            date=pw.unwrap(facts.event_time) // DAY,
            amount=pw.coalesce(facts.total_amount, 0.0),
            items=pw.coalesce(facts.quantity, 0),
        )
        f = filled
        self._out_of(
            "gold_daily_sales_by_store",
            f.groupby(f.date, f.store_id, f.store_name).reduce(
                sale_date=f.date, store_id=f.store_id, store_name=f.store_name, total_revenue=pw.reducers.sum(f.amount),
                total_transactions=pw.reducers.count(), total_items_sold=pw.reducers.sum(f["items"]),
                unique_customers=pw.reducers.count_distinct(f.customer_id),
            ),
        )  # fmt: skip
        self._out_of(
            "gold_product_performance",
            f.groupby(f.product_id, f.product_name, f.product_category).reduce(
                f.product_id, f.product_name, f.product_category, total_revenue=pw.reducers.sum(f.amount),
                total_quantity_sold=pw.reducers.sum(f["items"]), total_orders=pw.reducers.count(),
            ),
        )  # fmt: skip
        self._out_of(
            "gold_customer_lifetime_value",
            f.groupby(f.customer_id, f.customer_name).reduce(
                f.customer_id, f.customer_name, total_spend=pw.reducers.sum(f.amount),
                total_orders=pw.reducers.count_distinct(f.transaction_id),
                first_purchase_date=pw.reducers.min(f.date), last_purchase_date=pw.reducers.max(f.date),
                avg_order_value=pw.reducers.avg(f.amount),
            ),
        )  # fmt: skip

    def _out_of(self, name: str, table: pw.Table) -> None:
        self.outputs[name] = Output(table, self._changed)

    def _count(self, name: str, rows: pw.Table, rules: dict[str, Any]) -> None:
        passed = {rule: pw.reducers.sum(pw.cast(int, check)) for rule, check in rules.items()}
        self._out_of(f"rules:{name}", rows.reduce(num_rows=pw.reducers.count(), **passed))

    def step(self) -> protocol.Rules:
        """Send what has landed, dimensions first; commit what comes out."""
        arrived = {name: self._landed(name, folder) for name, folder in spec.STREAMS.items()}
        rules: protocol.Rules = {}
        for names in ([name for name in spec.STREAMS if name != "sales"], ["sales"]):
            for name in names:
                if arrived[name]:
                    self._sent[name] += len(arrived[name])
                    self._subjects[name].batches.put(arrived[name])
            self._wait(names)
        self._new_counts("appended")
        for name in self.outputs:
            if name.startswith("rules:"):
                rules.update(self._new_counts(name))
            elif name != "appended":
                self._write(name)
        return rules

    def _wait(self, names: list[str]) -> None:
        """Wait until what was sent is counted, and all rows that were appended because of it have come out.

        The count of the appended rows is the last thing that the dataflow computes for rows sent; histories and aggregates
        come out in the same step of its worker.
        """

        def done() -> bool:
            if self._failed:
                raise SystemExit(f"Pathway stopped: {self._failed[0]}")
            counts = [self._latest(f"rules:{name}_cleaned_stream").get("num_rows", 0) for name in names]
            if counts != [self._sent[name] for name in names]:
                return False
            appended = sum(self.outputs[name].received for name in self._appended)
            return appended == self._latest("appended").get("num_rows", 0) >= sum(self._sent.values())

        with self._changed:
            while not self._changed.wait_for(done, timeout=1):
                pass
        time.sleep(WORKER_STEP_SECONDS)

    def _latest(self, name: str) -> Row:
        """Return the newest row of a table of one row that counts up."""
        rows = [row for is_addition, row in list(self.outputs[name].changes) if is_addition]
        return max(rows, key=lambda row: row["num_rows"]) if rows else self._counted.get(name, {})

    def _new_counts(self, name: str) -> protocol.Rules:
        latest, before = self._latest(name), self._counted.get(name, {})
        self.outputs[name].take()
        self._counted[name] = latest
        if latest == before:
            return {}
        return {name.removeprefix("rules:"): {rule: latest[rule] - before.get(rule, 0) for rule in latest}}

    def _landed(self, name: str, folder: str) -> list[Row]:
        files, self._seen[name] = protocol.landed_files(self._landing, folder, self._seen[name])
        rows: list[Row] = []
        for file in files:
            table = pq.read_table(file)
            for place, field in enumerate(table.schema):
                if pa.types.is_timestamp(field.type):
                    micros = table.column(place).cast(pa.timestamp("us", "UTC")).cast(pa.int64())
                    table = table.set_column(place, field.name, micros)
            now = time.time_ns() // 1000
            rows += [{**row, "ingest_timestamp": now, "source_file_path": file} for row in table.to_pylist()]
        (must,) = spec.MUST[name]
        if any(row[must.removeprefix("valid_")] is None for row in rows):
            raise SystemExit(f"bronze_{name}: a row without an id")
        return rows

    def _write(self, name: str) -> None:
        changes = self.outputs[name].take()
        if not changes:
            return
        location = str(self._out / name)
        if name in GOLD:
            groups = self._groups[name]
            keys = {"gold_daily_sales_by_store": 3, "gold_product_performance": 3, "gold_customer_lifetime_value": 2}[
                name
            ]
            for is_addition, row in sorted(changes, key=lambda change: change[0]):
                key = tuple(row.values())[:keys]
                if is_addition:
                    groups[key] = row
                else:
                    groups.pop(key, None)
            schema = pa.schema(list(GOLD[name].items()))
            rounded = [
                {column: round(value, 2) if isinstance(value, float) else value for column, value in row.items()}
                for row in groups.values()
            ]
            _commit(location, pa.Table.from_pylist(rounded, schema), mode="overwrite")
        elif name.removeprefix("silver_") in spec.KEYS:
            self._merge(name, location, changes)
        else:
            rows = [row for _, row in changes]
            _commit(location, pa.Table.from_pylist(rows, self._schema(name)), mode="append")

    def _merge(self, name: str, location: str, changes: list[tuple[bool, Row]]) -> None:
        of = name.removeprefix("silver_")
        key = spec.KEYS[of]
        final: dict[tuple[Any, Any], Row] = {}
        for is_addition, change in sorted(changes, key=lambda change: change[0]):
            row = change["row"].value
            final[row[key], row["__START_AT"]] = {**row, "op": "U" if is_addition else "D"}
        kinds = [(column, ARROW[kind]) for column, kind in spec.columns(of) if column != "last_update_time"]
        kinds += [("__START_AT", ARROW["timestamp"]), ("__END_AT", ARROW["timestamp"])]
        rows = pa.Table.from_pylist(list(final.values()), pa.schema([*kinds, ("op", pa.string())]))
        if not DeltaTable.is_deltatable(location):
            _commit(location, rows.drop_columns("op"), mode="append")
            return
        values = {column: f"s.{column}" for column, _ in kinds}
        merge = DeltaTable(location).merge(
            rows, f"t.{key} = s.{key} AND t.__START_AT = s.__START_AT", source_alias="s", target_alias="t"
        )
        merge = merge.when_matched_delete("s.op = 'D'").when_matched_update(values, "s.op = 'U'")
        merge.when_not_matched_insert(values, "s.op = 'U'").execute()

    def _schema(self, name: str) -> pa.Schema:
        if name == "denormalized_sales_facts":
            return pa.schema([(column, ARROW[kind]) for column, kind in FACTS.items()])
        stream = name.removeprefix("bronze_") if name.startswith("bronze_") else "sales"
        columns = {column: ARROW[kind] for column, kind in [*spec.columns(stream), *ORIGIN.items()]}
        if name.startswith("silver_"):
            columns["date"] = pa.date32()
        if name == "silver_returns_transactions":
            columns |= {column: columns.pop(of) for column, of in RETURNED.items()}
        return pa.schema(list(columns.items()))


def _commit(location: str, rows: pa.Table, *, mode: str) -> None:
    write_deltalake(location, rows, mode=mode, configuration={"delta.checkpointInterval": "10"})


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    return Dataflow(landing, out).step


if __name__ == "__main__":
    protocol.serve(make)
