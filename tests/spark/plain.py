"""Values as JSON that both sides write in the same way."""

from __future__ import annotations

import datetime
import decimal
from typing import Any


def plain(value: Any) -> Any:
    """Return a value as JSON that both sides write in the same way."""
    if isinstance(value, dict):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, datetime.datetime):
        zoned = value if value.tzinfo is None else value.astimezone(datetime.UTC).replace(tzinfo=None)
        return zoned.isoformat(sep=" ")
    if isinstance(value, (bytes, bytearray)):
        return bytes(value).hex()
    if isinstance(value, float):
        return repr(value)
    if isinstance(value, (datetime.date, decimal.Decimal)):
        return str(value)
    return value
