"""The retailer's dashboard: its figures agree with DuckDB over the same tables, and it reads gold and silver only."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from deltalake import DeltaTable, write_deltalake
from starlette.testclient import TestClient
from tests.web.web_kit import check_inert

from apparel.dashboard import FIRST, PAGES, history, retail
from apparel.demo import PIPELINE
from apparel.generator.clock import SteppingClock
from apparel.generator.landing import DeltaLanding, landing_folder
from apparel.generator.model import DIMENSIONS
from apparel.generator.settings import GeneratorSettings
from apparel.generator.streams import Generator
from lakelet.engine.sail import SailEngine
from lakelet.pipeline import Pipeline
from lakelet.web.app import create_app
from lakelet.web.site import Site


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, engine: SailEngine) -> Path:
    """The retailer after three batches, a day apart."""
    storage = tmp_path_factory.mktemp("apparel")
    days = SteppingClock(datetime(2026, 3, 1, 12, tzinfo=UTC), step_seconds=86_400)
    generator = Generator(GeneratorSettings(seed=11), DeltaLanding(storage), clock=days)
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


def test_what_was_sold_last_comes_first(client: TestClient, truth: duckdb.DuckDBPyConnection) -> None:
    ticker = client.get("/retail.json").json()["ticker"]
    last = truth.sql(
        "SELECT transaction_id FROM denormalized_sales_facts ORDER BY event_time DESC, transaction_id DESC LIMIT 12"
    ).fetchall()
    assert [row["transaction_id"] for row in ticker] == [row[0] for row in last]
    times = [row["event_time"] for row in ticker]
    assert times == sorted(times, reverse=True)


def test_revenue_by_store_and_day(client: TestClient, truth: duckdb.DuckDBPyConnection) -> None:
    data = client.get("/retail.json").json()
    sold = truth.sql(
        "SELECT store_id, floor(epoch(event_time) / 86400)::INT, sum(total_amount), count(*) FROM denormalized_sales_facts"
        " GROUP BY 1, 2"
    ).fetchall()
    expected = {(store, str(date(1970, 1, 1) + timedelta(day))): (sum_, n) for store, day, sum_, n in sold}
    assert len({day for _, day in expected}) == 3 and len({store for store, _ in expected}) > 2
    found = {(row["store_id"], row["day"]): row for row in data["store_days"]}
    assert len(found) == len(data["store_days"])
    assert {key: row["revenue"] for key, row in found.items()} == pytest.approx(
        {key: value[0] for key, value in expected.items()}, abs=0.02
    )
    assert {key: row["sales"] for key, row in found.items()} == {key: value[1] for key, value in expected.items()}
    chart, best = data["charts"]["days"], data["stores"][0]["store_id"]
    assert chart["series"][0]["values"] == [found.get((best, day), {}).get("revenue") for day in chart["x"]]


def test_the_table_of_days_has_the_newest_first_and_the_best_hottest(client: TestClient) -> None:
    data = client.get("/retail.json").json()
    table = data["day_table"]
    assert table["days"] == ["2026-03-03", "2026-03-02", "2026-03-01"]
    revenue = {(row["store_id"], row["day"]): row["revenue"] for row in data["store_days"]}
    for store in table["stores"]:
        assert [cell["revenue"] for cell in store["cells"]] == [
            revenue.get((store["store_id"], day)) for day in table["days"]
        ]
    cells = [cell for store in table["stores"] for cell in store["cells"]]
    assert max(cells, key=lambda cell: cell["revenue"] or 0)["heat"] == 4
    assert {cell["heat"] for cell in cells} <= {0, 1, 2, 3, 4}
    page = client.get("/retail").text
    assert '<time datetime="2026-03-03"><span class="year">2026</span> 03-03</time>' in page
    assert f"{cells[0]['revenue']:,.2f}</td>" in page


def test_a_store_that_was_renamed_on_a_day_has_one_row() -> None:
    row = {"store_id": 1, "sale_date": "2026-03-01", "total_revenue": 1.5, "total_transactions": 2}
    assert retail._store_days([{**row, "store_name": "a"}, {**row, "store_name": "b"}]) == [
        {"store_id": 1, "day": "2026-03-01", "revenue": 3.0, "sales": 4}
    ]


def test_the_dropped_rows_of_the_flagship_are_one_click_away(
    client: TestClient, truth: duckdb.DuckDBPyConnection
) -> None:
    rules = client.get("/datasets/02_silver.silver_sales_transactions.json").json()["rules"]
    rule = next(rule for rule in rules if rule["name"] == "valid_discount")
    assert (rule["action"], rule["query_note"]) == ("DROP", "rows of 01_bronze.bronze_sales, its input")
    data = client.get("/sql.json", params={"query": rule["query"]}).json()
    assert data["errors"] == []
    [count] = truth.sql(
        "SELECT count(*) FROM bronze_sales WHERE quantity > 0 AND NOT discount_applied >= 0"
    ).fetchall()[0]
    assert len(data["rows"]) == min(count, 20) > 0
    assert rule["all_failed"] == count
    assert "failing rows</a>" in client.get("/datasets/02_silver.silver_sales_transactions").text


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


@pytest.mark.parametrize("path", ["/retail", "/retail/history", "/retail/history/stores/1"])
def test_its_pages_have_no_inline_script_or_style(client: TestClient, path: str) -> None:
    check_inert(client.get(path))


EVIL = "zz</script><img src=x onerror=alert(1)>"


def test_names_of_customers_products_and_stores_are_escaped(tmp_path: Path, engine: SailEngine) -> None:
    Generator(GeneratorSettings(seed=5), DeltaLanding(tmp_path)).write_batch()
    for stream in DIMENSIONS:
        folder = str(landing_folder(tmp_path) / stream)
        rows = DeltaTable(folder).to_pyarrow_table()
        later = pc.add(rows.column("last_update_time"), pa.scalar(timedelta(hours=1)))
        evil = pa.array([EVIL] * rows.num_rows)
        rows = rows.set_column(rows.column_names.index("name"), "name", evil)
        rows = rows.set_column(rows.column_names.index("last_update_time"), "last_update_time", later)
        write_deltalake(folder, rows, mode="append")
    site = Site(Pipeline(PIPELINE, storage=tmp_path, engine=engine))
    client = TestClient(create_app(site, pages=PAGES, first=FIRST), base_url="http://127.0.0.1")
    try:
        assert Pipeline(PIPELINE, storage=tmp_path, engine=engine).run().exit_code == 0
        site.watcher.read()
        data = client.get("/retail.json").json()
        assert {row["customer_name"] for row in data["customers"]} == {EVIL}
        ids = {kind["kind"]: kind["rows"][0]["id"] for kind in client.get("/retail/history.json").json()["kinds"]}
        histories = [f"/retail/history/{kind}/{number}" for kind, number in ids.items()]
        for path in ("/retail", "/retail/history", *histories, "/datasets/02_silver.silver_customers"):
            page = client.get(path)
            assert page.status_code == 200
            assert "<img" not in page.text and "onerror" in page.text, path
    finally:
        site.close()


def test_the_share_of_returns_is_of_sales_as_fresh_as_they_are() -> None:
    """While a continuous update runs, gold tables are older than silver ones."""
    daily = [{"store_id": 1, "store_name": "Oslo", "sale_date": "2026-03-01", "total_revenue": 9.0,
              "total_transactions": 1, "total_items_sold": 1}]  # fmt: skip
    returns = [{"store_id": 1, "returns": 5, "items": 5, "amount": 3.0}]
    stores = retail._with_all(retail._stores(daily, returns), [{"store_id": 1, "sales": 95}])
    assert [(store["sales"], store["returns"], store["all"]) for store in stores] == [(1, 5, 100)]
    assert retail._totals(daily, stores, [])["all"] == 100
