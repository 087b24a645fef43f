"""A cluster's jobs in Redis: those still to be computed, which node claims them, and for a day their replies."""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

from typing_extensions import override

from services.cluster.redis_client import RedisClient, is_away, reached
from services.cluster.registry import Liveness
from services.cluster.stores.counted import Counted
from services.jobs.store import KEPT_FOR, JobKey, JobRequest, JobTable, Reply, StoredJob
from services.sessions.table import Kept

log = logging.getLogger(__name__)

# Seconds after which a claim that is not renewed ends: longer than Redis may be away. One of an API node that is gone is
# released sooner.
_CLAIMED = 180
# KEYS: the claim. ARGV: the node, for how long. It may be this node's already, where the reply was lost.
_CLAIM = """
local now = redis.call('GET', KEYS[1])
if now and now ~= ARGV[1] then return 0 end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""
_RELEASE = "if redis.call('GET', KEYS[1]) == ARGV[1] then return redis.call('DEL', KEYS[1]) end return 0"


class RedisJobTable(JobTable):
    """The jobs in Redis. All raise Unavailable where Redis is away.

    Any thread may call it; `_lock` protects this node's claims, which end unless `renew` is called.
    """

    is_shared = True

    def __init__(self, client: RedisClient, node: str, liveness: Liveness | None = None) -> None:
        """`node` is the name of this API node's process; claims of nodes that `liveness` calls gone are released."""
        self._liveness = liveness
        self._client = client
        self._redis = client.redis
        self._node = node
        self._claim = self._redis.register_script(_CLAIM)
        self._release = self._redis.register_script(_RELEASE)
        self._counted = Counted(client, "jobs")
        self._lock = threading.Lock()
        self._claimed: set[JobKey] = set()
        self._lost_listeners: list[Callable[[JobKey], object]] = []

    @override
    def add_lost_listener(self, listener: Callable[[JobKey], object]) -> None:
        self._lost_listeners.append(listener)

    @override
    def get(self, key: JobKey) -> StoredJob | None:
        with reached():
            text = self._redis.get(self._name(key))
        return None if text is None else _job(json.loads(text))

    def everything(self) -> list[StoredJob]:
        """Return all jobs, the oldest first."""
        with reached():
            found = [self._redis.get(name) for name in self._redis.scan_iter(self._client.key("job", "*"))]
        return sorted((_job(json.loads(text)) for text in found if text), key=lambda job: job.created)

    @override
    def unfinished(self) -> list[StoredJob]:
        with reached():
            keys = [JobKey(*json.loads(each)) for each in self._redis.smembers(self._client.key("jobs"))]
            found = [(key, self.get(key)) for key in keys]
            if gone := [_member(key) for key, job in found if job is None or job.finished is not None]:
                self._redis.srem(self._client.key("jobs"), *gone)
        return sorted((job for _, job in found if job and job.finished is None), key=lambda job: job.created)

    @override
    def add(self, job: StoredJob) -> None:
        reply = job.reply
        stored: dict[str, Any] = {
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
            pipe.set(self._name(job.key), json.dumps(stored), ex=None if job.finished is None else int(KEPT_FOR))
            (pipe.sadd if job.finished is None else pipe.srem)(self._client.key("jobs"), _member(job.key))
            if job.request.session:
                of_session, now = self._of(job.key.owner, job.request.session), time.time()
                pipe.zadd(of_session, {job.key.id: now})
                pipe.zremrangebyscore(of_session, "-inf", now - 2 * KEPT_FOR)
                pipe.expire(of_session, int(2 * KEPT_FOR))
            pipe.execute()
        n_bytes = len(reply.body if reply else b"") + len(job.request.body if job.finished is None else b"")
        self._counted.note(job.key.owner, job.key.id, None if job.finished is None else KEPT_FOR, n_bytes)

    @override
    def remove(self, key: JobKey) -> None:
        with reached():
            pipe = self._redis.pipeline()
            pipe.unlink(self._name(key))
            pipe.srem(self._client.key("jobs"), _member(key))
            pipe.execute()
        self._counted.drop(key.owner, key.id)
        self.release(key)

    @override
    def remove_session(self, owner: str, session: str) -> None:
        with reached():
            for id_ in self._redis.zrange(self._of(owner, session), 0, -1):
                self.remove(JobKey(owner, id_))
            self._redis.unlink(self._of(owner, session))

    @override
    def kept(self, owner: str) -> Kept:
        return self._counted.kept(owner)

    @override
    def tidy(self) -> None:
        # Redis forgets by itself.
        pass

    @override
    def claim(self, key: JobKey) -> bool:
        name = self._claim_of(key)
        with reached():
            is_ours = bool(self._claim([name], [self._node, _CLAIMED]))
            if not is_ours and self._liveness:
                holder = self._redis.get(name)
                if holder and self._liveness.is_gone(str(holder)):
                    self._release([name], [holder])
                    is_ours = bool(self._claim([name], [self._node, _CLAIMED]))
        if is_ours:
            with self._lock:
                self._claimed.add(key)
        return is_ours

    @override
    def release(self, key: JobKey) -> None:
        with self._lock:
            self._claimed.discard(key)
        with reached():
            self._release([self._claim_of(key)], [self._node])

    @override
    def close(self) -> None:
        # Another node may compute what this one has not.
        with self._lock:
            claimed = list(self._claimed)
        for key in claimed:
            try:
                self.release(key)
            except Exception as error:
                if not is_away(error):
                    raise

    def _name(self, key: JobKey) -> str:
        return self._client.key("job", key.owner, key.id)

    def _claim_of(self, key: JobKey) -> str:
        return self._client.key("job_claim", key.owner, key.id)

    def _of(self, owner: str, session: str) -> str:
        return self._client.key("jobs_of", owner, session)

    def renew(self) -> None:
        """Renew this node's claims, and tell the listeners of lost ones. Raises what Redis's client raises."""
        with self._lock:
            claimed = list(self._claimed)
        for key in claimed:
            if not self._claim([self._claim_of(key)], [self._node, _CLAIMED]):
                log.error("another server has taken over a job that is computed here")
                for listener in self._lost_listeners:
                    listener(key)


def _member(key: JobKey) -> str:
    return json.dumps([key.owner, key.id])


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode("ascii")


def _job(stored: dict[str, Any]) -> StoredJob:
    reply = stored["reply"]
    request = JobRequest(stored["path"], base64.b64decode(stored["body"]), stored["digest"], stored["session"])
    return StoredJob(
        JobKey(*stored["key"]),
        request,
        stored["state"],
        stored["created"],
        stored["finished"],
        Reply(reply[0], reply[1], base64.b64decode(reply[2])) if reply else None,
    )
