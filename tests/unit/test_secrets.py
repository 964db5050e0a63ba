"""Which settings are secret, and texts without them."""

from __future__ import annotations

import pytest

from lakelet.secrets import is_secret, masked, scrubbed, secret_values, shown


@pytest.mark.parametrize(
    "key",
    ["password", "db.password", "storage.PWD", "kafka.sasl.token", "api_key", "apiKey", "fs.azure.account.key", "client-secret",
     "aws.secretAccessKey", "spark.hadoop.fs.s3a.access.key", "fs.azure.account.key.lake.example",
     "gcp.credentials", "some.sas", "encryption.key"],
)  # fmt: skip
def test_settings_that_are_secret(key: str) -> None:
    assert is_secret(key)


@pytest.mark.parametrize(
    "key", ["region", "primary_key", "partition.key", "monkey", "sasquatch", "keys", "spark.sql.ansi.enabled"]
)
def test_settings_that_are_not(key: str) -> None:
    assert not is_secret(key)


def test_values_are_masked_in_their_place_and_in_every_text() -> None:
    settings = {"password": "s3cret-word", "pin.token": "abc", "region": "north", "other.password": ""}
    assert masked(settings) == {"password": "***", "pin.token": "***", "region": "north", "other.password": ""}
    secrets = secret_values(settings)
    assert secrets == {"s3cret-word"}
    value = {"a s3cret-word": ["no", ("x s3cret-word y", 3, None)], "n": 1.5}
    assert scrubbed(value, secrets) == {"a ***": ["no", ["x *** y", 3, None]], "n": 1.5}
    assert scrubbed(value, frozenset()) is value


def test_a_setting_that_repeats_a_secret_is_masked_there() -> None:
    settings = {"password": "s3cret-word", "url": "db://me:s3cret-word@host/x", "region": "north"}
    assert shown(settings) == {"password": "***", "url": "db://me:***@host/x", "region": "north"}
