"""Where a server of ours listens, and the token that it asks for beyond this machine."""

from __future__ import annotations

import errno
import hmac
import ipaddress
import secrets
import socket

from lakelet.errors import SpecError


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def shown_host(host: str) -> str:
    """Return how others write the address of this machine in a URL."""
    if host in ("0.0.0.0", "::"):
        return socket.gethostname()
    return f"[{host}]" if ":" in host else host


def new_token() -> str:
    return secrets.token_urlsafe(24)


def same_token(given: str, token: str) -> bool:
    return hmac.compare_digest(given.encode("utf-8", "surrogateescape"), token.encode())


def listener(host: str, port: int, *, what: str, option: str = "--port") -> socket.socket:
    """Return a socket that listens.

    Args:
        port: 0 for any that is free.
        what: is served there, for messages.
        option: that chooses the port.

    Raises:
        SpecError: `ADDRESS_IN_USE`, `ADDRESS_NOT_AVAILABLE`.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    opened = socket.socket(family, socket.SOCK_STREAM)
    opened.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        opened.bind((host, port))
        opened.listen(128)
    except (OSError, UnicodeError) as error:
        opened.close()
        is_name = isinstance(error, UnicodeError | socket.gaierror)
        if is_name or (isinstance(error, OSError) and error.errno == errno.EADDRNOTAVAIL):
            raise SpecError(
                "ADDRESS_NOT_AVAILABLE",
                f"{what} cannot be served at {host}: "
                + ("the name cannot be resolved" if is_name else "this machine does not have the address"),
                cause=str(error),
                hint="give an address of this machine with `--host`: 127.0.0.1 for this machine only, 0.0.0.0 for all networks",
            ) from error
        raise in_use(host, port, what=what, option=option, cause=str(error)) from error
    opened.set_inheritable(False)
    return opened


def in_use(host: str, port: int, *, what: str, option: str, cause: str) -> SpecError:
    """Return the error for a port that another program has."""
    return SpecError(
        "ADDRESS_IN_USE",
        f"{what} cannot be served at {host}, port {port}",
        cause=cause,
        hint=f"choose another port with `{option}`; 0 takes any that is free",
    )
