"""A small pipeline behind its pages, and a client that talks to them as a browser does."""

from __future__ import annotations

import re
import textwrap
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake
from starlette.testclient import TestClient

from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline
from lakelet.web.app import create_app
from lakelet.web.security import Access
from lakelet.web.site import Site

ORIGIN = "http://127.0.0.1:4040"
SPEC = """
name: shop
storage: data
configuration:
  storage.password: "correct-horse"
  region: north
libraries:
  - glob: {include: transformations/**}
"""
TABLES = """
from pyspark import pipelines as dp
from pyspark.sql import functions as F

@dp.table(name="bronze.orders", comment="Orders as they came")
@dp.expect_or_fail("has_id", "id IS NOT NULL")
@dp.expect("small", "amount < 100")
def orders():
    return spark.readStream.format("delta").load("/Volumes/main/raw/landing/orders")

@dp.temporary_view(comment="Orders that count")
@dp.expect_or_drop("positive", "amount > 0")
def good_orders():
    return spark.readStream.table("bronze.orders")

@dp.table(name="silver.paid")
def paid():
    return spark.readStream.table("good_orders")

@dp.materialized_view(name="gold.totals", comment="What each customer paid")
def totals():
    return spark.read.table("silver.paid").groupBy("customer").agg(F.sum("amount").alias("total"))
"""


class Shop:
    """The pipeline's folder, its site, and a client; the pages' clock is the real one."""

    def __init__(self, root: Path, engine: SailEngine) -> None:
        self.root = root
        self.engine = engine
        (root / "transformations").mkdir()
        (root / "spark-pipeline.yml").write_text(SPEC)
        self.write(TABLES)
        self._opened: list[Site] = []

    def write(self, source: str) -> None:
        (self.root / "transformations" / "tables.py").write_text(textwrap.dedent(source))

    def land(self, *rows: tuple[int | None, str, int]) -> None:
        """Append orders: id, customer, amount."""
        names, types = ("id", "customer", "amount"), (pa.int64(), pa.string(), pa.int64())
        columns = zip(*rows, strict=True)
        table = pa.table({n: pa.array(c, t) for n, c, t in zip(names, columns, types, strict=True)})
        folder = self.root / "data" / "Volumes" / "main" / "raw" / "landing" / "orders"
        folder.parent.mkdir(parents=True, exist_ok=True)
        write_deltalake(str(folder), table, mode="append")

    def pipeline(self) -> Pipeline:
        return Pipeline(self.root, engine=self.engine)

    def run(self, **options: Any) -> Any:
        """Run an update as another program would."""
        return self.pipeline().run(**options)

    def site(self) -> Site:
        site = Site(self.pipeline())
        self._opened.append(site)
        return site

    def client(self, *, access: Access | None = None, site: Site | None = None, **options: Any) -> TestClient:
        site = site or self.site()
        site.watcher.read()
        app = create_app(site, access=access or Access(), **options)
        return TestClient(app, base_url=ORIGIN, raise_server_exceptions=True)

    def close(self) -> None:
        for site in self._opened:
            if not site.closing.is_set():
                site.close()


@pytest.fixture
def shop(tmp_path: Path, engine: SailEngine) -> Iterator[Shop]:
    shop = Shop(tmp_path, engine)
    shop.land((1, "ann", 10), (2, "bob", 250), (3, "cyd", -5))
    yield shop
    shop.close()


@pytest.fixture
def client(shop: Shop) -> TestClient:
    """The pages after one update."""
    assert shop.run().exit_code == 0
    return shop.client()


def post(client: TestClient, path: str, **fields: Any) -> Any:
    """Send a form as our own page does."""
    return client.post(path, data=fields, headers={"origin": ORIGIN}, follow_redirects=False)


def wait_for(condition: Callable[[], Any], *, seconds: float = 60) -> Any:
    """Return the first true value of `condition`; its threads work meanwhile."""
    deadline, pause = time.monotonic() + seconds, threading.Event()
    while time.monotonic() < deadline:
        if value := condition():
            return value
        pause.wait(0.02)
    raise AssertionError("it did not happen in time")


def text_of(html: str) -> str:
    """Return what a page says, without its tags."""
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", html))


def check_inert(answer: Any) -> None:
    """Assert that a page has no script or style of its own text, and loads nothing from elsewhere."""
    policy = answer.headers["content-security-policy"]
    assert "unsafe" not in policy and "default-src 'none'" in policy
    for tag in re.findall(r"<script[^>]*>", answer.text):
        assert 'type="application/json"' in tag or re.search(r'src="/static/[a-z/.]+"', tag), tag
    assert not re.search(r"<style|\sstyle=|\son[a-z]+=|javascript:", answer.text)
    assert not re.search(r"(?:src|href|action)=\"(?:https?:)?//", answer.text)
