"""The fixtures of the pages' tests."""

from __future__ import annotations

from tests.web.web_kit import client, shop

__all__ = ["client", "shop"]
