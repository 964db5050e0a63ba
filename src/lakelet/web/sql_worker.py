"""The process that runs the queries of people: an engine of its own, which can be ended at any moment.

It may write no file, and take only so much memory: a query can be as wrong as it likes, the pipeline does not notice.
Protocol: a JSON line in; a JSON line out, followed by as many bytes of an Arrow stream as it says.
"""

from __future__ import annotations

import io
import json
import os
import resource
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pyarrow as pa

from lakelet.engine.base import Engine
from lakelet.errors import LakeletError
from lakelet.execution.reading import bound_query
from lakelet.execution.resolution import Resolver
from lakelet.names import NameContext
from lakelet.places import place
from lakelet.plan.relation import limited
from lakelet.storage.catalog import Catalog
from lakelet.storage.delta_rs import DeltaRsStore

if TYPE_CHECKING:
    from lakelet.plan.relation import Relation

MEMORY_BYTES = 4 * 2**30


def query_over_tables(
    engine: Engine, sql: str, *, names: NameContext, catalog: Catalog, tables: Mapping[str, str], event_log: str
) -> Relation:
    """Return a query over stored tables, for an engine to run; no code of the pipeline is loaded for it.

    Args:
        tables: display name → location.
    """
    external = {names.resolve(name).key: location for name, location in tables.items()}
    resolver = Resolver(names=names, catalog=catalog, engine=engine, store=DeltaRsStore(), external=external)
    return bound_query(resolver, sql, event_log=event_log)


def collect(engine: Engine, relation: Relation, *, limit: int, max_bytes: int) -> tuple[pa.Table, bool]:
    """Return the first rows, and whether there are more."""
    reader = engine.stream(limited(relation, limit + 1))
    batches: list[pa.RecordBatch] = []
    rows = size = 0
    for batch in reader:
        batches.append(batch)
        rows += batch.num_rows
        size += batch.nbytes
        if size > max_bytes:
            break
    table = pa.Table.from_batches(batches, schema=reader.schema)
    return table.slice(0, limit), rows > limit or size > max_bytes


def serve(requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests until there are no more."""
    from lakelet.engine.sail import SailEngine

    engine: SailEngine | None = None
    for line in requests:
        request = json.loads(line)
        try:
            if engine is None:
                engine = SailEngine(configuration=request["configuration"])
            _reply(replies, *_answer(engine, request))
        except LakeletError as error:
            fields = {name: getattr(error, name) for name in ("condition", "message", "cause", "hint")}
            _reply(replies, {"error": fields})
        except MemoryError:
            _reply(replies, {"error": {"condition": "SQL_OUT_OF_MEMORY", "message": "", "cause": None, "hint": None}})


def _answer(engine: Engine, request: Mapping[str, Any]) -> tuple[dict[str, Any], bytes]:
    relation = query_over_tables(
        engine,
        request["sql"],
        names=NameContext(*request["names"]),
        catalog=Catalog(storage=place(request["storage"]), root=Path(request["root"])),
        tables=request["tables"],
        event_log=request["event_log"],
    )
    table, has_more = collect(engine, relation, limit=request["limit"], max_bytes=request["max_bytes"])
    buffer = io.BytesIO()
    with pa.ipc.new_stream(buffer, table.schema) as writer:
        writer.write_table(table)
    return {"has_more": has_more}, buffer.getvalue()


def _reply(out: BinaryIO, head: dict[str, Any], body: bytes = b"") -> None:
    out.write(json.dumps({**head, "bytes": len(body)}).encode() + b"\n" + body)
    out.flush()


def main() -> None:
    """Give away everything that a query does not need, then answer."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever prints goes to stderr, and not among the replies
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_DATA, (MEMORY_BYTES, MEMORY_BYTES))
    os.nice(5)
    serve(sys.stdin.buffer, replies)


if __name__ == "__main__":
    main()
