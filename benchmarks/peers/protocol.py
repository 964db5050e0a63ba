"""How the harness talks to a peer: one process, one line in for a step, one line of JSON out.

peer.py LANDING OUT
-> {"ready": true}
<- step
-> {"rules": {"sales_cleaned_stream": {"num_rows": 500, "valid_payment_method": 500, …}, …}}
"""

from __future__ import annotations

import json
import sys
import traceback
from collections.abc import Callable
from pathlib import Path

Rules = dict[str, dict[str, int]]


def serve(make: Callable[[Path, Path], Callable[[], Rules]], *, end: Callable[[], None] = lambda: None) -> None:
    """Run a peer: `make(landing, out)` starts it and returns the function that processes everything that is new.

    Args:
        end: called when no step is wanted any more.
    """
    answers, sys.stdout = sys.stdout, sys.stderr
    step = make(Path(sys.argv[1]), Path(sys.argv[2]))
    print(json.dumps({"ready": True}), file=answers, flush=True)
    try:
        for _ in sys.stdin:
            print(json.dumps({"rules": step()}), file=answers, flush=True)
    except BaseException:
        traceback.print_exc()  # `end` may fail as well, and hide it
        raise
    finally:
        end()


def landed_files(landing: Path, folder: str, after: int) -> tuple[list[str], int]:
    """Return the data files that the landing table has got since version `after`, and its version now.

    The landing zone is append-only, so the commits' `add` actions are its new rows.
    """
    files: list[str] = []
    log = landing / folder / "_delta_log"
    while (commit := log / f"{after + 1:020d}.json").exists():
        after += 1
        for line in commit.read_text("utf-8").splitlines():
            if line.startswith('{"add"'):
                files.append(str(landing / folder / json.loads(line)["add"]["path"]))
    return files, after
