"""Measures lakelet and the floor with no other peer alive, for docs/benchmarks.md: `python -m benchmarks.alone`.

Beside the other peers, two Java machines and Pathway among them, a history of a few sales and one of many were not measured on
the same machine, so to say. Here they are, and so is what takes long: ten million sales of history, a backlog of fifty.
"""

from __future__ import annotations

import argparse

from benchmarks import backlog
from benchmarks.document import machine, table, write_part
from benchmarks.peers.environments import PEERS
from benchmarks.peers.run import Latency, warm

SMALL, LARGE = 5_000_000, 50_000_000


def report(warms: dict[int, dict[str, Latency]], loads: dict[int, dict[str, tuple[float, float, float]]]) -> str:
    """Return the part of the document."""
    first, last = min(warms), max(warms)
    rows = [
        (
            f"{history:,} sales",
            f"p50 {found['lakelet'].p50:,.0f} ms, p99 {found['lakelet'].p99:,.0f} ms ({found['lakelet'].updates})",
            f"p50 {found['floor'].p50:,.0f} ms, p99 {found['floor'].p99:,.0f} ms ({found['floor'].updates})",
            f"{found['lakelet'].p50 / found['floor'].p50:.2f}×",
            f"{found['lakelet'].p50 / warms[first]['lakelet'].p50:.2f}×",
        )
        for history, found in sorted(warms.items())
    ]
    head = ("one more default batch over", "lakelet", "the floor", "lakelet ÷ floor", f"÷ lakelet at {first:,}")
    held = (
        f"Held to: lakelet ÷ floor at most 2, at {last:,} sales at most 1.2 times what it is at {first:,}; a backlog at at least "
        "half of the floor's rate, in at most 2 GB."
    )
    lines = ["## lakelet and the floor alone", "", table(head, rows), "", held, ""]
    for sales, sides in loads.items():
        ours = sides["lakelet"][0]
        rows = [
            (
                side,
                f"{seconds:.1f} s",
                f"{sales / seconds:,.0f} sales/s",
                f"{ours / seconds:.2f}×",
                f"{cpu:.1f} s",
                f"{peak:,.0f} MB",
            )
            for side, (seconds, cpu, peak) in sides.items()
        ]
        head = (f"a backlog of {sales:,} sales", "time", "rate", "rate ÷ lakelet's", "CPU", "peak memory")
        lines += [table(head, rows), ""]
    lines += [
        f"The floor is not given {LARGE:,} sales: its memory grows with them. What a continuous update costs while nothing "
        "arrives stands in [reliability](reliability.md).",
        "",
        f"Machine: {machine('pysail', 'deltalake', 'duckdb')}.",
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few updates and small histories; prints, writes nothing")
    options = parser.parse_args()
    peers = [peer for peer in PEERS if peer.name in ("lakelet", "floor")]
    histories = {20_000: 5} if options.quick else {100_000: 200, 1_000_000: 60, 10_000_000: 40}
    warms = {}
    for history, updates in histories.items():
        warms[history] = warm(peers, history=history, updates=updates, budget_seconds=120)
        print(history, warms[history], flush=True)
    small, large = (100_000, 200_000) if options.quick else (SMALL, LARGE)
    loads = {
        small: backlog.medians(small, sides=("lakelet", "floor"), rounds=1 if options.quick else 3),
        large: backlog.medians(large, sides=("lakelet",)),
    }
    text = report(warms, loads)
    print(text)
    if not options.quick:
        write_part("alone", text)


if __name__ == "__main__":
    main()
