"""The flagship's pages in a real browser, from the first update to the restart of the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import Flagship, wait_for

PATHS = (
    "/pipeline", "/pipeline#list", "/updates", "/quality", "/events", "/sql?query=SELECT+*+FROM+event_log+LIMIT+5",
    "/datasets/02_silver.silver_sales_transactions", "/datasets/sales_cleaned_stream", "/retail", "/retail/history",
    "/retail/history/stores/1", "/nowhere",
)  # fmt: skip


@pytest.fixture(scope="session", autouse=True)
def first_update(flagship: Flagship, browser: Any) -> None:
    """Start the first update with the button, and see the numbers come in without a reload."""
    page = browser.new_page(base_url=flagship.url)
    page.goto("/pipeline")
    expect(page.locator("#state")).to_contain_text("not run yet")
    page.evaluate("window.neverReloaded = true")
    expect(page.locator("#graph .node").first).to_be_visible()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url("**/pipeline")
    expect(page.locator("#state .chip")).to_have_attribute("data-status", "COMPLETED", timeout=120_000)
    expect(page.locator("#written")).not_to_have_text("0")
    page.close()


def test_counts_change_while_the_pipeline_runs(page: Any, flagship: Flagship) -> None:
    page.goto("/pipeline#list")
    cell = page.locator('tr[data-name="01_bronze.bronze_sales"] [data-field="input"]')
    expect(cell).to_have_text("1,000")
    page.get_by_role("button", name="Run continuously").click()
    page.wait_for_url("**/pipeline")
    expect(page.locator("#state .chip")).to_have_attribute("data-status", "RUNNING")
    page.evaluate("window.neverReloaded = true")
    flagship.apparel("generate", "--batches", "1", "--interval", "0")
    expect(page.locator('.node:has-text("bronze_sales")')).to_contain_text("500 in", timeout=120_000)
    page.get_by_role("tab", name="List").click()
    expect(cell).to_have_text("500")
    assert page.evaluate("window.neverReloaded")
    page.get_by_role("button", name="Stop").click()
    expect(page.locator("#state .chip")).to_have_attribute("data-status", "CANCELED", timeout=120_000)
    expect(page.get_by_role("button", name="Start", exact=True)).to_be_enabled()


def test_a_failed_rule_shows(page: Any) -> None:
    page.goto("/quality")
    worst = page.locator("tbody tr").first
    expect(worst).to_contain_text("discount")
    expect(worst.locator("rect.bad").first).to_be_visible()
    page.goto("/pipeline")
    expect(page.locator('.node:has-text("sales_cleaned_stream") .rules')).to_contain_text("⚠")
    page.locator('a:has(.node:has-text("sales_cleaned_stream"))').click()
    expect(page.get_by_role("heading", level=1)).to_have_text("sales_cleaned_stream")
    expect(page.locator("#rules")).to_contain_text("realistic_discount")


def test_a_full_refresh_asks_and_can_be_left(page: Any) -> None:
    page.goto("/updates")
    before = page.locator("tbody tr").count()
    page.goto("/pipeline")
    page.get_by_role("button", name="Full refresh…").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("Rebuild every dataset?")
    page.get_by_role("link", name="Leave everything as it is").click()
    page.wait_for_url("**/pipeline")
    page.goto("/updates")
    assert page.locator("tbody tr").count() == before


def test_a_full_refresh_of_selected_datasets(page: Any) -> None:
    page.goto("/pipeline#list")
    full = page.get_by_role("button", name="Full refresh of selected…")
    expect(full).to_be_disabled()
    page.get_by_label("Select 03_gold.gold_product_performance").check()
    full.click()
    expect(page.locator("main li")).to_have_text(["03_gold.gold_product_performance"])
    page.get_by_role("button", name="Rebuild").click()
    page.wait_for_url("**/pipeline")
    expect(page.locator("#state .chip")).to_have_attribute("data-status", "COMPLETED", timeout=120_000)


def test_sql_answers_and_refuses_a_write(page: Any) -> None:
    page.goto("/sql")
    page.get_by_label("Query").fill("DROP TABLE 03_gold.gold_product_performance")
    page.get_by_role("button", name="Run").click()
    expect(page.locator("#result")).to_contain_text("SQL_NOT_ALLOWED")
    page.get_by_label("Query").fill("SELECT count(*) AS n FROM 01_bronze.bronze_sales")
    page.get_by_label("Query").press("Control+Enter")
    expect(page.locator("#result td")).to_have_text(["1500"])
    assert "query=SELECT" in page.url
    with page.expect_download() as download:
        page.get_by_role("link", name="CSV").click()
    assert Path(download.value.path()).read_text() == "n\n1500\n"


def test_the_page_comes_back_after_a_restart_of_the_server(page: Any, flagship: Flagship) -> None:
    page.goto("/pipeline")
    page.evaluate("window.neverReloaded = true")
    expect(page.locator("#connection")).to_have_text("live")
    update = page.locator("#update-link").inner_text()
    flagship.kill()
    expect(page.locator("#connection")).to_have_text("reconnecting")
    flagship.apparel("generate", "--batches", "1", "--interval", "0")
    flagship.start()
    expect(page.locator("#connection")).to_have_text("live", timeout=60_000)
    page.evaluate("fetch('/actions/start', {method: 'POST'})")
    wait_for(lambda: page.locator("#update-link").inner_text() != update)
    expect(page.locator("#state .chip")).to_have_attribute("data-status", "COMPLETED", timeout=120_000)
    assert page.evaluate("window.neverReloaded")


def test_events_come_in_at_the_top_and_obey_the_filter(page: Any) -> None:
    page.goto("/events?type=update_progress")
    before = page.locator("tbody tr").count()
    page.evaluate("fetch('/actions/start', {method: 'POST'})")
    expect(page.locator("tbody tr").first).to_contain_text("is COMPLETED", timeout=120_000)
    wait_for(lambda: page.locator("tbody tr").count() > before)
    assert set(page.locator("tbody tr td:nth-child(3)").all_inner_texts()) == {"update_progress"}


def test_the_keyboard_reaches_everything(page: Any) -> None:
    page.goto("/pipeline")
    page.keyboard.press("g")
    page.keyboard.press("q")
    page.wait_for_url("**/quality")
    page.keyboard.press("?")
    expect(page.get_by_role("dialog")).to_be_visible()
    page.keyboard.press("Escape")
    page.goto("/events")
    page.keyboard.press("/")
    expect(page.get_by_label("Text")).to_be_focused()
    page.goto("/pipeline")
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to content")).to_be_focused()
    tab = page.get_by_role("tab", name="Graph")
    tab.focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("tab", name="List")).to_have_attribute("aria-selected", "true")


def test_a_theme_is_kept(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/pipeline")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="light or dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.goto("/updates")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark != light


def test_nothing_moves_for_who_wants_no_motion(page: Any) -> None:
    page.emulate_media(reduced_motion="reduce")
    page.goto("/pipeline")
    moving = "[...document.querySelectorAll('*')].filter((e) => getComputedStyle(e).animationName !== 'none').length"
    assert page.evaluate(moving) == 0


def test_nothing_is_loaded_from_elsewhere(page: Any, flagship: Flagship) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in PATHS[:-1]:
        page.goto(path)
        page.wait_for_load_state("load")
    assert asked and all(url.startswith((flagship.url, "data:")) for url in asked)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_no_violation(page: Any, problems: list[str], path: str, scheme: str) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.goto(path)
    expect(page.locator("#connection")).to_have_text("live")

    results = Axe().run(page)
    found = [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]
    problems[:] = [text for text in problems if path != "/nowhere" or "404" not in text]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1024, 768), (1920, 1080)], ids=["phone", "tablet", "desk"])
def test_pages_fit_screens_of_every_width(page: Any, size: tuple[int, int], scheme: str, tmp_path: Path) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    for path in PATHS[:-1]:
        page.goto(path)
        page.wait_for_load_state("load")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"
        page.screenshot(path=tmp_path / f"{path.strip('/').replace('/', '_')[:30]}-{scheme}-{size[0]}.png")
