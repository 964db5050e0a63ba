"""Who may come in: everybody on this machine; from elsewhere only who has the token."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc
from pyarrow import flight

from lakelet.addresses import same_token
from lakelet.errors import SpecError

HEADER = "x-lakelet-token"
"""For clients that send an `authorization` header over TLS only, as PySpark does."""
TIMESTAMPS_HEADER = "x-lakelet-timestamps"
"""For the JDBC driver, whose `getObject(int)` knows no timestamps with a zone."""
GUARD = "guard"
_MESSAGE = "a token is required: use the address that the server printed when it started"


@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate:
    """With which a server proves who it is.

    Attributes:
        chain, key: as PEM.
    """

    chain: bytes
    key: bytes

    @classmethod
    def read(cls, chain: Path, key: Path) -> Certificate:
        """Read both files.

        Raises:
            SpecError: `TLS_FILE_NOT_READABLE`.
        """
        texts = []
        for file, mark in ((chain, b"CERTIFICATE"), (key, b"PRIVATE KEY")):
            try:
                text = file.read_bytes()
            except OSError as error:
                raise _not_readable(file, str(error)) from error
            if mark not in text:
                raise _not_readable(file, f"it has no `BEGIN {mark.decode()}`")
            texts.append(text)
        return cls(chain=texts[0], key=texts[1])


def _not_readable(file: Path, cause: str) -> SpecError:
    return SpecError(
        "TLS_FILE_NOT_READABLE",
        f"`{file}` is not a file for TLS",
        cause=cause,
        hint="give the certificate and its key as PEM files: `--tls-certificate FILE --tls-key FILE`",
    )


def is_let_in(headers: Iterable[tuple[str, str]], token: str) -> bool:
    """Tell whether the headers of a call have the token: as a bearer's, as a password, or in a header of our own."""
    for name, value in headers:
        if name == HEADER and same_token(value, token):
            return True
        if name == "authorization":
            scheme, _, given = value.partition(" ")
            if scheme.lower() == "bearer" and same_token(given, token):
                return True
            if scheme.lower() == "basic" and same_token(_password(given), token):
                return True
    return False


def _password(text: str) -> str:
    """Return the password of a Basic header, empty if it is none."""
    try:
        decoded = base64.b64decode(text, validate=True).decode("utf-8", "replace")
    except binascii.Error:
        return ""
    return decoded.partition(":")[2]


class GrpcGuard(grpc.ServerInterceptor):  # type: ignore[misc]
    """Turns away calls without the token."""

    def __init__(self, token: str) -> None:
        self._token = token
        self._refusal = grpc.unary_unary_rpc_method_handler(_unauthenticated)

    def intercept_service(self, continuation: Callable[[Any], Any], details: Any) -> Any:
        metadata = ((str(name), value if isinstance(value, str) else "") for name, value in details.invocation_metadata)
        return continuation(details) if is_let_in(metadata, self._token) else self._refusal


def _unauthenticated(request: Any, context: grpc.ServicerContext) -> None:
    context.abort(grpc.StatusCode.UNAUTHENTICATED, _MESSAGE)


class FlightCall(flight.ServerMiddleware):  # type: ignore[misc]
    """What the headers of one call say.

    Args:
        bearer: sent back to who logs in with a password.
        local_timestamps: timestamps are wanted as the pipeline's zone writes them, without a zone.
    """

    def __init__(self, *, bearer: str | None, local_timestamps: bool) -> None:
        self._bearer = bearer
        self.local_timestamps = local_timestamps

    def sending_headers(self) -> dict[str, str]:
        return {"authorization": f"Bearer {self._bearer}"} if self._bearer else {}


class FlightGuard(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Turns away calls without the token; who logs in with a password is given a bearer's."""

    def __init__(self, token: str | None) -> None:
        self._token = token

    def start_call(self, info: flight.CallInfo, headers: Mapping[str, list[Any]]) -> FlightCall:
        pairs = [
            (name.lower(), value) for name, values in headers.items() for value in values if isinstance(value, str)
        ]
        if self._token is not None and not is_let_in(pairs, self._token):
            raise flight.FlightUnauthenticatedError(_MESSAGE)
        logs_in = any(name == "authorization" and value.lower().startswith("basic ") for name, value in pairs)
        return FlightCall(
            bearer=(self._token or "open") if logs_in else None,
            local_timestamps=(TIMESTAMPS_HEADER, "local") in pairs,
        )


class NoHandshake(flight.ServerAuthHandler):  # type: ignore[misc]
    """Lets the handshake through, in which drivers send user and password: the guard has looked at them already."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        return None

    def is_valid(self, token: bytes) -> str:
        return ""
