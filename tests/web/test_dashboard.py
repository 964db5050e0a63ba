"""The retailer's dashboard: its figures agree with DuckDB over the same tables, and it reads gold and silver only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import pytest
from deltalake import DeltaTable
from starlette.testclient import TestClient

from apparel.dashboard import FIRST, PAGES, history, retail
from apparel.demo import PIPELINE
from apparel.generator.landing import DeltaLanding
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline
from lakelet.web.app import create_app
from lakelet.web.site import Site


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, engine: SailEngine) -> Path:
    """The retailer after three batches."""
    storage = tmp_path_factory.mktemp("apparel")
    generator = Generator(GeneratorSettings(seed=11), DeltaLanding(storage))
    for _ in range(3):
        generator.write_batch()
    assert Pipeline(PIPELINE, storage=storage, engine=engine).run().exit_code == 0
    return storage


@pytest.fixture(scope="module")
def client(storage: Path, engine: SailEngine) -> Iterator[TestClient]:
    site = Site(Pipeline(PIPELINE, storage=storage, engine=engine))
    site.watcher.read()
    yield TestClient(create_app(site, pages=PAGES, first=FIRST), base_url="http://127.0.0.1")
    site.close()


@pytest.fixture(scope="module")
def truth(storage: Path) -> duckdb.DuckDBPyConnection:
    """The pipeline's tables, read without lakelet."""
    connection = duckdb.connect()
    for folder in (storage / "tables" / "apparel_store").glob("*/*"):
        connection.register(folder.name, DeltaTable(str(folder)).to_pyarrow_table())
    return connection


def test_the_first_page_is_the_dashboard(client: TestClient) -> None:
    assert client.get("/", follow_redirects=False).headers["location"] == "/retail"
    page = client.get("/retail")
    assert page.status_code == 200
    assert 'aria-current="page"' in page.text and "Just sold" in page.text


def test_its_figures_are_those_of_the_tables(client: TestClient, truth: duckdb.DuckDBPyConnection) -> None:
    data = client.get("/retail.json").json()
    revenue, sales, items, customers = truth.sql(
        "SELECT round(sum(total_amount), 2), count(*), sum(quantity), count(DISTINCT customer_id) FROM denormalized_sales_facts"
    ).fetchall()[0]
    returns, amount = truth.sql(
        "SELECT count(*), round(sum(returned_amount), 2) FROM silver_returns_transactions"
    ).fetchall()[0]
    totals = data["totals"]
    assert (totals["sales"], totals["items"], totals["customers"], totals["returns"]) == (
        sales,
        items,
        customers,
        returns,
    )
    assert totals["revenue"] == pytest.approx(revenue, abs=0.05)
    assert totals["returned_amount"] == pytest.approx(amount, abs=0.05)
    by_store = dict(
        truth.sql("SELECT store_id, round(sum(total_amount), 2) FROM denormalized_sales_facts GROUP BY 1").fetchall()
    )
    assert {s["store_id"]: s["revenue"] for s in data["stores"] if s["sales"]} == pytest.approx(by_store, abs=0.02)
    assert [s["revenue"] for s in data["stores"]] == sorted((s["revenue"] for s in data["stores"]), reverse=True)


def test_the_best_come_first(client: TestClient, truth: duckdb.DuckDBPyConnection) -> None:
    data = client.get("/retail.json").json()
    best = truth.sql(
        "SELECT product_id FROM gold_product_performance ORDER BY total_revenue DESC, product_id LIMIT 10"
    ).fetchall()
    assert [row["product_id"] for row in data["products"]] == [row[0] for row in best]
    spent = truth.sql(
        "SELECT customer_id FROM gold_customer_lifetime_value ORDER BY total_spend DESC, customer_id LIMIT 10"
    ).fetchall()
    assert [row["customer_id"] for row in data["customers"]] == [row[0] for row in spent]
    last = truth.sql("SELECT transaction_id FROM denormalized_sales_facts ORDER BY 1 DESC LIMIT 12").fetchall()
    assert [row["transaction_id"] for row in data["ticker"]] == [row[0] for row in last]


def test_minutes_add_up(client: TestClient, truth: duckdb.DuckDBPyConnection) -> None:
    minutes = client.get("/retail.json").json()["minutes"]
    expected = truth.sql(
        "SELECT date_trunc('minute', event_time) AS minute, count(*) FROM denormalized_sales_facts GROUP BY 1 ORDER BY 1"
    ).fetchall()
    assert [row["sales"] for row in minutes] == [count for _, count in expected]


@pytest.mark.parametrize("kind", list(history.DIMENSIONS))
def test_the_history_of_each_dimension(client: TestClient, truth: duckdb.DuckDBPyConnection, kind: str) -> None:
    dimension = history.DIMENSIONS[kind]
    table = dimension.table.rpartition(".")[2]
    key, versions = truth.sql(
        f"SELECT {dimension.key}, count(*) FROM {table} GROUP BY 1 ORDER BY 2 DESC, 1 LIMIT 1"
    ).fetchall()[0]
    listed = next(item for item in client.get("/retail/history.json").json()["kinds"] if item["kind"] == kind)
    assert (listed["rows"][0]["id"], listed["rows"][0]["versions"]) == (key, versions)
    data = client.get(f"/retail/history/{kind}/{key}.json").json()
    assert len(data["versions"]) == versions
    assert [version["is_current"] for version in data["versions"]] == [True] + [False] * (versions - 1)
    for newer, older in zip(data["versions"], data["versions"][1:], strict=False):
        assert older["end"] == newer["start"]
        changed = {c for c in dimension.tracked if newer["values"][c] != older["values"][c]}
        assert {change["column"] for change in newer["changes"]} == changed != set()
    assert client.get(f"/retail/history/{kind}/{key}").status_code == 200


@pytest.mark.parametrize(
    "path", ["stores/1 OR 1=1", "stores/1;--", "nothing/1", "stores/-1", "stores/999999999", "stores/٣"]
)
def test_a_history_that_is_not_there(client: TestClient, path: str) -> None:
    assert client.get(f"/retail/history/{path}").status_code == 404
    assert client.get(f"/retail/history/{path}.json").status_code == 404


def test_it_reads_only_gold_and_silver_tables() -> None:
    queries = [value for name, value in vars(retail).items() if name.isupper() and isinstance(value, str)]
    tables = {name for query in queries for name in re.findall(r"FROM (\S+)", query)}
    tables |= {dimension.table for dimension in history.DIMENSIONS.values()}
    assert len(tables) >= 6
    assert all(name.startswith(("02_silver.", "03_gold.")) for name in tables)


def test_it_uses_only_public_names_of_lakelet() -> None:
    folder = Path(retail.__file__).parent
    imports = {
        line
        for file in folder.glob("*.py")
        for line in re.findall(r"^from lakelet\S* import", file.read_text("utf-8"), re.M)
    }
    assert imports == {"from lakelet.web import"}


def test_it_opens_before_the_first_update(tmp_path: Path, engine: SailEngine) -> None:
    site = Site(Pipeline(PIPELINE, storage=tmp_path / "empty", engine=engine))
    client = TestClient(create_app(site, pages=PAGES, first=FIRST), base_url="http://127.0.0.1")
    try:
        for path in ("/retail", "/retail/history", "/retail.json", "/pipeline"):
            assert client.get(path).status_code == 200
        assert "nothing to show yet" in client.get("/retail").text
        data: dict[str, Any] = client.get("/retail.json").json()
        assert (data["totals"]["sales"], data["ticker"]) == (0, [])
    finally:
        site.close()
