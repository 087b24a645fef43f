"""Under which names the server is asked: a page of elsewhere whose name is made to lead here (DNS rebinding) is refused."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from flask import Flask, request

from services.errors import Forbidden

# Misdirected Request (RFC 9110).
_STATUS = 421
# Headers may be as many as somebody likes.
_MOST_KNOWN = 100


class Hosts:
    """The names of this server.

    They are localhost, this machine's name, the address that it listens on, and those that its owner names. Where others
    reach it, any address in numbers is good as well: no name was made to lead there.
    """

    def __init__(self, listens_on: str, named: Iterable[str] = ()) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", listens_on.lower(), *(name.lower() for name in named)}
        self._takes_any = "*" in self._names
        address = _address(listens_on)
        self._known: dict[str, bool] = {}
        """What was found out about a Host header before."""
        self._is_local = listens_on == "localhost" or bool(address and address.is_loopback)

    def add(self, name: str) -> None:
        """Take this name, too."""
        self._names.add(name.lower())
        self._known.clear()

    def takes(self, host: str) -> bool:
        """Whether a Host header names this server; "" is what a client of HTTP/1.0 sends."""
        if self._takes_any or not host:
            return True
        name = _without_port(host).lower().rstrip(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        address = _address(name)
        return bool(address and (address.is_loopback or not self._is_local))

    def check_requests(self, app: Flask) -> None:
        """Refuse every request to `app` under another name."""

        @app.before_request
        def check() -> None:
            host = request.environ.get("HTTP_HOST", "")
            if host not in self._known:
                if len(self._known) > _MOST_KNOWN:
                    self._known.clear()
                self._known[host] = self.takes(host)
            if not self._known.get(host, False):
                what = "this server does not answer to the name in the Host header; --allowed-hosts NAME makes it"
                raise Forbidden(what, _STATUS, param="Host", code="host_not_allowed")


def _without_port(host: str) -> str:
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return host.rpartition(":")[0] if host.count(":") == 1 else host


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(name)
    except ValueError:
        return None
