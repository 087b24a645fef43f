"""A second door for clients that cannot send a key: an address of this machine whose requests count as one key's.

Ollama's clients have none. Whoever reaches the address may use it, so that it is an address of the loopback alone, and web
pages of other origins are turned away.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

# The WSGI environment of a request by the door has the id of its key under this name, which no header can set.
DOOR = "hearth.door"
_WRITTEN = re.compile(r"(?P<host>[^=]+):(?P<port>[0-9]{1,5})=(?P<key>[^=]+)")
_RUNNING = b"Ollama is running"

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class Door:
    """The address that it listens on, and the id of the key that its requests count as."""

    host: str
    port: int
    key_id: str


def parse_door(text: str) -> Door:
    """Return the door of a setting, ADDRESS:PORT=KEY_ID. Raises ValueError, saying what is wrong."""
    found = _WRITTEN.fullmatch(text)
    if not found or int(found["port"]) > 65_535:
        raise ValueError(f"ollama should be ADDRESS:PORT=KEY_ID, as 127.0.0.1:11434=2, not {text!r}")
    host = found["host"].strip("[]")
    if not _is_loopback(host):
        what = "without a key, whoever reaches it may use it"
        raise ValueError(f"ollama should listen on this machine alone, as on 127.0.0.1, not on {host}: {what}")
    return Door(host, int(found["port"]), found["key"])


def through_door(app: WsgiApp, door: Door) -> WsgiApp:
    """Return the application as it is served at the door, where `/` says that Ollama is running."""

    def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if environ.get("PATH_INFO") == "/" and method in ("GET", "HEAD"):
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_RUNNING)))]
            start_response("200 OK", headers)
            return [_RUNNING if method == "GET" else b""]
        return app({**environ, DOOR: door.key_id}, start_response)

    return served


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
