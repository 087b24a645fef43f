"""Where a request goes, and whom it goes before.

A conversation goes to the worker that has its beginning computed, where that has a slot free, and else to whichever is free
first. People go before jobs, and of each the key that has least under way goes first.
"""

from __future__ import annotations

import time

from services.backend.types import GenerationRequest
from services.cluster.redis_client import RedisClient
from services.cluster.registry import ServedModel, WorkerHeartbeat

# Seconds for which a worker that was told so is thought to have a conversation.
_HOME_KEPT = 7 * 24 * 3600
# Seconds after which a request that nobody has ended counts as ended: its API node is gone.
_LOST_AFTER = 3600
# Seconds for which a slot is kept for a request that is on its way.
_RESERVED = 5
# The highest and the lowest priority of what somebody waits for, and of what nobody does.
_PEOPLE, _JOBS = (9, 6), (4, 1)
# A slot is taken for a request, where one is free.
_RESERVE = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
if redis.call('ZCARD', KEYS[1]) >= tonumber(ARGV[3]) then return 0 end
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[4])
return 1
"""
# A request is one more of its key's; how many these are.
_ENTER = """
redis.call('ZREMRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])
redis.call('ZADD', KEYS[1], ARGV[2], ARGV[3])
redis.call('EXPIRE', KEYS[1], 3600)
return redis.call('ZCARD', KEYS[1])
"""


class Routing:
    """What is under way, by key and by worker, in Redis. Any thread may call it. Raises what Redis's client raises."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._reserve = self._redis.register_script(_RESERVE)
        self._enter = self._redis.register_script(_ENTER)

    def enter(self, id_: str, request: GenerationRequest) -> int:
        """A request begins to wait; return its priority."""
        now = time.time()
        n_open = int(self._enter([self._asked(request)], [now, now + _LOST_AFTER, id_]))
        if request.session:
            self._redis.set(self._answering(request.owner, request.session), id_, ex=_LOST_AFTER)
        highest, lowest = _JOBS if request.background else _PEOPLE
        return max(highest - (n_open - 1), lowest)

    def leave(self, id_: str, request: GenerationRequest) -> None:
        """It has come to its end."""
        self._redis.zrem(self._asked(request), id_)
        if request.session and self.answering(request.owner, request.session) == id_:
            self._redis.unlink(self._answering(request.owner, request.session))

    def answering(self, owner: str, session: str) -> str | None:
        """The request that answers a conversation's last prompt, while it does."""
        found = self._redis.get(self._answering(owner, session))
        return None if found is None else str(found)

    def choose(self, id_: str, request: GenerationRequest, model: ServedModel, workers: list[WorkerHeartbeat]) -> str:
        """The worker whose own queue a request goes to, and which has a slot for it; "": whichever is free."""
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
        """The worker that has computed a conversation last."""
        found = self._redis.get(self._client.key("home", owner, session))
        return None if found is None else str(found)

    def forget(self, owner: str, session: str) -> None:
        """Nobody is to go on with this conversation."""
        self._redis.unlink(self._client.key("home", owner, session))

    def begin(self, id_: str, worker: str, owner: str, session: str) -> None:
        """A worker begins a request, and has the conversation from now on."""
        pipe = self._redis.pipeline()
        pipe.zadd(self._client.key("busy", worker), {id_: time.time() + _LOST_AFTER})
        if session:
            pipe.set(self._client.key("home", owner, session), worker, ex=_HOME_KEPT)
        pipe.execute()

    def end(self, id_: str, worker: str) -> None:
        """A worker is done with a request."""
        self._redis.zrem(self._client.key("busy", worker), id_)

    def reset(self, worker: str) -> None:
        """A worker of this name starts, and has nothing under way."""
        self._redis.unlink(self._client.key("busy", worker))

    def busy(self, worker: str) -> int:
        """How many requests a worker has under way."""
        return int(self._redis.zcount(self._client.key("busy", worker), time.time(), "+inf"))

    def _asked(self, request: GenerationRequest) -> str:
        who = request.account or request.owner
        return self._client.key("asked", "jobs" if request.background else "people", who)

    def _answering(self, owner: str, session: str) -> str:
        return self._client.key("answering", owner, session)
