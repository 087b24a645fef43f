"""The keyless address: a second one, on this machine, whose requests count as one key's, for clients that send none.

Ollama's clients have none. Whoever reaches the address may use it, so that it is an address of the loopback alone, and web
pages of other origins are turned away.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

# The WSGI environment of a request to this address has the id of its key under this name, which no header can set.
KEYLESS = "hearth.keyless"
_WRITTEN = re.compile(r"(?P<host>[^=]+):(?P<port>[0-9]{1,5})=(?P<key>[^=]+)")
_RUNNING = b"Ollama is running"

WsgiApp = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


@dataclass(frozen=True)
class KeylessAddress:
    """The address that it listens on, and the id of the key that its requests count as."""

    host: str
    port: int
    key_id: str


def parse_keyless(text: str) -> KeylessAddress:
    """Return the keyless address of a setting, ADDRESS:PORT=KEY_ID. Raises ValueError, saying what is wrong."""
    found = _WRITTEN.fullmatch(text)
    if not found or int(found["port"]) > 65_535:
        raise ValueError(f"ollama should be ADDRESS:PORT=KEY_ID, as 127.0.0.1:11434=2, not {text!r}")
    host = found["host"].strip("[]")
    if not _is_loopback(host):
        what = "without a key, whoever reaches it may use it"
        raise ValueError(f"ollama should listen on this machine alone, as on 127.0.0.1, not on {host}: {what}")
    return KeylessAddress(host, int(found["port"]), found["key"])


def keyless_app(app: WsgiApp, address: KeylessAddress) -> WsgiApp:
    """Return the application as it is served at this address, where `/` says that Ollama is running."""

    def served(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        method = environ["REQUEST_METHOD"]
        if environ.get("PATH_INFO") == "/" and method in ("GET", "HEAD"):
            headers = [("Content-Type", "text/plain; charset=utf-8"), ("Content-Length", str(len(_RUNNING)))]
            start_response("200 OK", headers)
            return [_RUNNING if method == "GET" else b""]
        return app({**environ, KEYLESS: address.key_id}, start_response)

    return served


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
