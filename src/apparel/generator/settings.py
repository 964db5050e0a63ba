"""Every setting of the generator, with its default.

The command line builds its options from these dataclasses: a field is an option, its metadata the help text.
This module imports nothing heavy, so that `apparel generate --help` is fast.
"""

from __future__ import annotations

from dataclasses import Field, dataclass, field, fields
from typing import Any

from lakelet.errors import SpecError


@dataclass(frozen=True, slots=True)
class Span:
    """An inclusive range of counts, written `1..30`; a single number `7` means `7..7`."""

    low: int
    high: int

    @classmethod
    def parse(cls, text: str) -> Span:
        """Read `LOW..HIGH` or `N`.

        Raises:
            ValueError: the text is neither, or the range is empty or negative.
        """
        low, dots, high = text.partition("..")
        span = cls(int(low), int(high if dots else low))
        if not 0 <= span.low <= span.high:
            raise ValueError(f"{text} is not a range of counts")
        return span

    def __str__(self) -> str:
        return f"{self.low}..{self.high}"


def _help(text: str, *, option: str | None = None) -> dict[str, str]:
    """Return the metadata of a setting: its help text and, where it differs from its name, its option."""
    return {"help": text} if option is None else {"help": text, "option": option}


def option_name(setting: Field[Any]) -> str:
    """Return the command line option of a setting, such as `--sales-per-batch`."""
    return "--" + str(setting.metadata.get("option", setting.name)).replace("_", "-")


@dataclass(frozen=True, slots=True, kw_only=True)
class Dirt:
    """Rates of deliberate defects, each the share of rows it hits; all off by default.

    Dirt draws from its own random stream: the rows of a batch that it does not hit are those of a clean
    batch. The first rows of an empty dimension (the bootstrap) stay clean.
    """

    duplicate_rate: float = field(
        default=0.0, metadata=_help("share of rows of every stream written twice, with all their values")
    )
    null_sale_key_rate: float = field(default=0.0, metadata=_help("share of sales whose transaction_id is NULL"))
    null_customer_key_rate: float = field(
        default=0.0, metadata=_help("share of customer changes whose customer_id is NULL")
    )
    null_product_key_rate: float = field(
        default=0.0, metadata=_help("share of product changes whose product_id is NULL")
    )
    null_store_key_rate: float = field(default=0.0, metadata=_help("share of store changes whose store_id is NULL"))
    null_foreign_key_rate: float = field(default=0.0, metadata=_help("share of sales with one foreign key NULL"))
    unknown_foreign_key_rate: float = field(
        default=0.0, metadata=_help("share of sales with one foreign key that no dimension row has")
    )
    bad_price_rate: float = field(
        default=0.0, metadata=_help("share of product changes whose price is zero or negative")
    )
    late_rate: float = field(
        default=0.0,
        metadata=_help("share of sales whose event_time lies behind the pipeline's 10 minute watermark"),
    )
    schema_drift_rate: float = field(
        default=0.0, metadata=_help("share of rows of every stream that carry a value in a new column")
    )

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class GeneratorSettings:
    """What the generator writes each interval."""

    interval_seconds: float = field(
        default=30.0, metadata=_help("seconds from the start of a batch to the next", option="interval")
    )
    sales_per_batch: int = field(default=500, metadata=_help("sales of a batch, exactly"))
    customer_changes: Span = field(default=Span(1, 30), metadata=_help("customer rows of a batch, drawn each time"))
    product_changes: Span = field(default=Span(1, 20), metadata=_help("product rows of a batch, drawn each time"))
    store_changes: Span = field(default=Span(0, 10), metadata=_help("store rows of a batch, drawn each time"))
    update_share_customers: float = field(
        default=0.3, metadata=_help("share of customer changes that update a known id")
    )
    update_share_products: float = field(default=0.3, metadata=_help("share of product changes that update a known id"))
    update_share_stores: float = field(default=0.5, metadata=_help("share of store changes that update a known id"))
    skew_seconds: float = field(default=60.0, metadata=_help("event times lie 0 to this many seconds in the past"))
    bootstrap_customers: int = field(default=50, metadata=_help("customers written to an empty landing zone"))
    bootstrap_products: int = field(default=20, metadata=_help("products written to an empty landing zone"))
    bootstrap_stores: int = field(default=5, metadata=_help("stores written to an empty landing zone"))
    return_rate: float = field(
        default=0.05,
        metadata=_help("share of sales that are returns: quantity, total_amount and tax negated"),
    )
    bad_discount_rate: float = field(default=0.02, metadata=_help("share of sales with a negative discount"))
    missing_email_rate: float = field(default=0.02, metadata=_help("share of customer rows without an email"))
    missing_manager_rate: float = field(default=0.02, metadata=_help("share of store rows without a manager"))
    seed: int | None = field(default=None, metadata=_help("the same seed, clock and landing zone give the same rows"))
    dirt: Dirt = field(default_factory=Dirt)

    def __post_init__(self) -> None:
        _check(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class BulkSettings:
    """One bulk load: many sales in few commits, their event times spread evenly over some days."""

    sales: int = field(
        default=1_000_000, metadata=_help("bulk mode: write this many sales and stop", option="bulk-sales")
    )
    commits: int = field(default=1, metadata=_help("commits of a bulk load", option="commits"))
    customers: int = field(
        default=10_000,
        metadata=_help("customers that a bulk load writes first if there are none", option="bulk-customers"),
    )
    products: int = field(
        default=1_000,
        metadata=_help("products that a bulk load writes first if there are none", option="bulk-products"),
    )
    stores: int = field(
        default=50,
        metadata=_help("stores that a bulk load writes first if there are none", option="bulk-stores"),
    )
    days: float = field(
        default=30.0, metadata=_help("days before now over which bulk sales are spread", option="bulk-days")
    )

    def __post_init__(self) -> None:
        _check(self)
        if self.commits < 1:
            raise SpecError(
                "APPAREL_SETTING_INVALID",
                "`commits` is 0, a bulk load needs at least one",
                hint="pass --commits 1",
            )


def _check(settings: Dirt | GeneratorSettings | BulkSettings) -> None:
    """Refuse rates outside 0..1 and negative numbers.

    Raises:
        SpecError: APPAREL_SETTING_INVALID.
    """
    for setting in fields(settings):
        value = getattr(settings, setting.name)
        is_share = setting.name.endswith("_rate") or setting.name.startswith("update_share")
        if is_share and not 0 <= value <= 1:
            wanted = "a share from 0 to 1"
        elif isinstance(value, int | float) and not 0 <= value < float("inf"):
            wanted = "a number from 0"
        else:
            continue
        raise SpecError(
            "APPAREL_SETTING_INVALID",
            f"`{setting.name}` is {value}, it must be {wanted}",
            hint=f"pass {option_name(setting)} with {wanted}",
        )
