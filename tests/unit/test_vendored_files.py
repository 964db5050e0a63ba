"""Each file of another project that the package brings along has its licence beside it, and is the version that it says."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

import pytest

import lakelet

VENDOR = Path(lakelet.__file__).parent / "web" / "static" / "vendor"
VERSIONS = VENDOR / "VERSIONS"
"""A line for each file: its name, the version, the licence, where it is from, and its SHA-256."""
ROWS = {line.split()[0]: line.split() for line in VERSIONS.read_text("utf-8").splitlines() if not line.startswith("#")}
IN_THE_TEXT = {"dagre.min.js": r'var re="([\d.]+)";', "uplot.min.js": r"uPlot \(v([\d.]+)\)"}
"""Where a file itself says which version it is."""


def test_every_file_has_a_line_and_every_line_a_file() -> None:
    files = {path.name for path in VENDOR.iterdir() if path != VERSIONS and path.suffix != ".LICENSE"}
    assert ROWS.keys() == files


def test_every_licence_belongs_to_a_file() -> None:
    licences = {path.stem for path in VENDOR.glob("*.LICENSE")}
    assert licences == {name.partition(".")[0] for name in ROWS}


@pytest.mark.parametrize("name", ROWS)
def test_a_file_is_the_version_that_its_line_says_under_its_licence(name: str) -> None:
    _, version, licence, source, digest = ROWS[name]
    assert re.fullmatch(r"\d+\.\d+\.\d+", version)
    assert hashlib.sha256((VENDOR / name).read_bytes()).hexdigest() == digest, "a new version? then correct its line"
    library = name.partition(".")[0]
    assert library in source.lower()
    text = (VENDOR / f"{library}.LICENSE").read_text("utf-8")
    assert licence == "MIT" and re.search(r"Copyright \(c\) \d{4}", text)
    assert "Permission is hereby granted, free of charge" in text and 'THE SOFTWARE IS PROVIDED "AS IS"' in text
    same = [row for row in ROWS.values() if row[0].partition(".")[0] == library]
    assert {row[1:4] == ROWS[name][1:4] for row in same} == {True}


@pytest.mark.parametrize("name", IN_THE_TEXT)
def test_a_file_says_the_same_version_itself(name: str) -> None:
    assert re.findall(IN_THE_TEXT[name], (VENDOR / name).read_text("utf-8")) == [ROWS[name][1]]


def test_nothing_of_another_project_lies_elsewhere_in_the_package() -> None:
    """What is minified was not written here."""
    static = VENDOR.parent
    minified = [path for path in static.rglob("*.min.*") if path.parent != VENDOR]
    long_lines = [
        path
        for path in static.rglob("*")
        if path.suffix in (".js", ".css") and path.parent != VENDOR
        if max(map(len, path.read_text("utf-8").splitlines()), default=0) > 1000
    ]
    assert (minified, long_lines) == ([], [])
