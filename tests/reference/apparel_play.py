"""Days of the retailer: generator batches with every defect that a pipeline survives, and updates in between.

    python -m tests.reference.apparel_play STORAGE SEED     plays one, in whatever time zone the shell has
    python -m tests.reference.apparel_play STORAGE          runs one update

The same seed gives the same landing rows, the same cuts between updates and the same sizes of micro-batches.
"""

from __future__ import annotations

import os
import random
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
from deltalake import write_deltalake
from tests.reference.apparel_oracle import landing_of

from apparel.generator.clock import SteppingClock
from apparel.generator.landing import DeltaLanding
from apparel.generator.model import Stream
from apparel.generator.settings import Dirt, GeneratorSettings, Span
from apparel.generator.streams import Generator
from lakelet.pipeline import Pipeline, UpdateResult

PIPELINE = Path(__file__).parents[2] / "src" / "apparel" / "pipeline"
NEW_YEAR = datetime(2026, 1, 1, 2, tzinfo=UTC)  # in New York still the year before
SIZES = ("1b", "12kb", "64mb")
"""Limits of a micro-batch: one file, some files, everything."""

DIRT = Dirt(
    duplicate_rate=0.1, null_foreign_key_rate=0.05, unknown_foreign_key_rate=0.05, bad_price_rate=0.2, late_rate=0.1
)
SETTINGS = GeneratorSettings(
    sales_per_batch=60,
    customer_changes=Span(5, 15),
    product_changes=Span(5, 12),
    store_changes=Span(0, 6),
    # Many changes of few ids, twenty seconds apart with a minute of skew: most histories get late events.
    update_share_customers=0.8,
    update_share_products=0.8,
    update_share_stores=0.8,
    bootstrap_customers=12,
    bootstrap_products=10,
    bootstrap_stores=4,
    return_rate=0.15,
    bad_discount_rate=0.1,
    missing_email_rate=0.3,
    missing_manager_rate=0.3,
    dirt=DIRT,
)


def seed_of_this_run() -> int:
    """Return a new seed, or the one to repeat; a test prints it."""
    return int(os.environ.get("APPAREL_SEED") or random.SystemRandom().randrange(10**6))


def generator(storage: Path, *, seed: int, start: datetime = NEW_YEAR, **changes: Any) -> Generator:
    settings = replace(SETTINGS, seed=seed, **changes)
    return Generator(settings, DeltaLanding(storage), clock=SteppingClock(start, step_seconds=20))


def _settings(size: str) -> dict[str, str]:
    """Return the settings of a pipeline; only that of the smallest micro-batches computes small views anew."""
    return {"lakelet.maxBytesPerTrigger": size, "lakelet.views.recomputeRows": "200000" if size == "1b" else "0"}


@dataclass(slots=True)
class Play:
    """One storage, its pipelines and the updates so far."""

    storage: Path
    seed: int
    updates: list[UpdateResult] = field(default_factory=list)
    _pipelines: dict[str, Pipeline] = field(default_factory=dict)

    def pipeline(self, size: str = "64mb") -> Pipeline:
        """Return the pipeline that cuts micro-batches of this size; each has an engine of its own."""
        if size not in self._pipelines:
            self._pipelines[size] = Pipeline(PIPELINE, storage=self.storage, configuration=_settings(size))
        return self._pipelines[size]

    def update(self, size: str = "64mb") -> UpdateResult:
        result = self.pipeline(size).run()
        self.updates.append(result)
        return result

    def steps(self, *, batches: int = 8) -> Iterator[UpdateResult]:
        """Write batches and run updates in random turns; yields after each update, the last one has read everything."""
        draw = random.Random(self.seed)
        clean = generator(self.storage, seed=self.seed)
        drifted = replace(DIRT, schema_drift_rate=0.3)
        for number in range(batches):
            if number == batches // 2:
                # A restart of the generator, beside source systems that have begun to send one more column.
                later = NEW_YEAR + timedelta(hours=20)
                clean = generator(self.storage, seed=self.seed, start=later, dirt=drifted)
            clean.write_batch()
            if number == 2:
                append_odd_rows(self.storage, ODD_ROWS)
            if number == batches - 2:
                append_odd_rows(self.storage, ODD_ROWS_LATER)
            if draw.random() < 0.6 or number == batches - 1:
                yield self.update(draw.choice(SIZES))

    def close(self) -> None:
        for pipeline in self._pipelines.values():
            pipeline.close()
        self._pipelines.clear()


# -- rows that no generator makes: each side of every rule, and the corners of a history ------------------------------

T0 = datetime(2025, 12, 31, 12, tzinfo=UTC)
EDGE = datetime(2026, 1, 1, tzinfo=UTC)


def _at(seconds: float) -> datetime:
    return T0 + timedelta(seconds=seconds)


def _customer(at: float, customer_id: int = 900_001, **changes: Any) -> dict[str, Any]:
    row = {
        "customer_id": customer_id, "name": "Ann Odd", "email": "ann@odd.example", "address": "1 Odd Street",
        "join_date": T0, "loyalty_points": 1, "phone_number": "+1", "age": 40, "gender": "Other",
        "last_update_time": _at(at),
    }  # fmt: skip
    return row | changes


def _product(at: float, product_id: int = 900_001, **changes: Any) -> dict[str, Any]:
    row = {
        "product_id": product_id, "name": "Odd Hat", "category": "Accessories", "brand": "Odd", "price": 10.0,
        "stock_quantity": 1, "size": "M", "color": "Red", "description": "A hat", "last_update_time": _at(at),
    }  # fmt: skip
    return row | changes


def _store(at: float, store_id: int = 900_001, **changes: Any) -> dict[str, Any]:
    row = {
        "store_id": store_id, "name": "Odd Store", "address": "2 Odd Street", "manager": "Bo Odd", "open_date": T0,
        "status": "Open", "phone_number": "+2", "last_update_time": _at(at),
    }  # fmt: skip
    return row | changes


def _sale(transaction_id: int, **changes: Any) -> dict[str, Any]:
    row = {
        "transaction_id": 900_000 + transaction_id, "store_id": 900_001, "event_time": EDGE, "customer_id": 900_001,
        "product_id": 900_001, "quantity": 1, "unit_price": 0.1, "total_amount": 0.1, "payment_method": "Cash",
        "discount_applied": 0.0, "tax_amount": 0.01,
    }  # fmt: skip
    return row | changes


def _one_change_at_a_time(row: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the history of a row whose columns change one after the other: some open a version, some do not."""
    key, *values = (name for name in row if name != "last_update_time")
    rows = [row | {key: 900_003, "last_update_time": _at(200)}]
    for number, name in enumerate(values, 1):
        old = rows[-1][name]
        new = old + (timedelta(days=1) if isinstance(old, datetime) else "!" if isinstance(old, str) else 1)
        rows.append(rows[-1] | {name: new, "last_update_time": _at(200 + number)})
    return rows


ODD_ROWS: dict[Stream, Sequence[dict[str, Any]]] = {
    Stream.CUSTOMERS: [
        _customer(0),
        _customer(20, email=None, name=None, age=None),  # NULLs keep the values before
        _customer(40, loyalty_points=-1, age=17),  # nothing tracked changes
        _customer(60, address="3 Odd Street", age=101, gender="X"),
        _customer(60, address="3 Odd Street", age=101, gender="X"),
        _customer(100, address="1 Odd Street", age=18, gender=None, loyalty_points=0),
        _customer(0, 900_002, email="no at sign", name=None, age=100),
        _customer(10, 900_002, email="", name="Tie B"),
        _customer(10, 900_002, email="x@y.z", name="Tie A", address=None),  # a tie within one commit
        *_one_change_at_a_time(_customer(0)),
    ],
    Stream.ITEMS: [
        _product(0),
        _product(10, price=0.0, name="Free"),
        _product(20, price=-1.0, name="Paid to take"),
        _product(30, price=10_000.0, name="Too dear"),
        _product(40, price=9_999.99, stock_quantity=-1),
        _product(50, price=None, name="Unpriced"),
        _product(60, price=0.01, category="Toys", brand=None, color=None),
        *_one_change_at_a_time(_product(0)),
    ],
    Stream.STORES: [
        _store(0),
        _store(10, manager=None),  # a manager who left is 'Unknown', not the one before
        _store(20, status="Closed", phone_number="+3"),
        _store(30, status=None, phone_number="+4"),
        _store(40, name=None, phone_number=None),
        *_one_change_at_a_time(_store(0)),
    ],
    Stream.SALES: [
        _sale(1),
        _sale(1),
        _sale(2, quantity=0),
        _sale(3, quantity=None),
        _sale(4, discount_applied=None),
        _sale(5, discount_applied=-0.01, payment_method="Barter"),
        _sale(6, payment_method=None),
        _sale(7, event_time=EDGE - timedelta(microseconds=1), total_amount=0.2),
        _sale(8, event_time=EDGE + timedelta(days=1), total_amount=0.3),
        _sale(9, event_time=datetime(1969, 7, 20, 20, 17, tzinfo=UTC)),
        _sale(10, total_amount=None, unit_price=None),
        _sale(11, quantity=-3, total_amount=-0.3, tax_amount=-0.02),
        _sale(12, quantity=-1, total_amount=0.1, store_id=None),
        _sale(13, quantity=2, store_id=None, customer_id=None, product_id=None, discount_applied=None),
        _sale(14, quantity=-2, customer_id=None, product_id=None),
        _sale(15, payment_method="cash", event_time=EDGE.replace(hour=23, minute=59)),
    ],
}
ODD_ROWS_LATER: dict[Stream, Sequence[dict[str, Any]]] = {
    Stream.CUSTOMERS: [
        _customer(10, email="late@odd.example", name="Late Odd"),  # fills what the event at 20 left NULL
        _customer(40, loyalty_points=-1, age=16),  # a tie with a row of an earlier commit that loses
        _customer(60, address="9 Odd Street", age=101, gender="X"),  # one that wins
        _customer(80, address="1 Odd Street"),  # the version that began at 100 begins earlier now
        _customer(-10, name="First Odd", address=None),
        _customer(0),  # again, as it was
        _customer(10, 900_002, email=None, name="Tie B", address=None, phone_number="+9"),
    ],
    Stream.ITEMS: [
        _product(5, color="Blue", brand=None),
        _product(60, price=0.01, color="Red"),
        _product(70, price=0.0),
    ],
    Stream.STORES: [_store(15, manager="Cy Odd"), _store(35, status="Under Renovation"), _store(30, status="Open")],
    Stream.SALES: [_sale(1), _sale(16, product_id=900_002, customer_id=900_002, store_id=2_000_000_001)],
}


def append_odd_rows(storage: Path, rows: dict[Stream, Sequence[dict[str, Any]]]) -> None:
    """Append rows to the landing tables, dimensions first, as a second source system would."""
    for stream in Stream:
        if stream in rows:
            table = pa.Table.from_pylist(list(rows[stream]), schema=stream.schema)
            write_deltalake(str(landing_of(storage, stream)), table, mode="append", schema_mode="merge")


def main() -> None:
    storage, *seeds = sys.argv[1:]
    play = Play(Path(storage), seed=int(seeds[0]) if seeds else 0)
    updates = list(play.steps()) if seeds else [play.update()]
    play.close()
    sys.stdout.write(" ".join(update.state.value for update in updates))


if __name__ == "__main__":
    main()
