"""lakelet itself, under the same protocol as its peers: `run()` of a live pipeline."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import protocol

from lakelet import Pipeline

PIPELINE = Path(__file__).resolve().parents[2] / "src" / "apparel" / "pipeline"


def make(landing: Path, out: Path) -> Callable[[], protocol.Rules]:
    storage = landing.parents[3]
    pipeline = Pipeline(PIPELINE, storage=storage)

    def step() -> protocol.Rules:
        result = pipeline.run()
        if result.exit_code:
            raise SystemExit("\n".join(error.render() for error in result.errors))
        return {}

    return step


if __name__ == "__main__":
    protocol.serve(make)
