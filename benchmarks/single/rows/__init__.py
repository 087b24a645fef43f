"""The workloads. Each is a function of the bench and the pair's number, and returns the results of both servers."""

from __future__ import annotations

from collections.abc import Callable

from benchmarks.single.bench import Bench, Pair, in_turn
from benchmarks.single.rows.costs import overhead, start, store
from benchmarks.single.rows.kernels import kernels
from benchmarks.single.rows.schemas import schema
from benchmarks.single.rows.sharing import leave, stall
from benchmarks.single.rows.speed import eight, single, users
from benchmarks.single.rows.talks import long_talk, restart, shifting, twelve

ROWS: dict[str, Callable[[Bench, int], Pair]] = {
    "single": in_turn(single),
    "eight": in_turn(eight),
    "users": in_turn(users),
    "schema": in_turn(schema),
    "long-talk": in_turn(long_talk),
    "twelve": in_turn(twelve),
    "restart": in_turn(restart),
    "stall": in_turn(stall),
    "leave": in_turn(leave),
    "overhead": overhead,
    "store": store,
    "start": in_turn(start),
    "shifting": shifting,
    "kernels": kernels,
}
