"""Flower, Celery's own page: tasks as they come and go."""

from __future__ import annotations

import ipaddress
import os

from services.cluster.broker import make_celery
from services.cluster.settings import ClusterSettings
from services.errors import InvalidRequest


def run_flower(settings: ClusterSettings, host: str, port: str) -> int:
    """Serve Flower until Ctrl+C; its other options are environment variables (FLOWER_BASIC_AUTH and so on).

    Raises InvalidRequest where others could reach it without a password.
    """
    if not _is_loopback(host) and not any(os.environ.get(f"FLOWER_{name}") for name in ("BASIC_AUTH", "AUTH")):
        what = f"on {host} others could reach Flower: set FLOWER_BASIC_AUTH=NAME:PASSWORD, or leave --host out"
        raise InvalidRequest(what)
    print(f"Flower listens on http://{host}:{port} (Ctrl+C stops it).", flush=True)
    make_celery(settings).start(["flower", f"--address={host}", f"--port={port}"])
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
