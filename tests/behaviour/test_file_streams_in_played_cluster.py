"""Streams of files once more, rule by rule: where the workers of a cluster parse them. The embedded engine plays it."""

from __future__ import annotations

from types import FunctionType
from typing import Any

import pytest
from tests.behaviour import test_file_streams
from tests.behaviour.conftest import Project
from tests.behaviour.test_files_in_cluster import never, played
from tests.engines import address

from lakelet.execution import file_source

pytestmark = pytest.mark.skipif(address() != "sail", reason="any other engine runs test_file_streams.py as it is")


@pytest.fixture
def project(project: Project, monkeypatch: pytest.MonkeyPatch) -> Any:
    """A project on a cluster, which leaves no row of a file to this process."""
    monkeypatch.setattr(file_source, "rows_here", never)
    return played(project, monkeypatch)


def _again(test: FunctionType) -> FunctionType:
    """Return a test that counts for no feature: those are of the engines that are not played."""
    copy = FunctionType(test.__code__, test.__globals__, test.__name__, test.__defaults__, test.__closure__)
    copy.pytestmark = [mark for mark in getattr(test, "pytestmark", ()) if mark.name != "feature"]  # type: ignore[attr-defined]
    return copy


globals().update({name: _again(test) for name, test in vars(test_file_streams).items() if name.startswith("test_")})
