"""A pipeline behind its doors, and the clients that real users have."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyspark.sql import SparkSession
from tests.web.web_kit import Shop

from lakelet.doors import Doors, open_doors
from lakelet.pipeline import Pipeline

TIMEOUT_SECONDS = 120.0
SECRET = "correct-horse-battery"
CONFIGURATION = {
    "spark.hadoop.fs.s3a.secret.key": SECRET,
    "spark.hadoop.fs.s3a.access.key": "AKIA-of-the-lake",
    "spark.hadoop.lake.url": f"https://me:{SECRET}@lake.example",
    "spark.hadoop.fs.s3a.endpoint.region": "north",
}
"""What the pipeline's own project file has."""


@pytest.fixture(autouse=True)
def client_mode(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have `pyspark.sql.functions` make expressions of Spark Connect, as in the process of a client."""
    monkeypatch.setenv("SPARK_CONNECT_MODE_ENABLED", "1")


@pytest.fixture(scope="session")
def shop(tmp_path_factory: pytest.TempPathFactory, engine: Any) -> Iterator[Shop]:
    """One pipeline for all clients: they must not change it anyway."""
    shop = Shop(tmp_path_factory.mktemp("doors"), engine)
    spec = shop.root / "spark-pipeline.yml"
    lines = "".join(f'  {key}: "{value}"\n' for key, value in CONFIGURATION.items())
    spec.write_text(spec.read_text().replace("configuration:\n", f"configuration:\n{lines}"))
    shop.land((1, "ann", 10), (2, "bob", 250), (3, "cyd", -5))
    assert shop.run().exit_code == 0
    yield shop
    shop.close()


@pytest.fixture(scope="session")
def doors(shop: Shop) -> Iterator[Doors]:
    with open_doors(
        Pipeline(shop.root), spark_port=0, flight_port=0, queries=2, timeout_seconds=TIMEOUT_SECONDS
    ) as opened:
        yield opened


@pytest.fixture(scope="session")
def new_session() -> Iterator[Callable[[str], SparkSession]]:
    """Makes sessions of Spark as a user does; they end with the tests."""
    made: list[SparkSession] = []

    def make(url: str) -> SparkSession:
        before = dict(os.environ)
        session = SparkSession.builder.remote(url).create()
        os.environ.clear()
        os.environ.update(before)  # what it leaves there would reach the processes of other tests
        made.append(session)
        return session

    yield make
    for session in made:
        session.client.close()


@pytest.fixture(scope="session")
def spark(doors: Doors, new_session: Callable[[str], SparkSession]) -> SparkSession:
    return new_session(doors.spark_connect)
