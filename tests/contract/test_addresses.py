"""Addresses of servers that want a token, or TLS: both as usual for Spark Connect, and neither is ever shown."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest

from lakelet.engine.connect import ConnectEngine
from lakelet.errors import QueryError
from lakelet.plan import relation as plan

pytestmark = pytest.mark.feature("Tokens and TLS")
TOKEN = "a-token-that-nobody-sees"


class Door(grpc.GenericRpcHandler):
    """Lets calls with the token through to a server, as a proxy before a cluster does."""

    def __init__(self, target: str) -> None:
        self._channel = grpc.insecure_channel(target)
        self.tokens: set[str] = set()

    def service(self, details: Any) -> Any:
        def forward(requests: Iterator[bytes], context: grpc.ServicerContext) -> Iterator[bytes]:
            given = dict(context.invocation_metadata()).get("authorization", "")
            self.tokens.add(str(given))
            if given != f"Bearer {TOKEN}":
                context.abort(grpc.StatusCode.UNAUTHENTICATED, "No or wrong authentication token")
            yield from self._channel.stream_stream(details.method)(requests)

        return grpc.stream_stream_rpc_method_handler(forward)


@pytest.fixture
def server(remote_address: str) -> str:
    return remote_address.removeprefix("sc://")


def opened(server: str, credentials: grpc.ServerCredentials) -> tuple[grpc.Server, Door, int]:
    door = Door(server)
    proxy = grpc.server(futures.ThreadPoolExecutor(8), handlers=[door])
    port = proxy.add_secure_port("localhost:0", credentials)
    proxy.start()
    return proxy, door, port


def test_a_token_of_the_address_is_sent_and_a_wrong_one_is_refused_without_being_shown(server: str) -> None:
    proxy, door, port = opened(server, grpc.local_server_credentials())
    engine = ConnectEngine(f"sc://localhost:{port}/;token={TOKEN}")
    assert engine.collect(plan.sql("SELECT 1 AS n"))["n"].to_pylist() == [1]
    engine.close()
    assert door.tokens == {f"Bearer {TOKEN}"}
    with pytest.raises(QueryError) as raised:
        ConnectEngine(f"sc://localhost:{port}/;token=another-secret")
    assert (raised.value.condition, raised.value.retryable) == ("ENGINE_UNAUTHENTICATED", False)
    assert "another-secret" not in raised.value.render()
    proxy.stop(None).wait()


def test_a_token_of_the_environment_is_sent(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    proxy, _, port = opened(server, grpc.local_server_credentials())
    with pytest.raises(QueryError, match="ENGINE_UNAUTHENTICATED"):
        ConnectEngine(f"sc://localhost:{port}")
    monkeypatch.setenv("SPARK_CONNECT_AUTHENTICATE_TOKEN", TOKEN)
    engine = ConnectEngine(f"sc://localhost:{port}")
    assert engine.collect(plan.sql("SELECT 1 AS n"))["n"].to_pylist() == [1]
    engine.close()
    proxy.stop(None).wait()


CHECK = """
import sys
from lakelet.engine.connect import ConnectEngine
from lakelet.errors import QueryError
from lakelet.plan import relation as plan
try:
    engine = ConnectEngine(sys.argv[1])
    print(engine.collect(plan.sql("SELECT 41 + 1 AS n"))["n"].to_pylist())
    engine.close()
except QueryError as error:
    print(error.condition)
"""


@pytest.mark.skipif(shutil.which("openssl") is None, reason="needs openssl to make a certificate")
def test_tls_needs_a_certificate_that_this_machine_trusts(server: str, tmp_path: Path) -> None:
    """gRPC reads the trusted certificates once, so each side of the rule has a process of its own."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    names = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    proxy, door, port = opened(server, grpc.ssl_server_credentials([(key.read_bytes(), certificate.read_bytes())]))
    address = f"sc://localhost:{port}/;use_ssl=true"

    def said(**more: str) -> str:
        environment = {**os.environ, "SPARK_CONNECT_AUTHENTICATE_TOKEN": TOKEN, **more}
        command = [sys.executable, "-c", CHECK, address]
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False).stdout.strip()

    assert said() == "ENGINE_UNAVAILABLE"
    assert door.tokens == set()
    assert said(GRPC_DEFAULT_SSL_ROOTS_FILE_PATH=str(certificate)) == "[42]"
    assert door.tokens == {f"Bearer {TOKEN}"}
    proxy.stop(None).wait()
