"""A cluster as a queueing model (simpy), fed with measured service times: waiting times for the first token.

People think for an exponential time, ask, and read the answer as it comes. A worker with a free slot takes the request: the
one that has the conversation, if it can, else the one with the fewest answers in flight, which reads the whole conversation
again. A worker reads one prompt at a time, and decodes all its answers together, step by step; reading and decoding share
the time. Between two changes of a worker's load its pace is constant, so that only these changes are events.
"""

from __future__ import annotations

import heapq
import itertools
import math
from collections.abc import Generator
from dataclasses import dataclass, field
from random import Random
from statistics import median
from typing import Any

import simpy


@dataclass(frozen=True)
class Service:
    """A worker's speeds: seconds a step by answers at once, tokens read a second, seconds of the way through the broker."""

    steps: dict[int, float]
    read: float
    road: float
    slots: int = 8

    def step(self, n: int) -> float:
        """Return the seconds of a step for `n` answers, interpolated between the measured counts."""
        known = sorted(self.steps)
        if n in self.steps or not n:
            return self.steps.get(n, 0.0)
        above = next((each for each in known if each > n), known[-1])
        below = max((each for each in known if each < n), default=above)
        share = (n - below) / (above - below) if above > below else 0.0
        return self.steps[below] + share * (self.steps[above] - self.steps[below])


@dataclass(frozen=True)
class Habits:
    """People's habits: seconds between an answer and the next prompt; tokens of a prompt, a talk and an answer."""

    think: float
    prompt: int = 85
    talk: int = 900
    answer: int = 100


@dataclass(eq=False)
class _Answer:
    person: int
    asked: float
    to_read: float
    to_write: float
    first: simpy.Event
    done: simpy.Event


@dataclass(eq=False)
class _Worker:
    """A worker's load: requests whose prompts are still to be read, in order, and requests that are decoding."""

    service: Service
    reading: list[_Answer] = field(default_factory=list)
    writing: list[_Answer] = field(default_factory=list)
    at: float = 0.0
    version: int = 0

    @property
    def n_open(self) -> int:
        return len(self.reading) + len(self.writing)

    def paces(self) -> tuple[float, float]:
        """Return the tokens a second of the prompt being read, and of each answer being written: both share the time."""
        share = 0.5 if self.reading and self.writing else 1.0
        step = self.service.step(len(self.writing))
        return (share * self.service.read if self.reading else 0.0), (share / step if step else 0.0)

    def advance(self, now: float) -> None:
        read, write = self.paces()
        if self.reading:
            self.reading[0].to_read -= read * (now - self.at)
        for each in self.writing:
            each.to_write -= write * (now - self.at)
        self.at = now

    def next_change(self) -> float:
        """Return the seconds until a prompt has been read or an answer ends."""
        read, write = self.paces()
        spans = [self.reading[0].to_read / read] if self.reading else []
        spans += [min(each.to_write for each in self.writing) / write] if self.writing else []
        return max(min(spans, default=math.inf), 0.0)


class Simulation:
    """So many people at so many workers."""

    def __init__(self, service: Service, habits: Habits, users: int, workers: int, seed: int = 0) -> None:
        self._env = simpy.Environment()
        self._service = service
        self._habits = habits
        self._rng = Random(seed)
        self._workers = [_Worker(service) for _ in range(workers)]
        # Ordered by the load of each, then in turns, as RabbitMQ serves its consumers.
        self._idle: list[tuple[int, int, int]] = [(0, n, n) for n in range(workers)]
        self._turns = itertools.count(workers)
        self._home: dict[int, int] = {}
        self._waiting: list[_Answer] = []
        self.firsts: list[float] = []
        for person in range(users):
            self._env.process(self._live(person))

    def run(self, seconds: float, warm_up: float) -> list[float]:
        """Return the seconds to the first token of each request after the warm-up."""
        self._warm_up = warm_up
        self._env.run(warm_up + seconds)
        # A request that still waits has waited for at least this long.
        late = [self._env.now - each.asked for each in self._waiting if each.asked > warm_up]
        return self.firsts + late

    def _live(self, person: int) -> Generator[Any, Any, None]:
        env = self._env
        yield env.timeout(self._rng.uniform(0, self._habits.think))
        while True:
            answer = _Answer(person, env.now, 0.0, self._habits.answer, env.event(), env.event())
            self._place(answer)
            yield answer.first
            if answer.asked > self._warm_up:
                self.firsts.append(env.now - answer.asked + self._service.road)
            yield answer.done
            yield env.timeout(self._rng.expovariate(1 / self._habits.think))

    def _place(self, answer: _Answer) -> None:
        home = self._home.get(answer.person)
        if home is not None and self._workers[home].n_open < self._service.slots:
            return self._begin(answer, home)
        while self._idle:
            # An entry may be out of date; it is corrected when it is read.
            n_open, _, worker = heapq.heappop(self._idle)
            now = self._workers[worker].n_open
            if now != n_open:
                continue
            if now < self._service.slots:
                return self._begin(answer, worker)
        self._waiting.append(answer)
        return None

    def _begin(self, answer: _Answer, number: int) -> None:
        worker, habits = self._workers[number], self._habits
        kept = self._home.get(answer.person) == number
        answer.to_read = habits.prompt + (0 if kept else habits.talk)
        self._home[answer.person] = number
        worker.advance(self._env.now)
        worker.reading.append(answer)
        self._changed(number)

    def _changed(self, number: int) -> None:
        worker = self._workers[number]
        worker.version += 1
        if worker.n_open < self._service.slots:
            heapq.heappush(self._idle, (worker.n_open, next(self._turns), number))
        if worker.n_open:
            event = self._env.timeout(worker.next_change(), worker.version)
            event.callbacks.append(lambda fired: self._step(number, fired.value))

    def _step(self, number: int, version: int) -> None:
        worker = self._workers[number]
        if version != worker.version:
            return
        worker.advance(self._env.now)
        if worker.reading and worker.reading[0].to_read <= 1e-9:
            answer = worker.reading.pop(0)
            answer.first.succeed()
            worker.writing.append(answer)
        for answer in [each for each in worker.writing if each.to_write <= 1e-9]:
            worker.writing.remove(answer)
            answer.done.succeed()
            if self._waiting:
                self._begin(self._waiting.pop(0), number)
        self._changed(number)


def waits(service: Service, habits: Habits, users: int, workers: int, seconds: float = 0.0, seed: int = 0) -> list[float]:
    """Return the sorted waits, in seconds, of a run of several hundred prompts in the steady state."""
    seconds = seconds or max(4 * habits.think, min(2000.0, 400 * habits.think / users))
    return sorted(Simulation(service, habits, users, workers, seed).run(seconds, 3 * habits.think + 60))


def share_within(firsts: list[float], seconds: float = 1.0) -> float:
    """Return the share of prompts whose first token came in time, from 0 to 1."""
    return sum(first <= seconds for first in firsts) / max(len(firsts), 1)


def workers_needed(service: Service, habits: Habits, users: int, share: float = 0.95) -> int:
    """Return the fewest workers with which that share of the prompts has its first token within a second."""
    low, high = 0, 1
    while share_within(waits(service, habits, users, high)) < share:
        if high > users:
            raise ValueError("not even a worker for each of them would do: a prompt takes too long to read")
        low, high = high, 2 * high
    while high - low > max(1, high // 50):
        middle = (low + high) // 2
        if share_within(waits(service, habits, users, middle)) < share:
            low = middle
        else:
            high = middle
    return high


def quantile(values: list[float], share: float) -> float:
    """Return the quantile `share` of sorted values."""
    return values[min(len(values) - 1, math.ceil(share * len(values)) - 1)]


__all__ = ["Habits", "Service", "Simulation", "median", "quantile", "share_within", "waits", "workers_needed"]
