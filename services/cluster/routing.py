"""The routing of requests: which worker computes one, and with which priority.

A conversation goes to the worker that has its state, if that has a free slot, else to the first worker that has one. People
go before jobs, and of each the keys with the fewest requests in flight go first.
"""

from __future__ import annotations

import time

from services.backend.types import GenerationRequest
from services.cluster.redis_client import RedisClient
from services.cluster.registry import ServedModel, WorkerHeartbeat

# Seconds for which a worker is taken to have a conversation's state.
_HOME_KEPT = 7 * 24 * 3600
# Seconds after which a request counts as ended in any case: its API node is gone.
_LOST_AFTER = 3600
# Seconds for which a slot is reserved for a request on its way.
_RESERVED = 5
# The highest and the lowest priority of requests that a person waits for, and of background ones.
_PEOPLE, _JOBS = (9, 6), (4, 1)
# Reserve a slot for a request, if one is free. KEYS: the worker's requests, by the time at which they end in any case.
# ARGV: the time now, when the reservation ends, the slots, the request.
_RESERVE = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[4])
return 1
"""
# Add a request to its key's, and count these. KEYS: these, by the time at which they end in any case. ARGV: the time now,
# when this one ends in any case, the request.
_ENTER = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
"""


class Routing:
    """The requests in flight, by key and by worker, in Redis. Any thread may call it. Raises what Redis's client raises."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._reserve = self._redis.register_script(_RESERVE)
        self._enter = self._redis.register_script(_ENTER)

    def enter(self, id_: str, request: GenerationRequest) -> int:
        """Add a request that begins to wait; return its priority."""
        now = time.time()
        n_open = int(self._enter([self._asked(request)], [now, now + _LOST_AFTER, id_]))
        if request.session:
            self._redis.set(self._answering(request.owner, request.session), id_, ex=_LOST_AFTER)
        highest, lowest = _JOBS if request.background else _PEOPLE
        return max(highest - (n_open - 1), lowest)

    def leave(self, id_: str, request: GenerationRequest) -> None:
        """Remove a request that has ended."""
        self._redis.zrem(self._asked(request), id_)
        if request.session and self.answering(request.owner, request.session) == id_:
            self._redis.unlink(self._answering(request.owner, request.session))

    def answering(self, owner: str, session: str) -> str | None:
        """Return the id of the request that answers a conversation now; None where none does."""
        found = self._redis.get(self._answering(owner, session))
        return None if found is None else str(found)

    def choose(self, id_: str, request: GenerationRequest, model: ServedModel, workers: list[WorkerHeartbeat]) -> str:
        """Return the worker to whose own queue a request goes, with a slot reserved there; "": any worker."""
        if not request.session or request.background or len(workers) < 2:
            return ""
        home = self.home(request.owner, request.session)
        heartbeat = next((each for each in workers if each.name == home), None)
        if (
            heartbeat is None
            or heartbeat.draining
            or (served := heartbeat.model(model.name)) is None
            or served.vocabulary != model.vocabulary
        ):
            return ""
        now = time.time()
        taken = self._reserve([self._client.key("busy", heartbeat.name)], [now, now + _RESERVED, heartbeat.slots, id_])
        return heartbeat.name if taken else ""

    def home(self, owner: str, session: str) -> str | None:
        """Return the worker that has computed a conversation last; None where it is not known."""
        found = self._redis.get(self._client.key("home", owner, session))
        return None if found is None else str(found)

    def forget(self, owner: str, session: str) -> None:
        """Forget the worker of a conversation."""
        self._redis.unlink(self._client.key("home", owner, session))

    def begin(self, id_: str, worker: str, owner: str, session: str) -> None:
        """Note that a worker begins a request, and has the conversation from now on."""
        pipe = self._redis.pipeline()
        pipe.zadd(self._client.key("busy", worker), {id_: time.time() + _LOST_AFTER})
        if session:
            pipe.set(self._client.key("home", owner, session), worker, ex=_HOME_KEPT)
        pipe.execute()

    def end(self, id_: str, worker: str) -> None:
        """Note that a worker has ended a request."""
        self._redis.zrem(self._client.key("busy", worker), id_)

    def reset(self, worker: str) -> None:
        """Forget a worker's requests: it starts anew."""
        self._redis.unlink(self._client.key("busy", worker))

    def busy(self, worker: str) -> int:
        """Return the number of requests that a worker computes."""
        return int(self._redis.zcount(self._client.key("busy", worker), time.time(), "+inf"))

    def _asked(self, request: GenerationRequest) -> str:
        who = request.account or request.owner
        return self._client.key("asked", "jobs" if request.background else "people", who)

    def _answering(self, owner: str, session: str) -> str:
        return self._client.key("answering", owner, session)
