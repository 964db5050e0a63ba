"""Open tables that wait for their next user."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest

from lakelet.storage import handles
from lakelet.storage.handles import Handles


def test_a_table_whose_store_has_gone_is_let_go_without_a_word(monkeypatch: pytest.MonkeyPatch) -> None:
    """Handles are left by finalizers: an error there is a traceback on the terminal that nobody can catch."""

    def gone(location: str, version: int) -> Any:
        raise OSError("connection refused")

    monkeypatch.setattr(handles, "commit_file", gone)
    waiting = Handles()
    table: Any = SimpleNamespace(delta=SimpleNamespace(version=lambda: 3))
    waiting.leave("s3://b/t", table)
    assert waiting.take("s3://b/t") is None
