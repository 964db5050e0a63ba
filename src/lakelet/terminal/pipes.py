"""Lines to a stream whose reader may go away, as `head` does."""

from __future__ import annotations

import os
from typing import TextIO


def write_line(line: str, stream: TextIO) -> None:
    """Write one line; if nobody reads any more, this and all later lines go nowhere, and what runs goes on."""
    try:
        stream.write(f"{line}\n")
        stream.flush()
    except BrokenPipeError:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, stream.fileno())
        os.close(nowhere)
