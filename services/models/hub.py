"""How the hub is reached: at the hosts that the owner allows, and never at an address of the own network.

Whoever answers for a hub could otherwise redirect a download to what only this machine can reach (SSRF). The address that
is checked is the one that is connected to, so that a name cannot lead elsewhere in between.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import urllib.request
from collections.abc import Sequence
from fnmatch import fnmatch
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.utils._http import hf_request_event_hook

from services.errors import PullFailed

# Seconds without a byte after which a hub is given up.
_PATIENCE = 60.0
_turn = threading.Lock()
_reached: tuple[str, ...] | None = None
"""The hosts that the library's client reaches now."""


def reach_only(hosts: Sequence[str]) -> None:
    """Have the hub's library ask these hosts only ("*.NAME" are all below), and the one that HF_ENDPOINT names."""
    global _reached
    with _turn:
        if _reached == tuple(hosts):
            # Another client would end the downloads of this one.
            return
        _reached = tuple(hosts)
    endpoint = urlsplit(constants.ENDPOINT).hostname or ""
    own = {endpoint} if "HF_ENDPOINT" in os.environ else set()
    proxies = {urlsplit(url if "//" in url else f"//{url}").hostname or "" for url in urllib.request.getproxies().values()}

    def check(request: httpx2.Request) -> None:
        host = request.url.host
        if host not in own and not any(fnmatch(host, pattern) for pattern in hosts):
            what = f"the hub leads to {host}, and models are fetched from {', '.join(hosts)} only (--pull-hosts)"
            raise PullFailed(what, param="source", code="host_not_allowed")
        hf_request_event_hook(request)

    def client() -> httpx2.Client:
        made = httpx2.Client(event_hooks={"request": [check]}, follow_redirects=True, timeout=_PATIENCE)
        for transport in (made._transport, *made._mounts.values()):
            if isinstance(transport, httpx2.HTTPTransport):
                transport._pool._network_backend = _PublicOnly(own | proxies)
        return made

    set_client_factory(client)


class _PublicOnly(httpcore2.SyncBackend):
    """Connects to public addresses, and to hosts that the owner has named as the hub or a proxy."""

    def __init__(self, trusted: set[str]) -> None:
        self._trusted = trusted

    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        if host in self._trusted:
            return super().connect_tcp(host, port, *arguments, **named)
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} is not known: {error.strerror}") from error
        for address in sorted(map(str, found)):
            if not _is_public(address):
                what = f"{host} leads to {address}, which is no public address"
                raise PullFailed(what, param="source", code="private_address")
        failed: Exception | None = None
        for address in sorted(map(str, found)):
            try:
                return super().connect_tcp(address, port, *arguments, **named)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore2.ConnectError(f"{host} has no address")


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)
