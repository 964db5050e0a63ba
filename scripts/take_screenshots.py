"""Takes the pictures of the pages that the documentation shows: three sizes of screen, light and dark.

Run by the Makefile: `make screenshots` (needs chromium). It runs the flagship twice, so that rules have a trend, and writes
docs/images/pages and docs/guides/screenshots.md.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

ROOT = Path(__file__).resolve().parent.parent
FOLDER = ROOT / "docs" / "images" / "pages"
PAGE = ROOT / "docs" / "guides" / "screenshots.md"
APPAREL = [sys.executable, "-c", "import sys; from apparel.cli import cli; cli(sys.argv[1:], prog_name='apparel')"]
SIZES = {"phone": (390, 844), "tablet": (834, 1112), "desk": (1440, 900)}
SCHEMES = ("light", "dark")
PAGES = {
    "pipeline": ("The pipeline", "/pipeline"),
    "dataset": ("A dataset", "/datasets/02_silver.silver_sales_transactions"),
    "sql": (
        "SQL",
        "/sql?query=SELECT+store_name,+total_revenue+FROM+03_gold.gold_daily_sales_by_store+ORDER+BY+2+DESC",
    ),
    "retail": ("The retailer's dashboard", "/retail"),
}


def apparel(*arguments: str, storage: Path) -> None:
    subprocess.run([*APPAREL, *arguments, "--storage", str(storage)], check=True, stdout=subprocess.DEVNULL)


@contextmanager
def served(storage: Path) -> Iterator[str]:
    """Serve the flagship's pages; gives their address."""
    command = [*APPAREL, "dashboard", "--json", "--port", "0", "--storage", str(storage)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = process.stdout.readline()
            assert line, "the server ended"
            text += line
        yield str(json.loads(text)["url"]).rstrip("/")
    finally:
        process.terminate()
        process.wait()


def run_update(page: Any) -> None:
    """Start an update with the page's button, and wait for its end."""
    page.goto("/pipeline")
    before = page.locator("#update-link").inner_text()
    start = page.get_by_role("button", name="Start", exact=True)
    start.click()
    page.locator("#update-link").filter(has_not_text=before).wait_for(timeout=300_000)
    page.locator("#state .chip[data-status=COMPLETED]").wait_for(timeout=300_000)
    expect(start).to_be_enabled(timeout=300_000)


def take(browser: Any, url: str, storage: Path) -> None:
    page = browser.new_page(base_url=url)
    run_update(page)
    apparel("generate", "--batches", "1", "--interval", "0", storage=storage)
    run_update(page)
    page.close()
    for scheme in SCHEMES:
        for size, (width, height) in SIZES.items():
            page = browser.new_page(
                base_url=url, viewport={"width": width, "height": height}, color_scheme=scheme, reduced_motion="reduce"
            )
            for name, (_, path) in PAGES.items():
                page.goto(path)
                page.locator("#connection", has_text="live").wait_for(timeout=60_000)
                page.screenshot(path=FOLDER / f"{name}-{size}-{scheme}.png")
            page.close()


def document() -> str:
    lines = [
        "# The pages on three sizes of screen, light and dark",
        "",
        "Written by `make screenshots`, from the running flagship.",
    ]
    for name, (title, _) in PAGES.items():
        lines += ["", f"## {title}", "", "| | phone | tablet | desk |", "|---|---|---|---|"]
        for scheme in SCHEMES:
            cells = [f"![{title}, {size}, {scheme}](../images/pages/{name}-{size}-{scheme}.png)" for size in SIZES]
            lines.append(f"| {scheme} | " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def main() -> None:
    FOLDER.mkdir(parents=True, exist_ok=True)
    browser_path = shutil.which("chromium") or shutil.which("chromium-browser")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        storage = Path(folder) / "apparel"
        apparel("generate", "--batches", "2", "--interval", "0", "--seed", "7", storage=storage)
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox", "--disable-gpu"])
        with served(storage) as url:
            take(browser, url, storage)
        browser.close()
    PAGE.write_text(document())


if __name__ == "__main__":
    main()
