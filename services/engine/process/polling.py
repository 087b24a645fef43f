"""Waiting for another thread or process, with a caller who may give up."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future
from concurrent.futures import TimeoutError as FutureTimeoutError
from typing import TypeVar

Result = TypeVar("Result")
# Seconds between two calls of `poll`.
POLL_SECONDS = 0.25


def is_done_within(future: Future[Result], seconds: float) -> bool:
    """Wait until `future` is done, or for so many seconds; return whether it is."""
    try:
        future.exception(seconds)
    except FutureTimeoutError:
        return False
    return True


def result_of(future: Future[Result], poll: Callable[[], None]) -> Result:
    """Return the result of `future`; `poll` is called meanwhile, and gives up by raising. Raises the future's error too."""
    while not is_done_within(future, POLL_SECONDS):
        poll()
    return future.result()
