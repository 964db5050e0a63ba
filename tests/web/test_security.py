"""Attacks on the pages; each one must fail."""

from __future__ import annotations

import asyncio
import json
import re
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient
from tests.web.web_kit import ORIGIN, Shop, check_inert, post, wait_for

from lakelet.addresses import is_loopback
from lakelet.web.security import Access

CHANGES = ("/actions/start", "/actions/stop", "/actions/dry-run", "/actions/start.json", "/actions/stop.json")


# -- who may talk


@pytest.mark.parametrize(
    "host", ["evil.example", "127.0.0.1.evil.example", "localhost.evil.example:4040", "10.1.2.3", ""]
)
def test_a_foreign_name_that_resolves_here_is_refused(client: TestClient, host: str) -> None:
    assert client.get("/pipeline.json", headers={"host": host}).status_code == 421
    assert client.get("/live", headers={"host": host}).status_code == 421
    assert client.get("/static/app.css", headers={"host": host}).status_code == 421


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1:9", "[::1]:4040", "LOCALHOST:80"])
def test_the_names_of_this_machine_are_its_own(client: TestClient, host: str) -> None:
    assert client.get("/updates.json", headers={"host": host}).status_code == 200


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize(
    "origin",
    [None, "null", "https://evil.example", "http://127.0.0.1:9999", "https://127.0.0.1:4040", "http://127.0.0.1"],
)
def test_a_form_on_another_site_changes_nothing(client: TestClient, path: str, origin: str | None) -> None:
    headers = {} if origin is None else {"origin": origin}
    assert client.post(path, data={"full_refresh_all": "1", "confirmed": "yes"}, headers=headers).status_code == 403
    assert client.get("/updates.json").json()["count"] == 1


@pytest.mark.parametrize("path", CHANGES)
@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"])
def test_nothing_changes_but_by_post(client: TestClient, path: str, method: str) -> None:
    answer = client.request(method, path, headers={"origin": ORIGIN})
    assert answer.status_code in (404, 405)
    assert client.get("/updates.json").json()["count"] == 1


def test_another_site_can_neither_load_nor_frame(client: TestClient) -> None:
    cross = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "no-cors"}
    assert client.get("/sql", params={"query": "SELECT 1"}, headers=cross).status_code == 403
    headers = client.get("/pipeline").headers
    assert "frame-ancestors 'none'" in headers["content-security-policy"]
    assert headers["x-frame-options"] == "DENY"
    assert headers["cross-origin-resource-policy"] == "same-origin"
    assert "access-control-allow-origin" not in headers


def test_a_link_on_another_site_shows_its_query_and_does_not_run_it(client: TestClient) -> None:
    link = {"sec-fetch-site": "cross-site", "sec-fetch-mode": "navigate"}
    query = {"query": "SELECT customer FROM gold.totals"}
    data = client.get("/sql.json", params=query, headers=link).json()
    assert (data["ran"], data["rows"], data["query"]) == (False, [], query["query"])
    assert "run it yourself" in client.get("/sql", params=query, headers=link).text
    assert client.get("/sql/download", params=query, headers=link).status_code == 403
    assert client.get("/sql.json", params=query, headers={"sec-fetch-site": "same-origin"}).json()["ran"]


def test_outside_of_the_loopback_interface_a_token_is_required(shop: Shop) -> None:
    client = shop.client(access=Access(token="secret-of-the-page", any_address=True))
    for path in (
        "/pipeline",
        "/pipeline.json",
        "/live",
        "/static/app.js",
        "/sql/download?query=x",
        "/?token=",
        "/?token=x",
    ):
        assert client.get(path, follow_redirects=False).status_code == 401, path
    assert post(client, "/actions/start").status_code == 401
    assert client.get("/updates", headers={"cookie": "lakelet_token=wrong"}).status_code == 401
    assert client.get("/updates.json", headers={"authorization": "Bearer secret-of-the-page"}).status_code == 200
    entered = client.get("/updates?token=secret-of-the-page&page=2", follow_redirects=False)
    assert (entered.status_code, entered.headers["location"]) == (303, "/updates?page=2")
    cookie = entered.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie
    assert client.get("/updates.json").status_code == 200


def test_the_way_in_leads_to_no_other_site(shop: Shop) -> None:
    client = shop.client(access=Access(token="secret-of-the-page"))
    for path in ("//evil.example/", "/\\evil.example", "///evil.example"):
        answer = client.get(f"{ORIGIN}{path}?token=secret-of-the-page", follow_redirects=False)
        assert not re.match(r"(https?:)?[/\\]{2}", answer.headers["location"]), path


def test_an_address_other_than_loopback_is_known_as_such() -> None:
    assert [is_loopback(host) for host in ("127.0.0.1", "::1", "localhost", "127.8.9.1")] == [True] * 4
    assert [is_loopback(host) for host in ("0.0.0.0", "::", "192.168.1.5", "example.org")] == [False] * 4


# -- what a page may contain


INERT = ("/pipeline", "/updates", "/quality", "/events", "/sql", "/sql?query=SELECT 1", "/sql?query=x",
         "/datasets/bronze.orders", "/nope")  # fmt: skip


@pytest.mark.parametrize("path", INERT)
def test_pages_have_no_inline_script_or_style_and_load_nothing_from_elsewhere(client: TestClient, path: str) -> None:
    check_inert(client.get(path))


def test_the_pages_of_an_update_and_of_an_event_are_inert_too(client: TestClient) -> None:
    check_inert(client.get(f"/updates/{client.get('/updates.json').json()['updates'][0]['update_id']}"))
    for event in client.get("/events.json").json()["events"][:20]:
        check_inert(client.get(f"/events/{event['sequence']}"))


@pytest.mark.parametrize(
    ("path", "fields", "status"),
    [
        ("/actions/start", {"full_refresh_all": "1"}, 200),
        ("/actions/start", {"full_refresh": "bronze.orders"}, 200),
        ("/actions/start", {"refresh": "nothing"}, 409),
        ("/actions/dry-run", {}, 200),
    ],
    ids=["confirm all", "confirm one", "refused", "dry run"],
)
def test_answers_to_changes_are_inert_too(client: TestClient, path: str, fields: dict[str, str], status: int) -> None:
    answer = post(client, path, **fields)
    assert answer.status_code == status
    check_inert(answer)


EVIL = "</script><img src=x onerror=alert(1)>"
HOSTILE = """
from pyspark import pipelines as dp

@dp.materialized_view(name="evil", comment="</script><img src=x onerror=alert(1)>")
@dp.expect("</script><img src=x onerror=alert(1)>", "text <> '</script><img src=x onerror=alert(1)>'")
def evil():
    return spark.sql("SELECT '</script><img src=x onerror=alert(1)>' AS text")

@dp.materialized_view(name="worse")
def worse():
    return spark.sql("SELECT raise_error('</script><img src=x onerror=alert(1)>') AS text")
"""


def test_names_data_and_errors_are_escaped(shop: Shop) -> None:
    shop.write(HOSTILE)
    result = shop.run()
    client = shop.client()
    paths = ["/pipeline", "/updates", "/quality", "/events", "/datasets/evil", "/datasets/worse",
             f"/updates/{result.update_id}", f"/events?q={EVIL}", f"/events?dataset={EVIL}", f"/datasets/{EVIL}",
             f"/sql?query=SELECT '{EVIL}' AS `{EVIL}` FROM evil", f"/sql?query={EVIL}", f"/updates/{EVIL}"]  # fmt: skip
    failed = client.get("/events.json", params={"level": "ERROR"}).json()["events"]
    assert failed
    paths += [f"/events/{event['sequence']}" for event in failed]
    seen = 0
    for path in paths:
        text = client.get(path).text
        assert "<img" not in text, path
        seen += "onerror" in text
    assert seen >= 8
    for name in ("evil", "worse"):
        asked = post(client, "/actions/start", full_refresh=name)
        assert asked.status_code == 200 and "<img" not in asked.text
    refused = post(client, "/actions/start", refresh=EVIL)
    assert refused.status_code == 409 and "onerror" in refused.text and "<img" not in refused.text
    shop.write(HOSTILE.replace('"evil"', f'"{EVIL}"'))
    checked = post(client, "/actions/dry-run")
    assert "<img" not in checked.text
    assert client.get(f"/events?q={EVIL}.json").status_code == 200


def test_a_live_message_cannot_end_its_frame(shop: Shop) -> None:
    shop.write(HOSTILE.replace("alert(1)", "a\\nevent: progress\\ndata: x\\n\\n"))
    shop.run()
    from lakelet.web.live import LiveStream

    site = shop.site()
    site.watcher.read()
    message = json.dumps(LiveStream(site)._message(1))
    assert "\n" not in message and "onerror" in message


# -- what must not be seen


SECRET = "correct-horse"


LEAKS = """
from pyspark import pipelines as dp

word = spark.conf.get("storage.password")

@dp.materialized_view(comment=f"made with {word}")
@dp.expect(f"is {word}", f"x <> '{word}'")
def told():
    return spark.sql("SELECT 'a' AS x")

@dp.materialized_view
@dp.expect_or_fail(f"has {word}", "x <> 'a'")
def broken():
    return spark.sql("SELECT 'a' AS x")

@dp.materialized_view
def leak():
    return spark.sql(f"SELECT raise_error('cannot log in with {word}') AS x")
"""
HALVES = "concat('correct', '-horse')"
"""The secret in the text of a query that does not have it."""


def test_no_secret_is_in_a_page_an_event_or_a_log(shop: Shop, caplog: pytest.LogCaptureFixture, capfd: Any) -> None:
    shop.write(LEAKS)
    site = shop.site()
    client = shop.client(site=site)
    spec = shop.root / "spark-pipeline.yml"
    spec.write_text(spec.read_text().replace("region:", "lakelet.openlineage.file: lineage.jsonl\n  region:"))
    result = shop.run()
    assert result.exit_code == 1
    site.watcher.read()
    for path in ("/pipeline", "/updates", "/quality", "/events", "/datasets/leak", "/datasets/told",
                 f"/updates/{result.update_id}"):  # fmt: skip
        for url in (path, f"{path}.json"):
            answer = client.get(url)
            assert answer.status_code == 200 and SECRET not in answer.text, url
    assert "is ***" in client.get("/quality").text
    events = client.get("/events.json").json()["events"]
    created = next(event for event in events if event["type"] == "create_update")
    details = client.get(f"/events/{created['sequence']}.json").json()["event"]["details"]["create_update"]
    assert details["config"]["configuration"]["configuration"] == {"storage.password": "***", "region": "north"}
    for event in events:
        assert SECRET not in client.get(f"/events/{event['sequence']}.json").text
    numbers = client.get("/metrics").text
    assert SECRET not in numbers and 'rule="is ***"' in numbers
    lineage = (shop.root / "lineage.jsonl").read_text("utf-8")
    assert SECRET not in lineage and "has ***" in lineage and "is ***" in lineage
    written = [path for path in (shop.root / "data" / "system").rglob("*") if path.is_file()]
    assert any(path.suffix == ".jsonl" for path in written)
    assert not [path for path in written if SECRET.encode() in path.read_bytes()]
    assert SECRET not in json.dumps(shop.pipeline().events().to_pylist(), default=str)
    assert SECRET not in caplog.text
    printed = capfd.readouterr()
    assert SECRET not in printed.out + printed.err


def test_no_secret_is_in_what_an_open_page_is_told(shop: Shop) -> None:
    from lakelet.web.live import LiveStream

    shop.write(LEAKS)
    shop.run()
    site = shop.site()
    site.watcher.read()
    stream = LiveStream(site)

    async def first_message() -> str:
        messages = stream._messages(0)
        site.watcher.is_ready.set()
        assert await anext(messages) == "retry: 1000\n\n"
        message = await anext(messages)
        await messages.aclose()
        return message

    message = asyncio.run(first_message())
    told = json.loads(message.partition("data: ")[2])
    assert SECRET not in message
    assert "has ***" in json.dumps(told["events"])


@pytest.mark.parametrize("path", ["/sql", "/sql.json", "/sql/download"])
def test_no_secret_is_in_the_error_of_a_query(client: TestClient, path: str) -> None:
    answer = client.get(path, params={"query": f"SELECT raise_error({HALVES}) AS x"})
    assert "***" in answer.text and SECRET not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/static/../app.py",
        "/static/%2e%2e/app.py",
        "/static/..%2fsite.py",
        "/static//etc/passwd",
        "/static/vendor/../../../errors.py",
        "/datasets/..%2f..%2fetc%2fpasswd",
        "/datasets/%2e%2e",
        "/updates/..%2f..%2f_lock",
    ],
)
def test_no_path_leads_out_of_the_project(client: TestClient, path: str) -> None:
    answer = client.get(f"{ORIGIN}{path}")
    assert answer.status_code == 404
    assert "root:" not in answer.text and "import" not in answer.text


def test_source_code_is_shown_of_the_project_only(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> None:
    from lakelet.web.source import source_of

    outside = tmp_path_factory.mktemp("outside") / "private.py"
    outside.write_text("password = 1")
    (shop.root / "link.py").symlink_to(outside)
    assert source_of(shop.root, "link.py", 1) is None
    assert source_of(shop.root, str(outside), 1) is None
    assert source_of(shop.root, f"../{outside.parent.name}/private.py", 1) is None
    assert source_of(shop.root, "transformations/tables.py", 1) is not None


# -- what a query may not do

REFUSED = [
    "INSERT INTO silver.paid SELECT * FROM bronze.orders",
    "DELETE FROM silver.paid",
    "UPDATE silver.paid SET amount = 0",
    "MERGE INTO silver.paid USING bronze.orders ON false WHEN NOT MATCHED THEN INSERT *",
    "DROP TABLE silver.paid",
    "CREATE TABLE x AS SELECT * FROM silver.paid",
    "CREATE OR REPLACE TEMP VIEW v AS SELECT 1",
    "TRUNCATE TABLE silver.paid",
    "ALTER TABLE silver.paid ADD COLUMN x INT",
    "COPY INTO silver.paid FROM '/tmp'",
    "SET spark.sql.ansi.enabled = false",
    "DESCRIBE HISTORY silver.paid",
    "SHOW TABLES",
    "USE CATALOG x",
    "CALL system.procedure()",
    "EXPLAIN SELECT 1",
    "CACHE TABLE silver.paid",
    "SELECT 1; DROP TABLE silver.paid",
    "SELECT 1; SELECT 2",
    "WITH x AS (SELECT 1) INSERT INTO silver.paid SELECT * FROM x",
    "FROM bronze.orders INSERT INTO silver.paid SELECT *",
    "INSERT OVERWRITE DIRECTORY '/tmp/out' SELECT 1",
    "SELECT * FROM parquet.`{file}`",
    "SELECT * FROM delta.`{folder}`",
    "SELECT * FROM text.`/etc/passwd`",
    "SELECT * FROM csv.`/etc/passwd`",
    "SELECT * FROM `text`.`/etc/passwd`",
    "SELECT * FROM binaryFile.`/etc/passwd`",
    "SELECT * FROM '/etc/passwd'",
    "SELECT * FROM `/etc/passwd`",
    'SELECT * FROM "/etc/passwd"',
    "SELECT * FROM read_files('/etc/passwd', format => 'text')",
    "SELECT * FROM read_csv('/etc/passwd')",
    "SELECT * FROM cloud_files('/etc', 'text')",
    "SELECT * FROM STREAM read_files('/etc/passwd')",
    "SELECT * FROM (SELECT * FROM text.`/etc/passwd`)",
    "SELECT (SELECT max(value) FROM text.`/etc/passwd`)",
    "SELECT 1 WHERE EXISTS (SELECT 1 FROM csv.`/etc/passwd`)",
    "WITH secret AS (SELECT * FROM text.`/etc/passwd`) SELECT * FROM secret",
    "SELECT * FROM bronze.orders UNION ALL SELECT * FROM text.`/etc/passwd`",
    "SELECT * FROM bronze.orders JOIN LATERAL (SELECT * FROM text.`/etc/passwd`)",
    "SELECT /*+ x */ * FROM/**/text./**/`/etc/passwd`",
    "SELECT * FROM IDENTIFIER('text.`/etc/passwd`')",
    "TABLE text.`/etc/passwd`",
    "SELECT * FROM information_schema.tables",
    "SELECT * FROM other_catalog.bronze.orders",
    "SELECT * FROM good_orders",
    "SELECT reflect('java.lang.System', 'exit', 1)",
    "SELECT java_method('java.lang.Runtime', 'getRuntime')",
    "SELECT secret('scope', 'key')",
    "SELECT * FROM",
    "/* only a comment */",
    "SELECT " + "(" * 3000 + "1" + ")" * 3000,
    "SELECT '" + "x" * 30_000 + "'",
]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory, engine: Any) -> Any:
    """One shop for all queries: they must not change it anyway."""
    shop = Shop(tmp_path_factory.mktemp("shop"), engine)
    shop.land((1, "ann", 10), (2, "bob", 250))
    shop.run()
    yield shop
    shop.close()


@pytest.fixture(scope="module")
def queries(shared: Shop) -> TestClient:
    return shared.client()


def files_of(shop: Shop) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in (shop.root / "data").rglob("*") if path.is_file()}


@pytest.mark.parametrize("sql", REFUSED, ids=lambda sql: sql[:50])
def test_a_query_cannot_write_read_files_or_leave_the_pipeline(shared: Shop, queries: TestClient, sql: str) -> None:
    before = files_of(shared)
    table = shared.root / "data" / "tables" / "spark_catalog" / "bronze" / "orders"
    data_file = next(Path(name) for name in before if name.startswith(str(table)) and name.endswith(".parquet"))
    query = sql.replace("{file}", str(data_file)).replace("{folder}", str(table))
    data = queries.get("/sql.json", params={"query": query}).json()
    assert data["rows"] == []
    assert [error["condition"] in ("SQL_NOT_ALLOWED", "PARSE_SYNTAX_ERROR") for error in data["errors"]] == [True], (
        data["errors"]
    )
    assert files_of(shared) == before
    assert queries.get("/sql/download", params={"query": query}).status_code == 400


ALLOWED = {
    "SELECT count(*) AS n FROM bronze.orders": [[2]],
    "WITH o AS (SELECT * FROM bronze.orders) SELECT count(*) FROM o": [[2]],
    "SELECT o.customer FROM spark_catalog.bronze.orders o JOIN gold.totals t ON o.customer = t.customer ORDER BY 1": [
        ["ann"],
        ["bob"],
    ],
    "SELECT (SELECT max(total) FROM gold.totals) AS m": [[250]],
    "SELECT 'drop table x; -- insert' AS text": [["drop table x; -- insert"]],
    "SELECT col FROM (SELECT explode(array(1, 2)) AS col)": [[1], [2]],
    "SELECT count(*) FROM range(5)": [[5]],
    "SELECT 1 AS n UNION ALL SELECT 2 ORDER BY n": [[1], [2]],
    "SELECT count(*) FROM BRONZE.Orders VERSION AS OF 0": [[0]],
    "SELECT 1;": [[1]],
}


@pytest.mark.parametrize("sql", ALLOWED)
def test_ordinary_queries_run(queries: TestClient, sql: str) -> None:
    data = queries.get("/sql.json", params={"query": sql}).json()
    assert data["errors"] == []
    assert data["rows"] == ALLOWED[sql]


def test_a_query_does_not_run_for_ever(shared: Shop) -> None:
    from lakelet.errors import LakeletError
    from lakelet.web.sql import SqlService

    service = SqlService(shared.pipeline(), timeout_seconds=1.5)
    try:
        assert service.run("SELECT 1 AS one", tables={}).rows.to_pylist() == [{"one": 1}]
        [process] = service._processes._idle
        endless = "SELECT count(*) FROM range(1000000000000) a JOIN range(1000000) b ON a.id % 7 = b.id % 5"
        with pytest.raises(LakeletError) as raised:
            service.run(endless, tables={})
        assert raised.value.condition == "SQL_TIMEOUT"
        assert not process.is_alive
        assert service.run("SELECT 2 AS two", tables={}).rows.to_pylist() == [{"two": 2}]
    finally:
        service.close()


def test_a_query_takes_only_so_much_memory(shared: Shop) -> None:
    from lakelet.errors import LakeletError
    from lakelet.web.sql import SqlService

    service = SqlService(shared.pipeline())
    try:
        with pytest.raises(LakeletError):
            service.run("SELECT collect_list(repeat(cast(id AS string), 1000000)) FROM range(100000)", tables={})
        assert service.run("SELECT 2 AS two", tables={}).rows.to_pylist() == [{"two": 2}]
    finally:
        service.close()


def test_a_result_is_cut_at_its_limits(queries: TestClient, monkeypatch: pytest.MonkeyPatch) -> None:
    data = queries.get("/sql.json", params={"query": "SELECT id FROM range(1000000000)", "limit": "99999"}).json()
    assert (len(data["rows"]), data["has_more"]) == (500, True)
    wide = queries.get("/sql.json", params={"query": "SELECT repeat('x', 100000) AS t FROM range(100)"}).json()
    assert max(len(row[0]) for row in wide["rows"]) <= 301


def test_a_downloaded_text_is_no_formula(queries: TestClient) -> None:
    query = "SELECT '=cmd()' AS a, '@sum' AS b, -1 AS c, 'x,\"y' AS d"
    answer = queries.get("/sql/download", params={"query": query})
    assert answer.text == 'a,b,c,d\n\'=cmd(),\'@sum,-1,"x,""y"\n'


# -- what a page may not be made to do


def test_too_many_live_streams_are_refused(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    from lakelet.web import live

    monkeypatch.setattr(live, "MOST_STREAMS", 0)
    assert shop.client().get("/live").status_code == 503


def test_a_form_of_any_size_costs_little(client: TestClient) -> None:
    body = "refresh=" + "x" * 5_000_000
    answer = client.post("/actions/start.json", content=body, headers={"origin": ORIGIN})
    assert answer.status_code == 413
    many = "&".join(["refresh=a"] * 10_000)
    assert client.post("/actions/start.json", content=many, headers={"origin": ORIGIN}).status_code == 413
    assert client.get("/updates.json").json()["count"] == 1


@pytest.mark.parametrize("number", ["-1", "0", "99999999999999999999", "x", "1e9", "٣"])
def test_numbers_from_outside_stay_within_bounds(client: TestClient, number: str) -> None:
    assert client.get("/updates", params={"page": number}).status_code == 200
    assert client.get("/events", params={"before": number}).status_code == 200
    assert client.get("/sql", params={"limit": number}).status_code == 200
    assert client.get(f"/events/{number}").status_code == 404


def test_stop_ends_nothing_that_another_process_runs(shop: Shop) -> None:
    lock = shop.root / "data" / "_lock"
    lock.parent.mkdir(exist_ok=True)
    lock.write_text(
        json.dumps({"pid": 1, "host": "elsewhere", "pipeline": "shop", "started_at": "2026-01-01T00:00:00+00:00"})
    )
    client = shop.client()
    assert post(client, "/actions/stop.json").json() == {"stopping": False}
    assert lock.exists()
    wait_for(lambda: client.get("/pipeline.json").json()["update"]["runner"]["owner"])
