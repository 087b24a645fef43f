"""The hosts that a hub's library may connect to: those that the owner allows, and no address of the own network.

A hub could otherwise redirect a download to an address that only this machine can reach (SSRF). The address that is checked
is the one that is connected to, so that a name cannot resolve to another one in between.
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
from huggingface_hub import constants
from typing_extensions import override

from services.errors import PullFailed
from services.models.hub_internals import use_client

# Seconds without a byte after which a hub is given up.
_TIMEOUT = 60.0
_lock = threading.Lock()
_allowed: tuple[tuple[str, ...], str] | None = None
"""The hosts and the endpoint that the library's client may reach now; protected by `_lock`."""


def endpoint() -> str:
    """Return the address of the hub: HF_ENDPOINT, or huggingface.co. The library reads the variable at its import only."""
    return os.environ.get("HF_ENDPOINT", constants.ENDPOINT).rstrip("/")


def reach_only(hosts: Sequence[str]) -> None:
    """Let the hub's library reach these hosts ("*.NAME": all below NAME) and HF_ENDPOINT's only, for the whole process.

    Its requests then raise PullFailed for other hosts, and for hosts at an address that is not public.
    """
    global _allowed
    wanted = (tuple(hosts), endpoint())
    own = {urlsplit(endpoint()).hostname or ""} if "HF_ENDPOINT" in os.environ else set()
    proxies = {urlsplit(url if "//" in url else f"//{url}").hostname or "" for url in urllib.request.getproxies().values()}

    def check(request: httpx2.Request) -> None:
        host = request.url.host
        if host not in own and not any(fnmatch(host, pattern) for pattern in hosts):
            what = f"the hub leads to {host}, and models are fetched from {', '.join(hosts)} only (--pull-hosts)"
            public = f"the hub leads to {host}, from which this server fetches no models"
            raise PullFailed(what, param="source", code="host_not_allowed", public=public)

    with _lock:
        # Another client would end the downloads of this one.
        if _allowed != wanted:
            use_client(check, _PublicOnly(own | proxies), _TIMEOUT)
            _allowed = wanted


class _PublicOnly(httpcore2.SyncBackend):
    """Connects to public addresses, and to the hosts that the owner named as the hub or a proxy."""

    def __init__(self, trusted: set[str]) -> None:
        self._trusted = trusted

    @override
    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        if host in self._trusted:
            return super().connect_tcp(host, port, *arguments, **named)
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} is not known: {error.strerror}") from error
        for address in sorted(map(str, found)):
            if not is_public(address):
                what = f"{host} leads to {address}, which is no public address"
                raise PullFailed(what, param="source", code="private_address")
        failed: Exception | None = None
        for address in sorted(map(str, found)):
            try:
                return super().connect_tcp(address, port, *arguments, **named)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore2.ConnectError(f"{host} has no address")


def is_public(address: str) -> bool:
    """Return whether an IP address, as text, is one of the internet, and not of this machine or its network."""
    ip = ipaddress.ip_address(address.partition("%")[0])
    mapped = getattr(ip, "ipv4_mapped", None) or getattr(ip, "sixtofour", None)
    return ip.is_global and not ip.is_multicast and (mapped is None or mapped.is_global)
