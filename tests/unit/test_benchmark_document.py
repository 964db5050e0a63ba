"""Parts of docs/benchmarks.md are replaced one by one."""

from __future__ import annotations

from pathlib import Path

from benchmarks.document import table, write_part


def test_a_part_is_replaced_and_the_others_stay(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    write_part("one", "first \\1", document=page)
    write_part("two", "second", document=page)
    write_part("one", "third", document=page)
    text = page.read_text("utf-8")
    assert "first" not in text
    assert text.index("third") < text.index("second")
    assert text.count("<!-- part one -->") == 1


def test_a_table_has_a_row_a_line() -> None:
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
