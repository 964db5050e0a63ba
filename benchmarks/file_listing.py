"""How long a stream takes to find files in a folder of many, first and again. Run: python -m benchmarks.file_listing [files]"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lakelet.execution.file_discovery import FileLog, Lister
from lakelet.execution.file_options import FileRead


def timed(what: str, call: Callable[[], object]) -> None:
    started = time.perf_counter()
    call()
    print(f"{what:<46}{(time.perf_counter() - started) * 1000:>9.1f} ms")


def main(count: int) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "in"
        folder.mkdir()
        for number in range(count):
            (folder / f"part-{number:08}.json").touch()
        time.sleep(2.1)  # a folder that changed just now is listed again
        read = FileRead(label="in", path=str(folder), format="json", auto_loader=True)

        def opened() -> FileLog:
            return FileLog(Path(name) / "log", relative=lambda path: path, absolute=lambda path: path)

        log, lister = opened(), Lister(read)
        timed(f"list and note {count} new files", lambda: log.append(lister.new_files(log.known)))
        lister.noted()
        timed("look again, nothing changed, same process", lambda: lister.new_files(log.known))
        (folder / "new.json").touch()
        timed("look again, one new file, same process", lambda: log.append(lister.new_files(log.known)))
        timed("open the list in a new process", opened)
        timed("look again in a new process", lambda: Lister(read).new_files(log.known))
        size = sum(path.stat().st_size for path in (Path(name) / "log" / "files").iterdir())
        print(f"{'the list on disk':<46}{size / 1024:>9.1f} KiB, {size / count:.1f} bytes a file")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 100_000)
