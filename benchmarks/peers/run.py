"""Measures lakelet beside its peers on the same landing data: `python -m benchmarks.peers.run`, the last part of `make bench`.

No time counts before the results agree: every table of every peer is compared, row for row, and so is every count of a
rule. Then the peers take turns, so that whatever else the machine does hits all of them alike. Each part is bounded in
time: a peer that is slow makes fewer updates.
"""

from __future__ import annotations

import argparse
import gc
import json
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass

from deltalake import DeltaTable

from benchmarks.document import DOCUMENT, machine, table, write_part
from benchmarks.peers.contest import Contestant, Rules, differences
from benchmarks.peers.environments import HERE, PACKAGES, PEERS, Peer, python
from benchmarks.peers.specification import TABLES


@dataclass(frozen=True, slots=True, kw_only=True)
class Latency:
    """One more default batch in a live process, in milliseconds."""

    p50: float
    p99: float
    updates: int

    @classmethod
    def of(cls, seconds: Sequence[float]) -> Latency:
        millis = sorted(1000 * each for each in seconds)
        p99 = millis[min(len(millis) - 1, int(len(millis) * 0.99))]
        return cls(p50=statistics.median(millis), p99=p99, updates=len(millis))


def check_equal(peers: Sequence[Peer], *, batches: int) -> str:
    """Let all peers process the same batches; raises `SystemExit` if a table or a count differs."""
    contestants = [Contestant(peer, seed=7) for peer in peers]
    counted: dict[str, Rules] = {}
    for contestant in contestants:
        contestant.start()
        for _ in range(batches):
            contestant.land()
            _, rules = contestant.step()
            _add(counted.setdefault(contestant.peer.name, {}), rules)
        for _ in range(contestant.peer.lag):
            contestant.step()
        contestant.stop()
    wrong = differences(contestants)
    expected = _reported(contestants[0])
    for contestant in contestants[1:]:
        found = counted[contestant.peer.name]
        wrong += [
            f"{contestant.peer.name}: {dataset}.{rule} passed {found[dataset][rule]}, lakelet {passed}"
            for (dataset, rule), passed in sorted(expected.items())
            if dataset in found and found[dataset][rule] != passed
        ]
    if wrong:
        raise SystemExit("the results differ, nothing was measured:\n" + "\n".join(wrong))
    for contestant in contestants:
        contestant.close()
    partly = [f"{peer.label} in {len(TABLES) - len(peer.apart)}" for peer in peers if peer.apart]
    but = f" ({', '.join(partly)})" if partly else ""
    return f"After {batches} batches all {len(TABLES)} tables were equal row for row{but}, and all counts of rules."


def _add(total: Rules, more: Rules) -> None:
    for dataset, rules in more.items():
        for rule, passed in rules.items():
            counts = total.setdefault(dataset, {})
            counts[rule] = counts.get(rule, 0) + passed


def _reported(ours: Contestant) -> dict[tuple[str, str], int]:
    """Return how many rows passed each rule, from the event log; a view reports once for each flow that reads it."""
    log = DeltaTable(str(ours.folder / "system" / "events")).to_pyarrow_table(
        columns=["origin", "details", "event_type"]
    )
    found: dict[tuple[str, str, str], int] = {}
    for event in log.to_pylist():
        if event["event_type"] != "flow_progress":
            continue
        quality = json.loads(event["details"])["flow_progress"].get("data_quality") or {}
        for rule in quality.get("expectations", ()):
            dataset = rule["dataset"].partition(".")[2] or rule["dataset"]
            key = (dataset, rule["name"], event["origin"]["flow_name"])
            found[key] = found.get(key, 0) + rule["passed_records"]
    return {(dataset, rule): passed for (dataset, rule, _), passed in found.items()}


def cold(peers: Sequence[Peer], *, runs: int, budget_seconds: float) -> dict[str, list[float]]:
    """New process to finished first update of empty tables, the generator's first batch; seconds."""
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for seed in range(runs):
        for peer in [peer for peer in peers if sum(seconds[peer.name]) < budget_seconds]:
            contestant = Contestant(peer, seed=seed)
            contestant.land()
            started = time.perf_counter()
            contestant.start()
            contestant.step()
            seconds[peer.name].append(time.perf_counter() - started)
            contestant.close()
    return seconds


def warm(peers: Sequence[Peer], *, history: int, updates: int, budget_seconds: float) -> dict[str, Latency]:
    """The latency of one more default batch over a history of so many sales; the peers take turns."""
    contestants = [Contestant(peer) for peer in peers]
    spent = {peer.name: 0.0 for peer in peers}
    seconds: dict[str, list[float]] = {peer.name: [] for peer in peers}
    for contestant in contestants:
        contestant.land_history(history)
        contestant.start()
        contestant.step()
        for _ in range(3):
            contestant.land()
            contestant.step()
    gc.collect()
    for _ in range(updates):
        for contestant in contestants:
            name = contestant.peer.name
            if contestant.peer.environment is None or spent[name] < budget_seconds:
                contestant.land()
                took, _ = contestant.step()
                seconds[name].append(took)
                spent[name] += took
    for contestant in contestants:
        contestant.close()
    return {name: Latency.of(each) for name, each in seconds.items()}


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """A backlog of sales from landing to gold, by a process that is up already."""

    sales: int
    seconds: float
    peak_bytes: int
    size_bytes: int


def backlog(peer: Peer, *, sales: int) -> Load:
    contestant = Contestant(peer)
    contestant.land_history(sales)
    contestant.start()
    seconds, _ = contestant.step()
    contestant.stop()
    load = Load(sales=sales, seconds=seconds, peak_bytes=contestant.peak_bytes, size_bytes=contestant.size_bytes())
    contestant.close()
    return load


def report(
    equal: str,
    peers: Sequence[Peer],
    colds: dict[str, list[float]],
    warms: dict[int, dict[str, Latency]],
    loads: dict[int, dict[str, Load]],
) -> str:
    """Return the part of the document."""
    smallest = min(warms)
    ours = warms[smallest]["lakelet"].p50
    lines = [
        "## Beside its peers",
        "",
        f"Machine: {machine('pysail', 'deltalake', 'duckdb')}; "
        + ", ".join(package for packages in PACKAGES.values() for package in packages)
        + ".",
        "",
        f"{equal} The scripts are in `benchmarks/peers`; each is the flagship as one would write it with that tool. "
        "The floor has no recovery, no exactly-once, no event log; dbt writes one DuckDB file and no Delta tables. "
        "Spark Declarative Pipelines 4.3 write Iceberg (their AUTO CDC cannot write to Delta Lake), count no rules and do "
        "not ignore NULLs; the Spark Connect server stays up, and a step is one `spark-pipelines run`. A run of theirs reads "
        "what the run before it wrote, so a batch is in the last table after three; `silver_customers` (NULLs) and what reads "
        "customers, products and stores as of arrival (the facts, two of the aggregates) differ and are not compared. "
        "Pathway keeps all state in memory; its Delta Lake connector needs a licence key, so delta-rs commits what changed.",
        "",
        "![latency of one more batch](images/benchmark_peers.svg)",
        "",
        "**One more default batch** (500 sales and the dimension changes, every table committed, every rule counted) in a "
        "live process, by sales already there:",
        "",
    ]
    head = ("", *(f"{history:,} sales" for history in sorted(warms)), f"÷ lakelet at {smallest:,}")
    rows = []
    for peer in peers:
        cells = []
        for history in sorted(warms):
            latency = warms[history].get(peer.name)
            cells.append(
                "–" if latency is None else f"p50 {latency.p50:,.0f} ms, p99 {latency.p99:,.0f} ms ({latency.updates})"
            )
        first = warms[smallest].get(peer.name)
        rows.append((peer.label, *cells, "–" if first is None else f"{first.p50 / ours:.1f}×"))
    lines += [table(head, rows), "", "In brackets: the updates measured.", ""]
    lines += ["**Cold start**: a new process to the finished first update.", ""]
    rows = [
        (
            peer.label,
            f"{statistics.median(colds[peer.name]):.1f} s",
            f"{min(colds[peer.name]):.1f}–{max(colds[peer.name]):.1f} s",
        )
        for peer in peers
        if peer.name in colds
    ]
    lines += [table(("", "median", "range"), rows), "", "**A backlog**, landing to gold in one step:", ""]
    for sales in sorted(loads):
        mine = loads[sales]["lakelet"].seconds
        rows = [
            (
                peer.label,
                f"{load.seconds:,.1f} s",
                f"{sales / load.seconds:,.0f} sales/s",
                f"{load.seconds / mine:.1f}×",
                f"{load.peak_bytes / 2**20:,.0f} MB",
                f"{load.size_bytes / 2**20:,.0f} MB",
            )
            for peer in peers
            if (load := loads[sales].get(peer.name)) is not None
        ]
        head = (f"{sales:,} sales", "time", "rate", "÷ lakelet", "peak memory", "on disk")
        lines += [table(head, rows), ""]
    return "\n".join(lines)


def draw(peers: Sequence[Peer], warms: dict[int, dict[str, Latency]]) -> None:
    """Draw the chart of the report."""
    lines = [
        {
            "label": peer.label,
            "is_ours": peer.name == "lakelet",
            "points": [
                (history, found[peer.name].p50) for history, found in sorted(warms.items()) if peer.name in found
            ],
        }
        for peer in peers
    ]
    command = [python("chart"), str(HERE / "chart.py"), str(DOCUMENT.parent / "images" / "benchmark_peers.svg")]
    subprocess.run(command, input=json.dumps([line for line in lines if line["points"]]), text=True, check=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="few updates and small histories; prints, writes nothing")
    parser.add_argument("--only", default="", help="names of peers, separated by commas; lakelet is always there")
    parser.add_argument("--backlogs", default="5000000", help="sizes of the backlogs, separated by commas")
    parser.add_argument("--histories", default="100000,1000000,10000000", help="sizes of the histories")
    parser.add_argument("--updates", type=int, default=200)
    parser.add_argument(
        "--budget-seconds", type=float, default=120.0, help="of a peer in an environment of its own, in one part"
    )
    options = parser.parse_args()
    only = set(filter(None, options.only.split(",")))
    peers = [peer for peer in PEERS if not only or peer.name in only | {"lakelet"}]
    quick = options.quick
    equal = check_equal(peers, batches=3 if quick else 8)
    print(equal, flush=True)
    colds = cold(peers, runs=1 if quick else 5, budget_seconds=options.budget_seconds)
    print(colds, flush=True)
    warms = {}
    for history in (20_000,) if quick else map(int, options.histories.split(",")):
        warms[history] = warm(
            [peer for peer in peers if history <= peer.most_sales],
            history=history,
            updates=5 if quick else options.updates if not warms else max(1, options.updates // 3),
            budget_seconds=10 if quick else options.budget_seconds,
        )
        print(history, warms[history], flush=True)
    loads: dict[int, dict[str, Load]] = {}
    for sales in (200_000,) if quick else map(int, options.backlogs.split(",")):
        loads[sales] = {peer.name: backlog(peer, sales=sales) for peer in peers if sales <= peer.most_sales}
        print(sales, loads[sales], flush=True)
    text = report(equal, peers, colds, warms, loads)
    print(text)
    if not quick:
        draw(peers, warms)
        write_part("peers", text)


if __name__ == "__main__":
    main()
