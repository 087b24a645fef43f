"""The names of the server in the Host header: other names are refused, against DNS rebinding by web pages."""

from __future__ import annotations

import ipaddress
import socket
from collections.abc import Iterable

from flask import Flask, request

from services.errors import Forbidden

# Misdirected Request (RFC 9110).
_STATUS = 421
# Host headers whose check is remembered; a client may invent as many as it likes.
_MOST_KNOWN = 100


class Hosts:
    """The names of this server. Any thread may call it.

    They are localhost, this machine's name, the address that it listens on, and the names that its owner allows. Where
    other machines reach it, any numeric address is accepted as well: DNS rebinding needs a name.
    """

    def __init__(self, listens_on: str, named: Iterable[str] = ()) -> None:
        own = socket.gethostname().lower()
        self._names = {"localhost", own, f"{own}.local", listens_on.lower(), *(name.lower() for name in named)}
        self._takes_any = "*" in self._names
        address = _address(listens_on)
        self._known: dict[str, bool] = {}
        """Whether each of the last Host headers was accepted."""
        self._is_local = listens_on == "localhost" or bool(address and address.is_loopback)

    def add(self, name: str) -> None:
        """Accept this name, too."""
        self._names.add(name.lower())
        self._known.clear()

    def takes(self, host: str) -> bool:
        """Return whether a Host header names this server; "" stands for the missing header of HTTP/1.0."""
        if self._takes_any or not host:
            return True
        name = _without_port(host).lower().rstrip(".")
        if name in self._names or name.endswith(".localhost"):
            return True
        address = _address(name)
        return bool(address and (address.is_loopback or not self._is_local))

    def check_requests(self, app: Flask) -> None:
        """Make `app` refuse every request whose Host header is another name."""

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
