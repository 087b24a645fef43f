"""The orders that API nodes give to workers.

An order to all workers is JSON, published on a channel of Redis: `{"do": ORDER, …}` with the fields that the comments
below name. A worker passes over an order that it does not know. Those about a request also stand in its state in Redis.
"""

from __future__ import annotations

from enum import Enum

CHANNEL = "orders"


class Order(str, Enum):
    """An order to a worker."""

    # "id" of a request: end it with the text so far.
    STOP = "stop"
    # "id" of a request: end its thoughts, and go on with the answer.
    STOP_THINKING = "stop_thinking"
    # "id" of a request: break it off.
    CANCEL = "cancel"
    # "worker" (its name; "" for all), "settings", "prefetch": compute the state of a prompt's beginning.
    PREFETCH = "prefetch"
    # "owner", "session": remove a conversation's computed states.
    FORGET = "forget"
    # "file": free a model's memory.
    UNLOAD = "unload"
