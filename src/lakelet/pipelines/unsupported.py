"""Parts of the declarative API that this release refuses at load, with file, line and a way around."""

from __future__ import annotations

from typing import Any

from lakelet.pipelines.parameters import declarative, unsupported


@declarative
def replace_flow(target: str | None = None, **options: Any) -> Any:
    """Refused in this release: a flow that replaces rows of its target."""
    raise unsupported(
        "`replace_flow` is not supported in this release",
        hint="use `create_auto_cdc_flow` to replace rows by key",
    )
