"""Ports that nobody listens on."""

from __future__ import annotations

import itertools
import os
import random
import socket

# Below those that the kernel gives away by itself (ip_local_port_range), and a range for each of pytest's processes.
_NUMBER = int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw"))
_candidates = itertools.count(10_000 + 5_000 * (_NUMBER % 4) + random.randrange(4_000))


def free_port() -> int:
    """Return a port of the loopback that nothing else is given before it is used."""
    for port in _candidates:
        with socket.socket() as tried:
            try:
                tried.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise AssertionError
