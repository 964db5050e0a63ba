"""Google Cloud Storage by fake-gcs-server, with a server before it that has what Google's has and this one lacks.

delta-rs and Sail write through Google's XML interface, whose uploads are handed on to the JSON one, with their conditions.
Hadoop's client knows one host only: it comes through a proxy, which `JDK_JAVA_OPTIONS` name, and finds a certificate that they
trust.
"""

from __future__ import annotations

import gzip
import http.client
import itertools
import json
import os
import re
import ssl
import subprocess
import sys
import tempfile
import threading
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any, ClassVar

from tests.object_stores import environment, free_port, wait_for

HOST = "storage.googleapis.com"
URL = "LAKELET_TEST_GCS_URL"
PASSWORD = "changeit"
_OWN_HEADERS = {"connection", "transfer-encoding", "date", "server", "content-length"}
_NOT_PASSED_ON = {"host", "transfer-encoding", "expect", "content-encoding", "content-length"}
Answer = tuple[int, Mapping[str, str], bytes]


class Gcs:
    """The server that the environment names."""

    def address(self, name: str) -> str:
        return f"gs://{name}"

    def make(self, name: str) -> None:
        data = json.dumps({"name": name}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{os.environ[URL]}/storage/v1/b?project=test", data, headers)
        urllib.request.urlopen(request).close()


@contextmanager
def gcs_server(programs: Path) -> Iterator[None]:
    """Serve Google's storage from memory, and say in the environment where it is."""
    behind = free_port()
    command = [str(programs / "fake-gcs-server"), "-scheme", "http", "-host", "127.0.0.1", "-port", str(behind)]
    process = subprocess.Popen(
        [*command, "-backend", "memory", "-public-host", HOST, "-external-url", f"https://{HOST}"],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with tempfile.TemporaryDirectory() as folder:
            certificate, key, trusted = _certificate(Path(folder))
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(certificate, key)
            server = _Server(("127.0.0.1", 0), partial(_Google, f"127.0.0.1:{behind}", context))
            threading.Thread(target=server.serve_forever, daemon=True).start()
            port = server.server_address[1]
            url = f"http://127.0.0.1:{port}"
            account = Path(folder) / "account.json"
            account.write_text(json.dumps(_account(url, key.read_text())))
            java = {
                "https.proxyHost": "127.0.0.1",
                "https.proxyPort": str(port),
                "javax.net.ssl.trustStore": str(trusted),
                "javax.net.ssl.trustStorePassword": PASSWORD,
            }
            settings = {
                URL: url,
                "GOOGLE_SERVICE_ACCOUNT": str(account),
                "GOOGLE_ALLOW_HTTP": "true",
                "JDK_JAVA_OPTIONS": " ".join(f"-D{name}={value}" for name, value in java.items()),
            }
            with environment(settings):
                wait_for(url)
                yield
            server.shutdown()
    finally:
        process.terminate()
        process.wait()


def _certificate(folder: Path) -> tuple[Path, Path, Path]:
    """Return a certificate for Google's host, its key, and Java's store of the certificates that it shall trust."""
    certificate, key, trusted = (folder / name for name in ("certificate.pem", "key.pem", "trusted.p12"))
    made = ["-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", f"/CN={HOST}"]
    named = ["-addext", f"subjectAltName=DNS:{HOST}"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", "-x509", *made, *named, *files], check=True, capture_output=True)
    store = ["-keystore", str(trusted), "-storetype", "PKCS12", "-storepass", PASSWORD]
    command = ["keytool", "-importcert", "-noprompt", "-alias", "gcs", "-file", str(certificate), *store]
    subprocess.run(command, check=True, capture_output=True)
    return certificate, key, trusted


def _account(url: str, key: str) -> dict[str, Any]:
    """Return a service account: for Hadoop one that gets its token here, for delta-rs and Sail a place that asks for none."""
    return {
        "type": "service_account",
        "project_id": "test",
        "private_key_id": "1",
        "private_key": key,
        "client_email": "test@example.com",
        "client_id": "1",
        "token_uri": f"{url}/token",
        "gcs_base_url": url,
        "disable_oauth": True,
    }


class _Server(ThreadingHTTPServer):
    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), ConnectionError | ssl.SSLError):  # a client may be killed: tests do it
            super().handle_error(request, client_address)


class _Google(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    uploads: ClassVar[dict[str, dict[int, bytes]]] = {}
    numbers = itertools.count(1)

    def __init__(self, behind: str, context: ssl.SSLContext, *args: Any) -> None:
        self.behind = behind
        self.context = context
        super().__init__(*args)

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_CONNECT(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.connection = self.context.wrap_socket(self.connection, server_side=True)
        self.rfile = self.connection.makefile("rb")
        self.wfile = self.connection.makefile("wb", 0)  # type: ignore[assignment]
        self.close_connection = False

    def answer(self) -> None:
        body = self.body()
        status, headers, data = self.handled(body)
        self.send_response(status)
        for key, value in headers.items():
            if key.lower() not in _OWN_HEADERS:
                self.send_header(key, value.replace(f"http://{HOST}", f"https://{HOST}"))
        is_head = self.command == "HEAD"
        length = {key.lower(): value for key, value in headers.items()}.get("content-length", "0")
        self.send_header("Content-Length", length if is_head else str(len(data)))
        self.end_headers()
        if not is_head:
            self.wfile.write(data)

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def body(self) -> bytes:
        if self.headers.get("Transfer-Encoding") == "chunked":
            parts = []
            while size := int(self.rfile.readline().split(b";")[0], 16):
                parts.append(self.rfile.read(size))
                self.rfile.readline()
            self.rfile.readline()
            data = b"".join(parts)
        else:
            data = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        return gzip.decompress(data) if self.headers.get("Content-Encoding") == "gzip" else data

    def handled(self, body: bytes) -> Answer:
        target = re.sub("^//+", "/", self.path)
        url = urllib.parse.urlsplit(target)
        query = dict(urllib.parse.parse_qsl(url.query, keep_blank_values=True))
        if url.path == "/token":
            token = {"access_token": "token", "expires_in": 3600, "token_type": "Bearer"}
            return 200, {"Content-Type": "application/json"}, json.dumps(token).encode()
        if not url.path.startswith(("/storage/", "/upload/", "/download/", "/batch/")):
            if self.command == "PUT" and "partNumber" in query:
                self.uploads[query["uploadId"]][int(query["partNumber"])] = body
                return 200, {"ETag": f'"{query["partNumber"]}"'}, b""
            if self.command == "POST" and "uploads" in query:
                return 200, {}, self.begun()
            if self.command == "POST" and "uploadId" in query:
                parts = self.uploads[query["uploadId"]]
                status, headers, data = self.upload(url.path, b"".join(parts[number] for number in sorted(parts)))
                done = b"<CompleteMultipartUploadResult><ETag>whole</ETag></CompleteMultipartUploadResult>"
                return status, headers, done if status == 200 else data
            if self.command == "PUT":
                return self.upload(url.path, body)
        if "/moveTo/o/" in url.path:
            return self.move(*url.path.split("/moveTo/o/"), is_new=query.get("ifGenerationMatch") == "0")
        passed = {key: value for key, value in self.headers.items() if key.lower() not in _NOT_PASSED_ON}
        status, headers, data = self.ask(self.command, target, body, passed)
        if status == 500 and "list-type" in query and self.ask("GET", f"/storage/v1/b{url.path}")[0] == 404:
            return 404, {}, b"<Error><Code>NoSuchBucket</Code></Error>"
        if "start-after" in query:
            after = query["start-after"].encode()
            data = re.sub(
                rb"<Contents>.*?<Key>(.*?)</Key>.*?</Contents>", lambda m: m[0] if m[1] > after else b"", data
            )
        return status, headers, data

    def begun(self) -> bytes:
        name = f"upload{next(self.numbers)}"
        self.uploads[name] = {}
        return f"<InitiateMultipartUploadResult><UploadId>{name}</UploadId></InitiateMultipartUploadResult>".encode()

    def upload(self, path: str, body: bytes) -> Answer:
        """Write a key: `x-goog-if-generation-match` is `ifGenerationMatch` in the JSON interface."""
        _, bucket, key = path.split("/", 2)
        query = {"uploadType": "media", "name": urllib.parse.unquote(key)}
        condition = self.headers.get("x-goog-if-generation-match")
        if condition is not None:
            query["ifGenerationMatch"] = condition
        target = f"/upload/storage/v1/b/{bucket}/o?{urllib.parse.urlencode(query)}"
        status, _, data = self.ask("POST", target, body, {"Content-Type": "application/octet-stream"})
        if status != 200:
            return status, {}, data
        told = json.loads(data)
        return 200, {"ETag": told["etag"], "x-goog-generation": told["generation"]}, b""

    def move(self, source: str, name: str, *, is_new: bool) -> Answer:
        bucket = source.split("/b/")[1].split("/")[0]
        target = f"/storage/v1/b/{bucket}/o/{name}"
        if is_new and self.ask("GET", target)[0] == 200:
            return 412, {}, b"{}"
        status, headers, data = self.ask("POST", f"{source}/copyTo/b/{bucket}/o/{name}", b"{}")
        if status == 200:
            self.ask("DELETE", source)
            status, headers, data = self.ask("GET", target)
        return status, headers, data

    def ask(self, method: str, target: str, body: bytes = b"", headers: Mapping[str, str] | None = None) -> Answer:
        connection = http.client.HTTPConnection(self.behind)
        length = {"Content-Length": str(len(body))} if body or method in ("POST", "PUT") else {}
        connection.request(method, target, body=body or None, headers={**(headers or {}), **length, "Host": HOST})
        response = connection.getresponse()
        data = response.read()
        connection.close()
        return response.status, dict(response.getheaders()), data
