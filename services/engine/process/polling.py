"""Waiting for another thread or process, with a caller who may give up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, wait
from typing import TypeVar

Result = TypeVar("Result")
# Seconds between two calls of `poll`.
POLL_SECONDS = 0.25


def result_of(future: Future[Result], poll: Callable[[], None]) -> Result:
    """Return the result of `future`; `poll` is called meanwhile, and gives up by raising. Raises the future's error too."""
    while not wait([future], POLL_SECONDS).done:
        poll()
    return future.result()
