"""The live stream: what has changed since the last message, as server-sent events.

Each message's id is the number of the last event that it takes into account. A browser that reconnects says which id it saw
last, and is told what it missed: states from memory, log lines from the index. `?lines=no` leaves the log lines out, which
only the page of events shows.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from typing import Any

from starlette.concurrency import run_in_threadpool
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response, StreamingResponse

from lakelet.web.progress import newest_update
from lakelet.web.site import Site

MOST_STREAMS = 64
LEAST_SECONDS = 0.25
"""Between two messages: a burst of events is one message."""
BEAT_SECONDS = 5.0
ENDING_SECONDS = 0.5
"""An update whose last event was told is about to give its lock back, which no event tells."""
MOST_LINES = 200


class LiveStream:
    """The endpoint of the live stream."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._open = 0

    async def __call__(self, request: Request) -> Response:
        """Answer with an endless stream of messages."""
        if self._open >= MOST_STREAMS:
            return PlainTextResponse("too many pages are open\n", status_code=503)
        seen = request.headers.get("last-event-id") or request.query_params.get("after") or ""
        after = int(seen) if seen.isdecimal() and len(seen) < 20 else None
        lines = request.query_params.get("lines") != "no"
        return StreamingResponse(self._messages(after, lines=lines), media_type="text/event-stream")

    async def _messages(self, after: int | None, *, lines: bool = True) -> AsyncIterator[str]:
        loop = asyncio.get_running_loop()
        changed = asyncio.Event()

        def notice() -> None:
            loop.call_soon_threadsafe(changed.set)

        self._open += 1
        self._site.watcher.listen(notice)
        try:
            yield "retry: 1000\n\n"
            if after is not None:
                await self._until_caught_up()
            while not self._site.closing.is_set():
                message = await run_in_threadpool(self._message, after, with_lines=lines)
                after = message["sequence"]
                yield f"id: {after}\nevent: progress\ndata: {json.dumps(message, separators=(',', ':'))}\n\n"
                await asyncio.sleep(LEAST_SECONDS)
                is_ending = message["runner"]["running"] and message["finished_at"] is not None
                await self._wait(changed, ENDING_SECONDS if is_ending else BEAT_SECONDS)
        finally:
            self._site.watcher.unlisten(notice)
            self._open -= 1

    async def _until_caught_up(self) -> None:
        """Wait until a server that has just started knows what the browser saw of its predecessor."""
        while not self._site.watcher.is_ready.is_set() and not self._site.closing.is_set():
            await asyncio.sleep(0.05)

    async def _wait(self, changed: asyncio.Event, seconds: float) -> None:
        """Wait for news, but not for ever: times go on, and a process may die without an event."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not changed.is_set() and not self._site.closing.is_set() and (left := until - loop.time()) > 0:
            try:
                await asyncio.wait_for(changed.wait(), min(left, 0.5))
            except TimeoutError:
                continue
        changed.clear()

    def _message(self, after: int | None, *, with_lines: bool = True) -> dict[str, Any]:
        message = newest_update(self._site, after=after)
        lines = [] if after is None or not with_lines else self._site.index.events(after=after, limit=MOST_LINES + 1)
        message["news"] = after is not None and message["sequence"] > after
        message["missed"] = len(lines) > MOST_LINES
        message["events"] = lines[:MOST_LINES]
        return dict(self._site.scrub(message))
