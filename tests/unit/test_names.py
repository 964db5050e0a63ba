"""Dataset names: one to three parts, back-ticks, LIVE, digits first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lakelet.errors import DefinitionError
from lakelet.names import NameContext, TableName, quote, split_name

NAMES = NameContext(catalog="main", schema="shop")


@pytest.mark.parametrize(
    ("text", "full"),
    [
        ("orders", "main.shop.orders"),
        ("01_bronze.sales", "main.01_bronze.sales"),
        ("dev.01_bronze.sales", "dev.01_bronze.sales"),
        ("LIVE.orders", "main.shop.orders"),
        ("live.orders", "main.shop.orders"),
        ("`LIVE`.`orders`", "main.shop.orders"),
        ("`a.b`.c", "main.a.b.c"),
        (" shop . orders ", "main.shop.orders"),
        ("`we``ird`", "main.shop.we`ird"),
    ],
)
def test_shorter_names_get_the_pipelines_defaults(text: str, full: str) -> None:
    assert str(NAMES.resolve(text)) == full


@pytest.mark.parametrize("text", ["", ".", "a.", ".a", "a..b", "`a", "``", "a.b.c.d"])
def test_what_is_no_name_is_refused(text: str) -> None:
    with pytest.raises(DefinitionError) as raised:
        NAMES.resolve(text)
    assert raised.value.condition == "INVALID_IDENTIFIER"
    assert raised.value.hint


def test_case_is_kept_and_does_not_count() -> None:
    name = NAMES.resolve("Shop.Orders")
    assert str(name) == "main.Shop.Orders"
    assert name.key == NAMES.resolve("ORDERS").key


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        (TableName("main", "shop", "orders"), "orders"),
        (TableName("MAIN", "Shop", "orders"), "orders"),
        (TableName("main", "silver", "orders"), "silver.orders"),
        (TableName("dev", "shop", "orders"), "dev.shop.orders"),
    ],
)
def test_a_name_is_shown_as_short_as_it_resolves_back(name: TableName, shown: str) -> None:
    assert NAMES.display(name) == shown
    assert NAMES.resolve(shown).key == name.key


PART = st.text(st.characters(codec="utf-8", exclude_categories=("C", "Z")), min_size=1, max_size=8).filter(
    lambda part: part.strip() == part
)


@given(st.lists(PART, min_size=1, max_size=3))
def test_quoted_parts_split_back(parts: list[str]) -> None:
    assert split_name(".".join(quote(part) for part in parts)) == parts
