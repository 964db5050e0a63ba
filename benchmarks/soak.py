"""Kills pipelines again and again, and compares every table and every count with an independent oracle: `make soak`.

First the flagship (`soak_retailer.py`), then streams with state, files and sinks (`soak_streams.py`); how they are killed is in
`soak_kills.py`. Repeat a run with `--seed`; the moments of the kills are then drawn alike, though they do not hit the same line.
"""

from __future__ import annotations

import argparse
import random
import shutil
import tempfile
import time
from pathlib import Path

from deltalake import DeltaTable

from benchmarks.report import machine, table, write_section
from benchmarks.soak_kills import Soak, flow_metrics, storage_of
from benchmarks.soak_retailer import Retailer
from benchmarks.soak_streams import Streams

SUBJECTS = {"retailer": Retailer, "streams": Streams}


def summary(soak: Soak, differences: list[str], seconds: float) -> str:
    subject, storage = soak.subject, storage_of(soak.subject)
    log = DeltaTable(str(storage / "system" / "events")).to_pyarrow_table(columns=["origin"])
    updates = len({origin["update_id"] for origin in log.column("origin").to_pylist()})
    batches = len(flow_metrics(storage)[0])
    tables = subject.tables()
    rows = sum(DeltaTable(str(location)).to_pyarrow_dataset().count_rows() for location in tables.values())
    result = "**agrees with the oracle on every table, rule and count**" if not differences else "**DIFFERS**"
    return (
        f"{subject.name[0].upper()}{subject.name[1:]}: {soak.kills} kills, {updates} updates, {batches:,} micro-batches and "
        f"refreshes, {subject.num_landed():,} {subject.rows} landed, {rows:,} rows in {len(tables)} tables, "
        f"{seconds / 60:.1f} minutes, seed {soak.seed}: {result}."
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="of both together")
    parser.add_argument("--minutes", type=float, default=10.0, help="for both together, at most")
    parser.add_argument("--seed", type=int, default=None)
    parser.add_argument("--only", choices=list(SUBJECTS))
    parser.add_argument("--keep", type=Path, help="work in this folder, and leave it")
    parser.add_argument("--report", action="store_true", help="write the figures into docs/reliability.md")
    options = parser.parse_args()
    seed = options.seed if options.seed is not None else random.SystemRandom().randrange(10**6)
    print(f"seed {seed}")
    root = options.keep or Path(tempfile.mkdtemp(prefix="lakelet-soak-"))
    names = [options.only] if options.only else list(SUBJECTS)
    soaks: list[Soak] = []
    texts: list[str] = []
    wrong: list[str] = []
    for name in names:
        soak = Soak(subject=SUBJECTS[name](root=root / name, seed=seed), seed=seed)
        started = time.monotonic()
        differences = soak.run(kills=options.kills // len(names), seconds=options.minutes * 60 / len(names))
        soaks.append(soak)
        texts.append(summary(soak, differences, time.monotonic() - started))
        wrong += differences
        print(texts[-1], *(text[:400] for text in differences[:20]), sep="\n", flush=True)
    places = sorted({place for soak in soaks for place in soak.hits})
    figures = table(
        ("kills", *(soak.subject.name for soak in soaks)),
        [
            *((place, *(soak.hits[place] for soak in soaks)) for place in places),
            ("all", *(soak.kills for soak in soaks)),
        ],
    )
    text = "\n\n".join([figures, *texts, f"({machine()})"])
    print(text)
    if wrong:
        raise SystemExit(f"the storages are at {root}")
    if options.report:
        write_section("soak", text)
    if options.keep is None:
        shutil.rmtree(root)


if __name__ == "__main__":
    main()
