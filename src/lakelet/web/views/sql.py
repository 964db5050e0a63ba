"""SQL over the pipeline's tables and its event log: read, shown, downloaded; never written."""

from __future__ import annotations

import csv
import io
from collections.abc import Awaitable, Callable
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from lakelet.errors import LakeletError
from lakelet.terminal.error_data import errors_as_data
from lakelet.terminal.rows import write_csv
from lakelet.web.pages import PageRequest
from lakelet.web.security import is_own_request
from lakelet.web.site import Site
from lakelet.web.sql import DOWNLOAD_ROWS, SHOWN_ROWS
from lakelet.web.tables import shown

_FORMULA = ("=", "+", "-", "@", "\t", "\r")


def data(site: Site, request: PageRequest) -> dict[str, Any]:
    """Return the first rows of `query`.

    Parameters: `query`, `limit` (at most 500). A link on another site shows its query and does not run it.
    """
    query = request.query.get("query", "").strip()
    limit = request.number("limit", default=100, least=1, most=SHOWN_ROWS)
    tables = site.tables()
    result: dict[str, Any] = {
        "query": query,
        "limit": limit,
        "tables": [*tables, "event_log"],
        "table_queries": {
            **{name: site.definition.datasets[name]["query"] for name in tables},
            "event_log": "SELECT * FROM event_log LIMIT 100",
        },
        "columns": [],
        "rows": [],
        "has_more": False,
        "seconds": None,
        "errors": [],
        "ran": bool(query) and request.is_own,
    }
    if not result["ran"]:
        return result
    try:
        answer = site.sql.run(query, tables=tables, limit=limit)
    except LakeletError as error:
        return {**result, "errors": errors_as_data(error)}
    return {**result, **shown(answer.rows), "has_more": answer.has_more, "seconds": round(answer.seconds, 3)}


def download(site: Site) -> Callable[[Request], Awaitable[Response]]:
    """Return the endpoint of `/sql/download?query=…&format=csv|parquet`: at most 100,000 rows."""

    async def endpoint(request: Request) -> Response:
        query = request.query_params.get("query", "").strip()
        form = request.query_params.get("format", "csv")
        if not is_own_request(request.headers):
            return JSONResponse({"error": "open the query first, and download it from there"}, status_code=403)
        if form not in _WRITERS:
            return JSONResponse({"error": f"the formats are {', '.join(_WRITERS)}"}, status_code=400)
        try:
            answer = await run_in_threadpool(site.sql.run, query, tables=site.tables(), limit=DOWNLOAD_ROWS)
        except LakeletError as error:
            return JSONResponse(site.scrub({"errors": errors_as_data(error)}), status_code=400)
        media_type, write = _WRITERS[form]
        body = await run_in_threadpool(write, answer.rows)
        headers = {
            "content-disposition": f'attachment; filename="query.{form}"',
            "x-lakelet-has-more": str(answer.has_more).lower(),
        }
        return Response(body, media_type=media_type, headers=headers)

    return endpoint


def _csv(rows: pa.Table) -> bytes:
    """Return CSV in which no text is a formula: a spreadsheet that opens it would run one."""
    out = io.StringIO()
    write_csv(rows, out)
    if not any(pa.types.is_string(field.type) or pa.types.is_large_string(field.type) for field in rows.schema):
        return out.getvalue().encode()
    safe = io.StringIO()
    is_text = [pa.types.is_string(field.type) or pa.types.is_large_string(field.type) for field in rows.schema]
    writer = csv.writer(safe, lineterminator="\n")
    for row in csv.reader(io.StringIO(out.getvalue())):
        writer.writerow(
            [
                f"'{cell}" if text and cell.startswith(_FORMULA) else cell
                for cell, text in zip(row, is_text, strict=True)
            ]
        )
    return safe.getvalue().encode()


def _parquet(rows: pa.Table) -> bytes:
    out = io.BytesIO()
    pq.write_table(rows, out)
    return out.getvalue()


_WRITERS: dict[str, tuple[str, Callable[[pa.Table], bytes]]] = {
    "csv": ("text/csv; charset=utf-8", _csv),
    "parquet": ("application/vnd.apache.parquet", _parquet),
}
