"""The four streams of the retailer: their schemas, and how one realistic row of each is made.

Schemas are explicit everywhere: a batch whose nullable column is all NULL must not change a type.
Times are microseconds since 1970 in UTC until they become a column.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from mimesis import Address, Person, Text
from mimesis.enums import Gender
from mimesis.locales import Locale
from mimesis.random import Random

Ids: TypeAlias = npt.NDArray[np.int32]
Micros: TypeAlias = npt.NDArray[np.int64]
Row: TypeAlias = dict[str, Any]

MICROS_PER_SECOND = 1_000_000
MICROS_PER_DAY = 86_400 * MICROS_PER_SECOND
TIMESTAMP = pa.timestamp("us", tz="UTC")


class Stream(StrEnum):
    """A stream of the landing zone, by its folder's name; dimensions first, because sales reference them."""

    STORES = "stores"
    CUSTOMERS = "customers"
    ITEMS = "items"
    SALES = "sales"

    @property
    def key(self) -> str:
        """The id column."""
        return _KEYS[self]

    @property
    def time(self) -> str:
        """The column that says when a row happened: a sale's event time, a dimension row's sequence value."""
        return "event_time" if self is Stream.SALES else "last_update_time"

    @property
    def schema(self) -> pa.Schema:
        """The columns of the stream. All are nullable: dirt may empty even a key."""
        return _SCHEMAS[self]


DIMENSIONS = (Stream.STORES, Stream.CUSTOMERS, Stream.ITEMS)
_KEYS = {
    Stream.STORES: "store_id",
    Stream.CUSTOMERS: "customer_id",
    Stream.ITEMS: "product_id",
    Stream.SALES: "transaction_id",
}
_SCHEMAS = {
    Stream.SALES: pa.schema(
        {
            "transaction_id": pa.int32(),
            "store_id": pa.int32(),
            "event_time": TIMESTAMP,
            "customer_id": pa.int32(),
            "product_id": pa.int32(),
            "quantity": pa.int32(),
            "unit_price": pa.float64(),
            "total_amount": pa.float64(),
            "payment_method": pa.string(),
            "discount_applied": pa.float64(),
            "tax_amount": pa.float64(),
        }
    ),
    Stream.CUSTOMERS: pa.schema(
        {
            "customer_id": pa.int32(),
            "name": pa.string(),
            "email": pa.string(),
            "address": pa.string(),
            "join_date": TIMESTAMP,
            "loyalty_points": pa.int32(),
            "phone_number": pa.string(),
            "age": pa.int32(),
            "gender": pa.string(),
            "last_update_time": TIMESTAMP,
        }
    ),
    Stream.ITEMS: pa.schema(
        {
            "product_id": pa.int32(),
            "name": pa.string(),
            "category": pa.string(),
            "brand": pa.string(),
            "price": pa.float64(),
            "stock_quantity": pa.int32(),
            "size": pa.string(),
            "color": pa.string(),
            "description": pa.string(),
            "last_update_time": TIMESTAMP,
        }
    ),
    Stream.STORES: pa.schema(
        {
            "store_id": pa.int32(),
            "name": pa.string(),
            "address": pa.string(),
            "manager": pa.string(),
            "open_date": TIMESTAMP,
            "status": pa.string(),
            "phone_number": pa.string(),
            "last_update_time": TIMESTAMP,
        }
    ),
}

PAYMENT_METHODS = ("Cash", "Credit Card", "Debit Card", "Mobile Pay", "Gift Card")
GENDERS = ("Male", "Female", "Other")
STORE_STATUSES = ("Open", "Under Renovation")
# category: its garments, and the sizes these are sold in
_LETTER_SIZES = ("XS", "S", "M", "L", "XL", "XXL")
_RANGE = {
    "Casual Wear": (
        ("T-Shirt", "Hoodie", "Jeans", "Polo Shirt", "Chinos", "Cardigan", "Denim Jacket"),
        _LETTER_SIZES,
    ),
    "Formal Wear": (
        ("Oxford Shirt", "Blazer", "Suit Trousers", "Pencil Skirt", "Evening Dress", "Waistcoat"),
        _LETTER_SIZES,
    ),
    "Sportswear": (
        ("Running Shorts", "Leggings", "Track Jacket", "Training Top", "Sports Bra", "Base Layer"),
        _LETTER_SIZES,
    ),
    "Accessories": (("Leather Belt", "Scarf", "Beanie", "Tote Bag", "Sunglasses", "Silk Tie"), ("One Size",)),
    "Footwear": (
        ("Sneakers", "Loafers", "Ankle Boots", "Sandals", "Running Shoes"),
        tuple(str(size) for size in range(36, 47)),
    ),
}
CATEGORIES = tuple(_RANGE)
_FABRICS = ("Organic Cotton", "Merino", "Linen", "Recycled", "Slim Fit", "Relaxed", "Classic", "Lightweight")
_BRAND_ENDINGS = ("& Co.", "Apparel", "Outfitters", "Atelier", "Studio")
_STORE_KINDS = ("Flagship", "Outlet", "Mall", "High Street", "Station")
# Reserved for documentation (RFC 2606, 555-01xx): a made-up customer never has a real person's address.
_EMAIL_DOMAINS = ("example.com", "example.org", "example.net")
_PHONE_MASK = "+1-###-555-01##"
_GENDER_OF_NAME = {"Male": Gender.MALE, "Female": Gender.FEMALE, "Other": None}


class RowMaker:
    """Makes dimension rows; everything in them comes from `random`, so the same seed gives the same rows."""

    def __init__(self, *, missing_email_rate: float = 0.0, missing_manager_rate: float = 0.0) -> None:
        self.random = Random(0)
        self._person = Person(Locale.EN, random=self.random)
        self._place = Address(Locale.EN, random=self.random)
        self._text = Text(Locale.EN, random=self.random)
        self._missing_email_rate = missing_email_rate
        self._missing_manager_rate = missing_manager_rate

    def row(self, stream: Stream, row_id: int, *, now: int, updated: int) -> Row:
        """Return one new row of a dimension, every attribute drawn afresh.

        Args:
            stream: the dimension.
            row_id: its key.
            now: the batch's clock; dates of joining and opening lie before it.
            updated: the row's `last_update_time`.
        """
        match stream:
            case Stream.CUSTOMERS:
                return self._customer(row_id, now, updated)
            case Stream.ITEMS:
                return self._product(row_id, updated)
            case Stream.STORES:
                return self._store(row_id, now, updated)
            case Stream.SALES:
                raise ValueError("sales are made in columns, by `make_sales`")

    def _customer(self, customer_id: int, now: int, updated: int) -> Row:
        random = self.random
        gender = random.choices(GENDERS, (48, 48, 4))[0]
        first = self._person.first_name(_GENDER_OF_NAME[gender])
        last = self._person.last_name()
        letters = "".join(c for c in f"{first}.{last}".lower() if c.isascii() and (c.isalnum() or c == "."))
        email = f"{letters}{random.randint(1, 9999)}@{random.choice(_EMAIL_DOMAINS)}"
        return {
            "customer_id": customer_id,
            "name": f"{first} {last}",
            "email": None if random.random() < self._missing_email_rate else email,
            "address": self._address(),
            "join_date": self._before(now, days=5 * 365),
            "loyalty_points": random.randint(0, 5000),
            "phone_number": self._person.phone_number(mask=_PHONE_MASK),
            "age": random.randint(18, 85),
            "gender": gender,
            "last_update_time": updated,
        }

    def _product(self, product_id: int, updated: int) -> Row:
        random = self.random
        category = random.choice(CATEGORIES)
        garments, sizes = _RANGE[category]
        name = f"{random.choice(_FABRICS)} {random.choice(garments)}"
        brand = f"{self._person.last_name()} {random.choice(_BRAND_ENDINGS)}"
        size, color = random.choice(sizes), self._text.color()
        return {
            "product_id": product_id,
            "name": name,
            "category": category,
            "brand": brand,
            "price": random.randint(1000, 10000) / 100,
            "stock_quantity": random.randint(0, 500),
            "size": size,
            "color": color,
            "description": f"{color} {name.lower()} by {brand.rstrip('.')}, size {size}",
            "last_update_time": updated,
        }

    def _store(self, store_id: int, now: int, updated: int) -> Row:
        random = self.random
        return {
            "store_id": store_id,
            "name": f"{self._place.city()} {random.choice(_STORE_KINDS)}",
            "address": self._address(),
            "manager": None if random.random() < self._missing_manager_rate else self._person.full_name(),
            "open_date": self._before(now, days=20 * 365),
            "status": random.choices(STORE_STATUSES, (9, 1))[0],
            "phone_number": self._person.phone_number(mask=_PHONE_MASK),
            "last_update_time": updated,
        }

    def _address(self) -> str:
        place = self._place
        return f"{place.address()}, {place.city()}, {place.state(abbr=True)} {place.postal_code()}"

    def _before(self, now: int, *, days: int) -> int:
        """Return a whole second at least a day and at most `days` before `now`."""
        return (
            now // MICROS_PER_SECOND * MICROS_PER_SECOND
            - self.random.randint(86_400, days * 86_400) * MICROS_PER_SECOND
        )


def make_sales(
    rng: np.random.Generator,
    *,
    first_id: int,
    event_times: Micros,
    stores: Ids,
    customers: Ids,
    products: Ids,
    return_rate: float,
    bad_discount_rate: float,
) -> pa.Table:
    """Make one sale for each event time, in columns.

    Money is drawn and multiplied in whole cents, so every amount is the double nearest to its two decimals.

    Args:
        rng: the random stream.
        first_id: transaction_id of the first row; the others follow without a gap.
        event_times: when each sale happened.
        stores: ids to reference, at least one.
        customers: likewise.
        products: likewise.
        return_rate: share of rows whose quantity, total_amount and tax_amount are negated.
        bad_discount_rate: share of rows whose discount is negative instead of 0..20.
    """
    count = len(event_times)
    quantity = rng.integers(1, 6, count, dtype=np.int32)
    unit_cents = rng.integers(1000, 10001, count)
    total_cents = quantity * unit_cents
    tax_cents = np.rint(total_cents * 8 / 100)
    sign = np.where(rng.random(count) < return_rate, -1, 1).astype(np.int32)
    discount_cents = rng.integers(0, 2001, count)
    bad_discount_cents = -np.maximum(discount_cents, 1)
    discount = np.where(rng.random(count) < bad_discount_rate, bad_discount_cents, discount_cents) / 100
    payment = pa.array(PAYMENT_METHODS, pa.string()).take(pa.array(rng.integers(0, len(PAYMENT_METHODS), count)))
    columns = {
        "transaction_id": np.arange(first_id, first_id + count, dtype=np.int32),
        "store_id": stores[rng.integers(0, len(stores), count)],
        "event_time": pa.array(event_times).cast(TIMESTAMP),
        "customer_id": customers[rng.integers(0, len(customers), count)],
        "product_id": products[rng.integers(0, len(products), count)],
        "quantity": quantity * sign,
        "unit_price": unit_cents / 100,
        "total_amount": total_cents * sign / 100,
        "payment_method": payment,
        "discount_applied": discount,
        "tax_amount": tax_cents * sign / 100,
    }
    return pa.table(columns, schema=Stream.SALES.schema)
