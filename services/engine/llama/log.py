"""llama.cpp's log messages, forwarded to Python's log; its last errors and cache sizes are kept for the caller."""

from __future__ import annotations

import ctypes
import logging
import re
from collections import deque

from services.engine.llama.bindings import llama_cpp

log = logging.getLogger("llama.cpp")

# ggml.h, enum ggml_log_level; 5 continues the previous message.
_LEVELS = {1: logging.DEBUG, 2: logging.INFO, 3: logging.WARNING, 4: logging.ERROR}
_errors: deque[str] = deque(maxlen=4)
# The message about each KV cache, and about recurrent layers' states, when a context is made.
_CACHE_SIZE = re.compile(r"llama_(?:kv_cache|memory_recurrent)[\w:]*: size = +([\d.]+) MiB")
_cache_sizes: list[float] = []


def show_all(verbose: bool) -> None:
    """Show every message (a profile's `verbose`), or none: errors are reported by their callers."""
    # Each time, since llama-cpp-python's package sets its own callback when it is imported.
    llama_cpp.llama_log_set(_forward, ctypes.c_void_p(0))
    log.setLevel(logging.DEBUG if verbose else logging.CRITICAL)


def take_errors() -> str:
    """Return the errors since the last call, as one line; "" if there were none."""
    text = "; ".join(_errors)
    _errors.clear()
    return text


def take_cache_bytes() -> int:
    """Return the bytes of the caches made since the last call, by llama.cpp's own count; 0 if there were none."""
    total = sum(_cache_sizes)
    _cache_sizes.clear()
    return round(total * 2**20)


@llama_cpp.llama_log_callback
def _forward(level: int, text: bytes, _user_data: ctypes.c_void_p) -> None:
    message = text.decode("utf-8", "replace").rstrip()
    if not message.strip(" ."):
        return
    if _LEVELS.get(level) == logging.ERROR:
        _errors.append(message)
    if size := _CACHE_SIZE.match(message):
        _cache_sizes.append(float(size[1]))
    log.log(_LEVELS.get(level, logging.DEBUG), "%s", message)


# The module keeps `_forward` alive: llama.cpp would crash on a garbage-collected callback.
show_all(False)
