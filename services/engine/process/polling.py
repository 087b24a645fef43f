"""Waiting for what another thread or process does, without being kept by it."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")
# How often whoever waits is asked whether to give up, in seconds.
POLL_SECONDS = 0.25


def result_of(future: Future[Result], poll: Callable[[], None]) -> Result:
    """What comes of it; `poll` is called all the while, and gives up by what it raises. Raises what comes of it, too."""
    while not wait([future], POLL_SECONDS).done:
        poll()
    return future.result()
