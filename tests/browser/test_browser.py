"""The flagship's pages in a real browser, from the first update to the restart of the server."""

from __future__ import annotations

import json
import re
import time
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import expect
from tests.browser.conftest import Flagship, wait_for

PATHS = (
    "/pipeline", "/pipeline#list", "/updates", "/updates/{update}", "/quality", "/events", "/events/{event}",
    "/sql?query=SELECT+*+FROM+event_log+LIMIT+5", "/sql?query=SELEC+1", "/datasets/02_silver.silver_sales_transactions",
    "/datasets/02_silver.silver_customers", "/datasets/sales_cleaned_stream", "/retail", "/retail/history",
    "/retail/history/stores/{stores}", "/retail/history/customers/{customers}", "/retail/history/products/{products}",
    "/actions/start full_refresh_all=1", "/actions/start refresh=nothing", "/actions/dry-run ", "/nowhere",
)  # fmt: skip
REFUSED = ("/actions/start refresh=nothing", "/nowhere")
"""A browser's console reports their status as an error."""
SUBMIT = """([path, field]) => {
  const form = document.createElement("form");
  form.method = "post";
  form.action = path;
  if (field) {
    const input = document.createElement("input");
    [input.name, input.value] = field.split("=");
    form.append(input);
  }
  document.body.append(form);
  form.submit();
}"""


def visit(page: Any, path: str) -> None:
    """Open one of `PATHS`: names in braces stand for what there is now, a blank is before the field of a form that is sent."""

    def read(twin: str) -> Any:
        return page.request.get(twin).json()

    if "{update}" in path:
        path = path.format(update=read("/updates.json")["updates"][0]["update_id"])
    elif "{event}" in path:
        path = path.format(event=read("/events.json")["events"][0]["sequence"])
    elif "{" in path:
        path = path.format(**{item["kind"]: item["rows"][0]["id"] for item in read("/retail/history.json")["kinds"]})
    if " " not in path:
        page.goto(path)
        return
    page.goto("/updates")
    with page.expect_navigation():
        page.evaluate(SUBMIT, path.split(" "))


def newest_update(page: Any) -> dict[str, Any]:
    update: dict[str, Any] = page.request.get("/updates.json").json()["updates"][0]
    return update


def wait_for_update_after(page: Any, before: dict[str, Any]) -> dict[str, Any]:
    """Return the update that came after another, once it is completed."""
    wait_for(lambda: newest_update(page)["update_id"] != before["update_id"])
    return dict(wait_for(lambda: (now := newest_update(page))["state"] == "COMPLETED" and now, seconds=120))


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


def test_selected_datasets_are_refreshed(page: Any) -> None:
    page.goto("/pipeline#list")
    before = newest_update(page)
    refresh = page.get_by_role("button", name="Refresh selected")
    expect(refresh).to_be_disabled()
    page.get_by_label("Select 03_gold.gold_product_performance").check()
    refresh.click()
    page.wait_for_url("**/pipeline")
    update = wait_for_update_after(page, before)
    assert not update["full_refresh"]
    flows = page.request.get(f"/updates/{update['update_id']}.json").json()["flows"]
    assert {flow["dataset"] for flow in flows if flow["status"] == "COMPLETED"} == {"03_gold.gold_product_performance"}


def test_the_rows_that_a_rule_dropped_are_one_click_away(page: Any) -> None:
    page.goto("/datasets/02_silver.silver_sales_transactions")
    rule = page.locator('#rules tr:has-text("valid_discount")')
    expect(rule).to_contain_text("rows of 01_bronze.bronze_sales, its input")
    rule.get_by_role("link", name="failing rows").click()
    expect(page.locator("#result tbody tr").first).to_be_visible()
    column = page.locator("#result th").all_inner_texts().index("discount_applied") + 1
    assert all(float(text) < 0 for text in page.locator(f"#result td:nth-child({column})").all_inner_texts())


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


LARGE = """async () => {
  const { Graph } = await import("/static/graph.js");
  const layers = ["bronze", "silver", "gold"], datasets = [], edges = [], count = 100;
  for (let i = 0; i < count; i += 1) {
    for (const layer of layers) {
      const name = `${layer}.t${i}`;
      datasets.push({ name, short_name: `t${i}`, layer, kind: "MATERIALIZED_VIEW", kind_label: "materialized view" });
    }
    for (const step of [7, 13]) {
      const read = `t${i * step % count}`;
      edges.push({ from: `bronze.${read}`, to: `silver.t${i}` }, { from: `silver.${read}`, to: `gold.t${i}` });
    }
  }
  const begun = performance.now();
  new Graph(document.getElementById("graph"), { layers, datasets, edges });
  return performance.now() - begun;
}"""


def test_a_large_graph_keeps_its_layers_and_is_drawn_soon(page: Any) -> None:
    page.goto("/pipeline")
    expect(page.locator("#graph .node").first).to_be_visible()
    assert page.evaluate(LARGE) < 5_000
    expect(page.locator("#graph .band-label")).to_have_text(["bronze", "silver", "gold"])
    expect(page.locator("#graph .node")).to_have_count(300)


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
    page.keyboard.press("ArrowLeft")
    expect(page.get_by_role("tab", name="Graph")).to_have_attribute("aria-selected", "true")


def test_the_keyboard_opens_a_dataset_from_the_graph(page: Any) -> None:
    page.goto("/pipeline")
    expect(page.locator("#graph .node").first).to_be_visible()
    tab_to(page, "e => e.closest('#graph a') !== null")
    name = page.evaluate("document.activeElement.querySelector('title').textContent").partition(",")[0]
    page.keyboard.press("Enter")
    page.wait_for_url("**/datasets/*")
    expect(page.get_by_role("heading", level=1)).to_have_text(name)


def test_the_keyboard_starts_an_update(page: Any) -> None:
    page.goto("/pipeline")
    before = newest_update(page)
    tab_to(page, "e => e.textContent === 'Start'")
    page.keyboard.press("Enter")
    wait_for_update_after(page, before)


def test_the_keyboard_switches_the_theme_but_not_while_one_types(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/events")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") != light
    page.keyboard.press("/")
    page.keyboard.press("t")
    expect(page.get_by_label("Text")).to_have_value("t")
    page.get_by_label("Text").blur()
    page.keyboard.press("t")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == light


def tab_to(page: Any, wanted: str) -> None:
    """Press Tab until the element in focus is as `wanted` says, a function in JavaScript."""
    for _ in range(60):
        page.keyboard.press("Tab")
        if page.evaluate(f"({wanted})(document.activeElement)"):
            return
    raise AssertionError(f"Tab leads to no element that is {wanted}")


def test_the_list_is_an_address_of_its_own_also_on_the_page_itself(page: Any) -> None:
    page.goto("/pipeline")
    page.goto("/pipeline#list")
    expect(page.locator("#list")).to_be_visible()
    page.go_back()
    expect(page.locator("#graph-panel")).to_be_visible()
    page.goto("about:blank")
    page.set_viewport_size({"width": 1024, "height": 500})
    page.goto("/pipeline#list")
    page.wait_for_timeout(500)
    expect(page.locator("h1")).to_be_in_viewport()


def test_a_theme_is_kept(page: Any) -> None:
    page.emulate_media(color_scheme="light")
    page.goto("/pipeline")
    light = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.get_by_role("button", name="light or dark").click()
    dark = page.evaluate("getComputedStyle(document.body).backgroundColor")
    page.goto("/updates")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == dark != light


MOVING = """[...document.querySelectorAll('*')].flatMap((element) => [null, '::before', '::after'].map((part) =>
  getComputedStyle(element, part).animationName)).filter((name) => name !== 'none').length"""


@pytest.mark.parametrize(("preference", "animation"), [("no-preference", "pulse"), ("reduce", "none")])
def test_what_runs_moves_but_not_for_who_wants_no_motion(page: Any, preference: str, animation: str) -> None:
    """A message of the live stream says that a dataset runs; real ones run too shortly to be looked at."""
    name = "01_bronze.bronze_sales"
    message = {**page.request.get("/pipeline.json").json()["update"], "state": "RUNNING", "events": [], "missed": False}
    message["datasets"][name]["status"] = "RUNNING"
    body = f"event: progress\ndata: {json.dumps(message)}\n\n"
    page.route("**/live?**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.emulate_media(reduced_motion=preference)
    page.goto("/pipeline")
    expect(page.locator('.node[data-status="RUNNING"]')).to_have_count(1)
    lamp = """getComputedStyle(document.querySelector('.node[data-status="RUNNING"] .lamp')).animationName"""
    assert page.evaluate(lamp) == animation
    for chip in ("#state .chip", f'#list tr[data-name="{name}"] .chip'):
        script = "(chip) => getComputedStyle(document.querySelector(chip), '::before').animationName"
        page.wait_for_function(f"document.querySelector({json.dumps(chip)}).dataset.status === 'RUNNING'")
        if chip.startswith("#list"):
            page.get_by_role("tab", name="List").click()
        assert page.evaluate(script, chip) == animation
    assert (page.evaluate(MOVING) == 0) is (animation == "none")


def test_a_tab_that_nobody_sees_does_not_follow(page: Any) -> None:
    hide = """(hidden) => {
      Object.defineProperty(document, 'hidden', { value: hidden, configurable: true });
      document.dispatchEvent(new Event('visibilitychange'));
    }"""
    page.goto("/pipeline")
    expect(page.locator("#connection")).to_have_text("live")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.evaluate(hide, True)
    page.wait_for_timeout(3000)
    assert not asked
    with page.expect_request("**/live?**") as request:
        page.evaluate(hide, False)
    assert "after=" in request.value.url, "it says what it saw last"


def test_a_page_that_is_slow_to_answer_asks_less_often(page: Any) -> None:
    asked: list[float] = []

    def answer_slowly(route: Any) -> None:
        if route.request.resource_type == "fetch":
            asked.append(time.monotonic())
            page.wait_for_timeout(400)
        route.continue_()

    message = {"events": [], "missed": False, "news": True}
    body = f"retry: 200\nid: 1\nevent: progress\ndata: {json.dumps(message)}\n\n"
    page.route("**/live?**", lambda route: route.fulfill(content_type="text/event-stream", body=body))
    page.route("**/updates", answer_slowly)
    page.goto("/updates")
    page.wait_for_timeout(8000)
    assert len(asked) == 1, "a thirtieth of the time at most: not again within twelve seconds"


SPILLED = """[...document.querySelectorAll('.card')].flatMap((card) => [...card.querySelectorAll('li, p, dd, h2')]
  .filter((item) => !item.closest('.scroll') && item.scrollWidth > item.clientWidth + 1 && item.clientWidth > 0)
  .map((item) => item.textContent.trim().slice(0, 60))).join()"""


def test_nothing_is_loaded_from_elsewhere(page: Any, flagship: Flagship, problems: list[str]) -> None:
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    for path in PATHS:
        visit(page, path)
        page.wait_for_load_state("load")
    forget_refusals(problems)
    assert asked and all(url.startswith((flagship.url, "data:")) for url in asked)


def forget_refusals(problems: list[str]) -> None:
    """Drop what the console says of a page with status 404 or 409."""
    problems[:] = [text for text in problems if "status of 404" not in text and "status of 409" not in text]


@pytest.mark.parametrize(
    ("scheme", "width"), [("light", 1440), ("dark", 1440), ("light", 390)], ids=["light", "dark", "phone"]
)
@pytest.mark.parametrize("path", PATHS)
def test_axe_finds_no_violation(page: Any, problems: list[str], path: str, scheme: str, width: int) -> None:
    from axe_playwright_python.sync_playwright import Axe

    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    visit(page, path)
    expect(page.locator("#connection")).to_have_text("live")

    results = Axe().run(page)
    found = [
        f"{violation['id']}: {node['target']} {node['failureSummary']}"
        for violation in results.response["violations"]
        for node in violation["nodes"]
    ]
    if path in REFUSED:
        forget_refusals(problems)
    assert not found, "\n".join(found)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [(390, 844), (1024, 768), (1920, 1080)], ids=["phone", "tablet", "desk"])
def test_pages_fit_screens_of_every_width(
    page: Any, problems: list[str], size: tuple[int, int], scheme: str, tmp_path: Path
) -> None:
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme)
    for number, path in enumerate(PATHS):
        visit(page, path)
        page.wait_for_load_state("load")
        wide = page.evaluate("document.documentElement.scrollWidth - document.documentElement.clientWidth")
        assert wide <= 0, f"{path} is {wide} pixels too wide"
        assert not page.evaluate(SPILLED), f"text of {path} leaves its card"
        name = re.sub(r"\W+", "_", path).strip("_")[:40]
        page.screenshot(path=tmp_path / f"{number:02}-{name}-{scheme}-{size[0]}.png")
    forget_refusals(problems)
