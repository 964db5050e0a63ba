"""The README tells the truth: its code runs, its commands and links exist."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from click.testing import CliRunner

from lakelet.cli import cli

ROOT = Path(__file__).resolve().parents[2]
README = (ROOT / "README.md").read_text("utf-8")
PIPELINE, TEST = re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_its_pipeline_has_at_most_twelve_lines() -> None:
    assert len([line for line in PIPELINE.splitlines() if line.strip() and not line.startswith("#")]) <= 12


def test_its_test_passes_on_its_pipeline(tmp_path: Path, pipeline_test: Any) -> None:
    file = tmp_path / "transformations" / "customers.py"
    file.parent.mkdir()
    file.write_text(PIPELINE, "utf-8")
    namespace: dict[str, Any] = {}
    exec(TEST, namespace)
    [run] = [value for name, value in namespace.items() if name.startswith("test_")]
    run(lambda name: pipeline_test(tmp_path / name))


def test_its_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text("utf-8"), re.MULTILINE))
    assert set(re.findall(r"^make ([a-z-]+)", README, re.MULTILINE)) == {"demo", "test"}
    assert {"demo", "test", "check", "help"} <= targets


def test_its_lakelet_commands_exist() -> None:
    used = set(re.findall(r"^lakelet ([a-z-]+)", README, re.MULTILINE))
    assert used
    for name in used:
        assert CliRunner().invoke(cli, [name, "--help"]).exit_code == 0, name


def test_links_of_all_documents_lead_somewhere() -> None:
    broken = []
    for page in [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]:
        for link in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text("utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                broken.append(f"{page.relative_to(ROOT)}: {link}")
    assert broken == []
