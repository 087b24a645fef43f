"""A cluster's jobs in Redis: what is still to be computed, by whom, and for a day what came of it."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from services.cluster.redis_client import RedisClient, is_away, reached
from services.cluster.registry import Liveness
from services.jobs.store import KEPT_FOR, JobKey, JobRequest, Reply, StoredJob
from services.sessions.table import Kept

log = logging.getLogger(__name__)

# Seconds after which a job is anybody's whose server does not say that it computes it: longer than Redis may be away. That
# of a server that is gone is so sooner.
_CLAIMED = 180
_RENEW = 5.0
# KEYS: the claim. Redis may have taken it, and its reply been lost.
_CLAIM = """
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
# KEYS: an owner's jobs by the time at which they are forgotten, their sizes, and the sum of these. Those whose time is over
# are taken out; then ARGV: the time now, and of one job its name, when it is forgotten ("": it is now), and its size.
_COUNT = """
local function drop(id)
  redis.call('ZREM', KEYS[1], id)
  redis.call('DECRBY', KEYS[3], redis.call('HGET', KEYS[2], id) or 0)
  redis.call('HDEL', KEYS[2], id)
end
for _, id in ipairs(redis.call('ZRANGEBYSCORE', KEYS[1], '-inf', ARGV[1])) do drop(id) end
if ARGV[2] then
  drop(ARGV[2])
  if ARGV[3] ~= '' then
    redis.call('ZADD', KEYS[1], ARGV[3], ARGV[2])
    redis.call('HSET', KEYS[2], ARGV[2], ARGV[4])
    redis.call('INCRBY', KEYS[3], ARGV[4])
  end
end
return {redis.call('ZCARD', KEYS[1]), tonumber(redis.call('GET', KEYS[3]) or '0')}
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisJobTable:
    """See `JobTable`. All raise Unavailable where Redis is away. `_lock` protects the claims, which a thread renews."""

    is_shared = True

    def __init__(self, client: RedisClient, node: str, liveness: Liveness | None = None) -> None:
        """`node` is the name of the API node that claims; `liveness` says whose claims are good no more."""
        self._liveness = liveness
        self._client = client
        self._redis = client.redis
        self._node = node
        self._claim = self._redis.register_script(_CLAIM)
        self._release = self._redis.register_script(_RELEASE)
        self._count = self._redis.register_script(_COUNT)
        self._lock = threading.Lock()
        self._mine: set[JobKey] = set()
        self.on_lost: Callable[[JobKey], object] = lambda _key: None
        """Called with a job that another server has claimed, too."""
        threading.Thread(target=self._keep, name="claims", daemon=True).start()

    def get(self, key: JobKey) -> StoredJob | None:
        """See `JobTable.get`."""
        with reached():
            text = self._redis.get(self._name(key))
        return None if text is None else _job(json.loads(text))

    def everything(self) -> list[StoredJob]:
        """All that there are."""
        with reached():
            found = [self._redis.get(name) for name in self._redis.scan_iter(self._client.key("job", "*"))]
        return sorted((_job(json.loads(text)) for text in found if text), key=lambda job: job.created)

    def unfinished(self) -> list[StoredJob]:
        """See `JobTable.unfinished`."""
        with reached():
            keys = [JobKey(*json.loads(each)) for each in self._redis.smembers(self._client.key("jobs"))]
            found = [(key, self.get(key)) for key in keys]
            if gone := [_member(key) for key, job in found if job is None or job.finished is not None]:
                self._redis.srem(self._client.key("jobs"), *gone)
        return sorted((job for _, job in found if job and job.finished is None), key=lambda job: job.created)

    def add(self, job: StoredJob) -> None:
        """See `JobTable.add`."""
        reply = job.reply
        told: dict[str, Any] = {
            "key": [job.key.owner, job.key.id],
            "path": job.request.path,
            "body": _text(job.request.body) if job.finished is None else "",
            "digest": job.request.digest,
            "session": job.request.session,
            "state": job.state,
            "created": job.created,
            "finished": job.finished,
            "reply": [reply.status, reply.content_type, _text(reply.body)] if reply else None,
        }
        with reached():
            pipe = self._redis.pipeline()
            pipe.set(self._name(job.key), json.dumps(told), ex=None if job.finished is None else int(KEPT_FOR))
            (pipe.sadd if job.finished is None else pipe.srem)(self._client.key("jobs"), _member(job.key))
            if job.request.session:
                of_session, now = self._of(job.key.owner, job.request.session), time.time()
                pipe.zadd(of_session, {job.key.id: now})
                pipe.zremrangebyscore(of_session, "-inf", now - 2 * KEPT_FOR)
                pipe.expire(of_session, int(2 * KEPT_FOR))
            pipe.execute()
            n_bytes = len(reply.body if reply else b"") + len(job.request.body if job.finished is None else b"")
            until = "+inf" if job.finished is None else str(time.time() + KEPT_FOR)
            self._count(self._counts(job.key.owner), [time.time(), job.key.id, until, n_bytes])

    def remove(self, key: JobKey) -> None:
        """See `JobTable.remove`."""
        with reached():
            pipe = self._redis.pipeline()
            pipe.unlink(self._name(key))
            pipe.srem(self._client.key("jobs"), _member(key))
            pipe.execute()
            self._count(self._counts(key.owner), [time.time(), key.id, ""])
        self.release(key)

    def remove_session(self, owner: str, session: str) -> None:
        """See `JobTable.remove_session`."""
        with reached():
            for id_ in self._redis.zrange(self._of(owner, session), 0, -1):
                self.remove(JobKey(owner, id_))
            self._redis.unlink(self._of(owner, session))

    def kept(self, owner: str) -> Kept:
        """See `JobTable.kept`."""
        with reached():
            return Kept(*self._count(self._counts(owner), [time.time()]))

    def tidy(self) -> None:
        """See `JobTable.tidy`: Redis forgets by itself."""

    def claim(self, key: JobKey) -> bool:
        """See `JobTable.claim`."""
        name = self._claim_of(key)
        with reached():
            mine = bool(self._claim([name], [self._node, _CLAIMED]))
            if not mine and self._liveness:
                holder = self._redis.get(name)
                if holder and self._liveness.is_gone(str(holder)):
                    self._release([name], [holder])
                    mine = bool(self._claim([name], [self._node, _CLAIMED]))
        if mine:
            with self._lock:
                self._mine.add(key)
        return mine

    def release(self, key: JobKey) -> None:
        """See `JobTable.release`."""
        with self._lock:
            self._mine.discard(key)
        with reached():
            self._release([self._claim_of(key)], [self._node])

    def close(self) -> None:
        """See `JobTable.close`: what this node has not computed is anybody's."""
        with self._lock:
            mine = list(self._mine)
        for key in mine:
            try:
                self.release(key)
            except Exception as error:
                if not is_away(error):
                    raise

    def _name(self, key: JobKey) -> str:
        return self._client.key("job", key.owner, key.id)

    def _counts(self, owner: str) -> list[str]:
        """The names in Redis that the script takes which counts."""
        return [self._client.key(name, owner) for name in ("jobs_until", "jobs_sizes", "jobs_bytes")]

    def _claim_of(self, key: JobKey) -> str:
        return self._client.key("job_claim", key.owner, key.id)

    def _of(self, owner: str, session: str) -> str:
        return self._client.key("jobs_of", owner, session)

    def _keep(self) -> None:
        """The thread that renews."""
        while True:
            time.sleep(_RENEW)
            with self._lock:
                mine = list(self._mine)
            try:
                for key in mine:
                    if not self._claim([self._claim_of(key)], [self._node, _CLAIMED]):
                        log.error("another server has taken over a job that is computed here")
                        self.on_lost(key)
            except Exception as error:
                log.warning("what jobs are computed here cannot be renewed: %s", error)


def _member(key: JobKey) -> str:
    return json.dumps([key.owner, key.id])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _job(told: dict[str, Any]) -> StoredJob:
    reply = told["reply"]
    request = JobRequest(told["path"], base64.b64decode(told["body"]), told["digest"], told["session"])
    return StoredJob(
        JobKey(*told["key"]),
        request,
        told["state"],
        told["created"],
        told["finished"],
        Reply(reply[0], reply[1], base64.b64decode(reply[2])) if reply else None,
    )
