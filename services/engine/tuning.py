"""The settings that make a model fastest on this machine: measured, one setting after the other.

Each trial loads the model, reads a prompt and decodes, alone and as many at once as the profile allows. A setting is kept
where it shortens a turn by more than the noise.
"""

from __future__ import annotations

import itertools
import os
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

from services.backend.types import LoadSettings
from services.engine.llama.batch import Run
from services.engine.llama.loading import info_of
from services.engine.llama.runner import Runner
from services.engine.machine import usable_cores
from services.errors import HearthError
from services.models.kv_shape import kv_shape
from services.models.memory import longest_chunk

# Tokens of a trial: enough for a steady speed, few enough for a large model.
READ = 256
DECODED = 24
REPEATS = 3
# Tokens read and decoded in a typical turn.
TURN_READ, TURN_DECODED = 300, 100
# Smaller improvements are noise.
MARGIN = 0.03


@dataclass(frozen=True)
class Speed:
    """Tokens a second: reading a prompt, decoding alone, and decoding `n_parallel` at once, all together."""

    read: float
    decode: float
    together: float
    n_parallel: int

    @property
    def turn_seconds(self) -> float:
        """The mean time of a turn, half of them alone and half with `n_parallel` at once."""
        alone, crowd = TURN_DECODED / self.decode, TURN_DECODED * self.n_parallel / self.together
        return TURN_READ / self.read + (alone + crowd) / 2


@dataclass(frozen=True)
class Trial:
    """A change of the settings kept so far, and its speed; `problem` says why it could not be measured.

    All later trials have a change that is `kept`.
    """

    change: dict[str, Any]
    speed: Speed | None
    problem: str = ""
    kept: bool = False


def n_trials(base: LoadSettings) -> int:
    """Return the number of trials that `tune` makes."""
    return sum(map(len, _stages(base)))


def tune(base: LoadSettings) -> Iterator[Trial]:
    """Yield a trial of `base`, then one of each change. Raises BadModelFile where the model does not load with `base`."""
    settings, best = base, measure(base)
    yield Trial({}, best)
    for change in itertools.chain(*_stages(base)[1:]):
        try:
            speed = measure(replace(settings, **change))
        except HearthError as error:
            yield Trial(change, None, error.message)
            continue
        kept = speed.turn_seconds < best.turn_seconds * (1 - MARGIN)
        if kept:
            settings, best = replace(settings, **change), speed
        yield Trial(change, speed, kept=kept)


def measure(settings: LoadSettings) -> Speed:
    """Load the model with these settings, and measure its speed. Raises BadModelFile."""
    runner = Runner(replace(settings, n_ctx=min(settings.n_ctx or 4 * READ, 4 * READ)))
    try:
        n_read = min(READ, runner.n_ctx // 2)
        # Once unmeasured, since the first steps touch new memory.
        _read(runner, n_read)
        # The best of a few, since noise only ever slows.
        read = n_read / min(_read(runner, n_read) for _ in range(REPEATS))
        decode = max(_decode(runner, n_read, 1) for _ in range(REPEATS))
        state = runner.snapshot(0)
        for slot in range(1, runner.n_slots):
            runner.restore(slot, state)
        together = max(_decode(runner, n_read, runner.n_slots) for _ in range(REPEATS))
        return Speed(read, decode, together, runner.n_slots)
    finally:
        runner.close()


def _stages(base: LoadSettings) -> list[list[dict[str, Any]]]:
    """Return the changes to try, in stages, of each of which the best is kept."""
    threads = sorted({1, max(1, usable_cores() // 2), usable_cores(), os.cpu_count() or 1})
    now = asdict(base)
    stages: list[list[dict[str, Any]]] = [
        [{"n_threads_batch": n} for n in threads],
        [{"n_threads": n} for n in threads],
        [{"n_batch": n, "n_ubatch": n} for n in (64, 128, 256, 512)],
        [{"flash_attn": flag} for flag in (True, False)],
        [{"cache_type_k": kind, "cache_type_v": kind} for kind in ("f16", "q8_0")],
    ]
    defaults = {
        "n_threads": usable_cores(),
        "n_threads_batch": now["n_threads"] or usable_cores(),
        "n_batch": longest_chunk(None, kv_shape(info_of(base))),
    }
    for name, value in defaults.items():
        now[name] = now[name] or value
    return [[{}], *([change for change in stage if not _is_set(change, now)] for stage in stages)]


def _is_set(change: dict[str, Any], now: dict[str, Any]) -> bool:
    """Return whether the settings have the change already."""
    name, value = next(iter(change.items()))
    return bool(now[name] == value)


def _read(runner: Runner, n_tokens: int) -> float:
    """Read `n_tokens` into an empty slot, in the engine's chunks; return the seconds."""
    runner.keep(0, 0)
    started = time.perf_counter()
    for start in range(0, n_tokens, runner.step_tokens):
        end = min(start + runner.step_tokens, n_tokens)
        runner.decode([Run(0, start, [_token(runner, n) for n in range(start, end)], sampled=end == n_tokens)])
    return time.perf_counter() - started


def _decode(runner: Runner, depth: int, n_slots: int) -> float:
    """Decode in `n_slots` at once, from `depth` tokens on; return the tokens a second of all together."""
    started = time.perf_counter()
    for n in range(DECODED):
        runner.decode([Run(slot, depth + n, [_token(runner, n)], sampled=True) for slot in range(n_slots)])
    seconds = time.perf_counter() - started
    for slot in range(n_slots):
        runner.keep(slot, depth)
    return n_slots * DECODED / seconds


def _token(runner: Runner, n: int) -> int:
    """Return the `n`-th token to compute: the time does not depend on which tokens they are."""
    return (97 * n + 13) % runner.vocabulary.size
