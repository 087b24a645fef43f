"""Objects that are made on the thread that works for them: llama.cpp's contexts, and what the system binds to a thread."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import Future
from typing import TypeVar

T = TypeVar("T")


def open_on_own_thread(name: str, make: Callable[[], T], run: Callable[[T], object]) -> T:
    """Start a thread called `name` that makes an object and then runs it; return the object. Raises what `make` raises."""
    opened: Future[T] = Future()

    def work() -> None:
        try:
            made = make()
        except BaseException as error:
            opened.set_exception(error)
            return
        opened.set_result(made)
        run(made)

    threading.Thread(target=work, name=name, daemon=True).start()
    return opened.result()
