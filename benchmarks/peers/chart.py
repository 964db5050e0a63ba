"""The chart of docs/benchmarks.md, drawn in an environment of its own: `chart.py IMAGE < lines.json`.

Reads `[{"label": …, "points": [[sales, ms], …], "is_ours": …}, …]`.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

import matplotlib
from matplotlib import pyplot

matplotlib.use("svg")


def draw(image: Path, lines: list[dict]) -> None:
    """Draw the median latency of one more batch over the size of the history, one line a peer; both axes logarithmic."""
    pyplot.rcParams["svg.hashsalt"] = "lakelet"
    figure, axes = pyplot.subplots(figsize=(8, 4.2))
    for line in lines:
        style = {"linewidth": 2.5, "zorder": 3} if line["is_ours"] else {"linewidth": 1.4}
        axes.plot(*zip(*line["points"], strict=True), marker="o", label=line["label"], **style)
    axes.set(xscale="log", yscale="log", xlabel="sales already in the tables", ylabel="one more batch, ms (median)")
    axes.grid(True, which="both", alpha=0.2)
    axes.legend(fontsize=8)
    figure.tight_layout()
    image.parent.mkdir(exist_ok=True)
    figure.savefig(image, metadata={"Date": None})


if __name__ == "__main__":
    draw(Path(sys.argv[1]), json.load(sys.stdin))
