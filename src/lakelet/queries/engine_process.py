"""The process that runs queries of people: an engine, and nothing else.

It may write no file, run no Python function, and take only so much memory: a query can be as wrong as it likes, the pipeline
does not notice. It says at which port its engine listens, and ends when its stdin does.
"""

from __future__ import annotations

import os
import resource
import sys

MEMORY_BYTES = 4 * 2**30
SESSION_SECONDS = 600


def main() -> None:
    """Give away everything that a query does not need, then serve."""
    reply = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(5)
    os.environ["RUST_LOG"] = "off"
    os.environ["SAIL_SPARK__SESSION_TIMEOUT_SECS"] = str(SESSION_SECONDS)
    from pysail.spark import SparkConnectServer

    sys.modules["pyspark"] = None  # type: ignore[assignment]  # what a function in Python would need
    server = SparkConnectServer("127.0.0.1", 0)
    server.start(background=True)
    _, port = server.listening_address
    reply.write(f"{port}\n")
    reply.flush()
    sys.stdin.buffer.read()
    os._exit(0)


if __name__ == "__main__":
    main()
