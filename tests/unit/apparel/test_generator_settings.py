"""Settings: the defaults of the specification, and what is refused."""

from dataclasses import fields

import pytest

from apparel.generator.settings import BulkSettings, Dirt, GeneratorSettings, Span, option_name
from lakelet.errors import SpecError


def test_defaults_are_those_of_the_specification():
    settings = GeneratorSettings()
    assert settings.interval_seconds == 30
    assert settings.sales_per_batch == 500
    assert (settings.customer_changes, settings.product_changes, settings.store_changes) == (
        Span(1, 30),
        Span(1, 20),
        Span(0, 10),
    )
    assert (settings.update_share_customers, settings.update_share_products) == (0.3, 0.3)
    assert settings.update_share_stores == 0.5
    assert settings.skew_seconds == 60
    assert (settings.bootstrap_stores, settings.bootstrap_customers, settings.bootstrap_products) == (
        5,
        50,
        20,
    )
    assert (settings.return_rate, settings.bad_discount_rate) == (0.05, 0.02)
    assert (settings.missing_email_rate, settings.missing_manager_rate) == (0.02, 0.02)


def test_all_dirt_is_off_by_default():
    assert all(getattr(Dirt(), rate.name) == 0 for rate in fields(Dirt))


@pytest.mark.parametrize(("text", "span"), [("1..30", Span(1, 30)), ("7", Span(7, 7)), ("0..0", Span(0, 0))])
def test_a_span_reads_what_it_prints(text, span):
    assert Span.parse(text) == span
    assert Span.parse(str(span)) == span


@pytest.mark.parametrize("text", ["", "5..", "..5", "5..1", "-1..2", "a..b", "1..2..3"])
def test_a_span_refuses_what_is_not_a_range_of_counts(text):
    with pytest.raises(ValueError):
        Span.parse(text)


@pytest.mark.parametrize(
    ("make", "option"),
    [
        (lambda: GeneratorSettings(return_rate=1.01), "--return-rate"),
        (lambda: GeneratorSettings(update_share_stores=-0.1), "--update-share-stores"),
        (lambda: GeneratorSettings(interval_seconds=-1), "--interval"),
        (lambda: GeneratorSettings(skew_seconds=float("nan")), "--skew-seconds"),
        (lambda: GeneratorSettings(seed=-1), "--seed"),
        (lambda: Dirt(late_rate=2), "--late-rate"),
        (lambda: BulkSettings(commits=0), "--commits"),
        (lambda: BulkSettings(customers=-5), "--bulk-customers"),
    ],
)
def test_a_setting_out_of_range_is_a_usage_error_that_names_its_option(make, option):
    with pytest.raises(SpecError) as caught:
        make()
    assert caught.value.condition == "APPAREL_SETTING_INVALID"
    assert caught.value.exit_code == 2
    assert option in caught.value.render()


def test_every_setting_has_a_help_text_and_an_option_of_its_own():
    settings = [
        setting
        for owner in (GeneratorSettings, Dirt, BulkSettings)
        for setting in fields(owner)
        if setting.name != "dirt"
    ]
    options = [option_name(setting) for setting in settings]
    assert len(set(options)) == len(options)
    assert all(setting.metadata["help"] for setting in settings)
