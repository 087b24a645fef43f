"""The workloads. Each is a function of the bench and the pair's number, and returns the results of both servers."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.harness.servers import OWN
from benchmarks.single.bench import Bench, Pair, in_turn
from benchmarks.single.rows.chats import CHECKPOINT_FLAGS, TOOLS_TEMPLATE, edit, tools
from benchmarks.single.rows.copies import copy
from benchmarks.single.rows.costs import overhead, start, store
from benchmarks.single.rows.drafts import paste
from benchmarks.single.rows.kernels import kernels
from benchmarks.single.rows.logprobs import logprobs
from benchmarks.single.rows.memory import memory
from benchmarks.single.rows.schemas import schema
from benchmarks.single.rows.sharing import crowd, leave, stall
from benchmarks.single.rows.speed import eight, prompt, single, small, users
from benchmarks.single.rows.talks import long_talk, restart, shifting, twelve

ROWS: dict[str, Callable[[Bench, int], Pair]] = {
    "single": in_turn(single),
    "eight": in_turn(eight),
    "small": in_turn(small),
    "users": in_turn(users),
    "prompt": in_turn(prompt),
    "json": in_turn(schema),
    "logprobs": in_turn(logprobs),
    "copy": copy,
    "edit": in_turn(edit, chat=OWN, flags=CHECKPOINT_FLAGS),
    "tools": in_turn(tools, chat=TOOLS_TEMPLATE, flags=CHECKPOINT_FLAGS),
    "paste": paste,
    "long-talk": in_turn(long_talk),
    "twelve": in_turn(twelve),
    "crowd": in_turn(crowd),
    "restart": in_turn(restart),
    "stall": in_turn(stall),
    "leave": in_turn(leave),
    "overhead": overhead,
    "store": store,
    "start": in_turn(start),
    "memory": memory,
    "shifting": shifting,
    "kernels": kernels,
}
# Rows that do not depend on the model are measured with the synthetic one, which itself cannot copy a text.
_ONE_MODEL = {"overhead", "store", "shifting"}
_TRAINED = {"copy"}


def rows_of(bench: Bench) -> list[str]:
    """Return the names of the rows to measure with a model where none are named."""
    left_out = _TRAINED if bench.is_synthetic else _ONE_MODEL
    return [name for name in ROWS if name not in left_out]
