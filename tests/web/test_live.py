"""The live stream, through a server in a process of its own: what a browser sees, also over a restart."""

from __future__ import annotations

import asyncio
import http.client
import json
import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from tests.web.web_kit import Shop, post, wait_for

from lakelet.addresses import listener
from lakelet.errors import SpecError

COMMAND = "import sys; from lakelet.cli import main; sys.argv[0] = 'lakelet'; main()"


class Server:
    """`lakelet ui` over a shop."""

    def __init__(self, shop: Shop, *options: str, port: int = 0) -> None:
        arguments = ["ui", "--spec", str(shop.root), "--json", "--port", str(port), *options]
        self.process = subprocess.Popen(
            [sys.executable, "-c", COMMAND, *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        assert self.process.stdout is not None
        text = ""
        while not text.rstrip().endswith("}"):
            line = self.process.stdout.readline()
            assert line, self.process.communicate()[1]
            text += line
        self.url = json.loads(text)["url"]
        self.port = int(self.url.partition("?")[0].rstrip("/").rpartition(":")[2])

    def messages(self, *, after: str | None = None) -> Iterator[tuple[str, dict[str, Any]]]:
        """Return id and data of each message."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("GET", "/live", headers={} if after is None else {"Last-Event-ID": after})
        answer = connection.getresponse()
        assert answer.getheader("content-type", "").startswith("text/event-stream")
        try:
            number = ""
            while line := answer.readline().decode().rstrip("\n"):
                if line.startswith("retry"):
                    answer.readline()
                elif line.startswith("id: "):
                    number = line[4:]
                elif line.startswith("data: "):
                    yield number, json.loads(line[6:])
                    answer.readline()
        finally:
            connection.close()

    def post(self, path: str, body: str = "") -> int:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        connection.request("POST", path, body, {"Origin": f"http://127.0.0.1:{self.port}"})
        status = connection.getresponse().status
        connection.close()
        return status

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, str]:
        """Return the exit code, and what the server printed since it started."""
        self.process.send_signal(number)
        out, err = self.process.communicate(timeout=90)
        return self.process.returncode, out, err


@pytest.fixture
def server(shop: Shop) -> Iterator[Server]:
    server = Server(shop)
    yield server
    if server.process.poll() is None:
        server.stop()


def test_an_update_is_seen_from_start_to_end_and_again_after_a_restart(shop: Shop, server: Server) -> None:
    messages = server.messages()
    _, first = next(messages)
    assert (first["update_id"], first["datasets"], first["events"]) == (None, {}, [])
    assert server.post("/actions/start") == 303
    states, last = set(), ""
    for last, message in messages:  # noqa: B007 - the last one counts
        states.add(message["state"])
        if message["state"] == "COMPLETED":
            break
    messages.close()
    assert last == str(message["sequence"])
    code, _, err = server.stop()
    assert (code, err) == (0, "")

    shop.land((9, "zoe", 9))
    shop.run()  # another process's update, while no page is open
    again = Server(shop, port=server.port)
    try:
        seen: list[dict[str, Any]] = []
        for _, message in again.messages(after=last):
            seen += message["events"]
            if message["state"] == "COMPLETED" and seen:
                break
        assert {event["update_id"] for event in seen} == {message["update_id"]}
        assert min(event["sequence"] for event in seen) > int(last)
        assert seen[0]["type"] == "create_update"
    finally:
        assert again.stop(signal.SIGINT)[::2] == (0, "")


def test_only_what_has_changed_is_sent(shop: Shop) -> None:
    from lakelet.web.live import LiveStream

    shop.run()
    site = shop.site()
    site.watcher.read()
    stream = LiveStream(site)
    everything = stream._message(None)
    assert set(everything["datasets"]) == {"bronze.orders", "good_orders", "silver.paid", "gold.totals"}
    assert stream._message(everything["sequence"])["datasets"] == {}
    middle = next(event["sequence"] for event in site.index.events(dataset="silver.paid", limit=1))
    assert "bronze.orders" not in stream._message(middle)["datasets"]
    assert stream._message(middle - 1)["events"][0]["sequence"] == middle


def test_a_browser_that_comes_back_waits_for_a_server_that_is_still_reading(shop: Shop) -> None:
    from lakelet.web.live import LiveStream

    shop.run()
    before = shop.site()
    before.watcher.read()
    last = before.watcher.sequence
    site = shop.site()

    async def first_message() -> dict[str, Any]:
        messages = LiveStream(site)._messages(last)
        assert await anext(messages) == "retry: 1000\n\n"
        message = asyncio.ensure_future(anext(messages))
        await asyncio.sleep(0.2)
        assert not message.done()
        site.watcher.read()
        site.watcher.is_ready.set()
        data: dict[str, Any] = json.loads((await message).partition("data: ")[2])
        await messages.aclose()
        return data

    message = asyncio.run(first_message())
    assert (message["sequence"], message["state"], message["events"]) == (last, "COMPLETED", [])


def test_an_update_of_another_process_is_followed_line_by_line(shop: Shop) -> None:
    site = shop.site()
    site.watcher.read()
    result = shop.run()
    lines = shop.root / "data" / "system" / "updates" / f"{result.update_id}.jsonl"
    whole = lines.read_bytes().splitlines(keepends=True)
    fresh = shop.site()
    lines.with_suffix(".recorded").unlink()
    import shutil

    shutil.rmtree(shop.root / "data" / "system" / "events")
    lines.write_bytes(b"".join(whole[:5]) + whole[5][:20])
    assert fresh.watcher.read() == 5
    lines.write_bytes(b"".join(whole[:7]))
    assert fresh.watcher.read() == 2
    assert fresh.watcher.read() == 0
    assert fresh.watcher.progress.state is not None


def test_an_event_counts_once_from_lines_and_log(shop: Shop) -> None:
    shop.run()
    site = shop.site()
    assert site.watcher.read() == len(shop.pipeline().events())
    assert site.watcher.read() == 0
    assert site.index.updates(limit=5)[0]["written"] == 7


def test_an_event_log_that_is_made_anew_is_read_anew(shop: Shop) -> None:
    import shutil

    shop.run()
    site = shop.site()
    site.watcher.read()
    shutil.rmtree(shop.root / "data" / "system")
    shutil.rmtree(shop.root / "data" / "_checkpoints")
    shutil.rmtree(shop.root / "data" / "tables")
    result = shop.run()
    site.watcher.read()
    site.watcher.read()
    assert [update["update_id"] for update in site.index.updates(limit=5)] == [result.update_id]


def test_the_token_is_printed_once_and_in_no_log(shop: Shop) -> None:
    server = Server(shop, "--host", "0.0.0.0")
    token = server.url.partition("token=")[2]
    assert len(token) >= 32
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", "/pipeline")
    assert connection.getresponse().status == 401
    connection.close()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=60)
    connection.request("GET", f"/pipeline.json?token={token}")
    assert connection.getresponse().status == 303
    connection.close()
    _, out, err = server.stop()
    assert token not in out + err


def test_the_address_may_be_in_use(shop: Shop, server: Server) -> None:
    arguments = ["ui", "--spec", str(shop.root), "--port", str(server.port)]
    done = subprocess.run([sys.executable, "-c", COMMAND, *arguments], capture_output=True, text=True, timeout=120)
    assert done.returncode == 2
    assert "ADDRESS_IN_USE" in done.stderr


@pytest.mark.parametrize(
    ("host", "reason"),
    [
        ("nowhere.invalid", "the name cannot be resolved"),
        ("x" * 70, "the name cannot be resolved"),
        ("192.0.2.1", "this machine does not have the address"),
    ],
)
def test_a_host_that_is_not_here_is_no_address_in_use(host: str, reason: str) -> None:
    with pytest.raises(SpecError) as raised:
        listener(host, 0, what="the page")
    assert raised.value.condition == "ADDRESS_NOT_AVAILABLE"
    assert reason in raised.value.message
    assert "--host" in (raised.value.hint or "")


def test_a_site_that_closes_ends_its_update_first(shop: Shop) -> None:
    with shop.client() as client:
        post(client, "/actions/start", continuous="1")
        wait_for(lambda: client.get("/pipeline.json").json()["update"]["state"] == "RUNNING")
    assert not (shop.root / "data" / "_lock").exists()
    log = shop.pipeline().events().to_pylist()
    assert '"CANCELED"' in next(row["details"] for row in log[::-1] if row["event_type"] == "update_progress")


def test_a_page_without_log_lines_is_told_of_news_only(shop: Shop) -> None:
    from lakelet.web.live import LiveStream

    shop.run()
    site = shop.site()
    site.watcher.read()
    stream = LiveStream(site)
    newest = stream._message(None)["sequence"]
    assert stream._message(newest - 1, with_lines=False)["events"] == []
    assert stream._message(newest - 1, with_lines=False)["news"]
    assert stream._message(newest - 1)["events"][-1]["sequence"] == newest
    assert not stream._message(newest, with_lines=False)["news"]


def test_while_a_pipeline_is_busy_its_lines_are_enough(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.run()
    site = shop.site()
    with monkeypatch.context() as patch:
        patch.setattr("lakelet.web.watcher.latest_version", lambda *_, **__: pytest.fail("the log was looked at"))
        assert site.watcher.read(with_log=False) > 0
        assert site.watcher.progress.state is not None and site.watcher.progress.state.value == "COMPLETED"
    assert site.watcher.read() == 0, "the log has nothing else"


def test_the_lines_of_an_update_that_ended_are_not_opened_again(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    shop.run()
    site = shop.site()
    assert site.watcher.read() > 0
    monkeypatch.setattr(site.watcher, "_new_lines", lambda update: pytest.fail(f"{update} was opened"))
    assert site.watcher.read() == 0


def test_that_the_next_update_may_start_is_told_soon_after_the_end_of_one(
    shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The process gives its lock back after the last event, and no event tells."""
    from lakelet.web import live

    shop.run()
    site = shop.site()
    site.watcher.read()
    monkeypatch.setattr(live, "BEAT_SECONDS", 60.0)
    runner = site.runner.to_dict()

    async def second_message() -> str:
        messages = live.LiveStream(site)._messages(None)
        await anext(messages)
        monkeypatch.setattr(site.runner, "to_dict", lambda: {**runner, "running": True})
        await anext(messages)
        monkeypatch.setattr(site.runner, "to_dict", lambda: runner)
        return await asyncio.wait_for(anext(messages), 10)

    assert '"can_start":true' in asyncio.run(second_message())
