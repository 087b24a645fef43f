"""The unsaved conversations of a cluster, in Redis."""

from __future__ import annotations

import json
from contextlib import suppress

import redis

from services.cluster.redis_client import RedisClient, reached
from services.prompts.form import Exchange
from services.sessions.unsaved import UnsavedConversation

# Seconds after which an unsaved conversation is forgotten.
_KEPT_FOR = 24 * 3600


class RedisUnsavedConversations:
    """See `UnsavedConversations`. Any thread may call it. All raise Unavailable where Redis is away."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    def get(self, owner: str, name: str) -> UnsavedConversation:
        """See `UnsavedConversations.get`."""
        with reached():
            text = self._client.redis.get(self._client.key("unsaved", owner, name))
        if text is None:
            return UnsavedConversation()
        data = json.loads(text)
        exchanges = tuple(Exchange(*each) for each in data["exchanges"])
        return UnsavedConversation(exchanges, data["system"], *data.get("window", ()))

    def add(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        """See `UnsavedConversations.add`."""
        key = self._client.key("unsaved", owner, name)
        lock = self._client.redis.lock(f"{key}:lock", timeout=5, sleep=0.01)
        with reached():
            # Where another takes too long, the later of both is the one that is remembered.
            held = lock.acquire(blocking_timeout=2)
            talk = self.get(owner, name).and_(exchange, system, last, start)
            said = [[each.human, each.ai] for each in talk.exchanges]
            data = {"exchanges": said, "system": talk.system, "window": (talk.start, talk.forgotten)}
            self._client.redis.set(key, json.dumps(data), ex=_KEPT_FOR)
            with suppress(redis.RedisError):
                if held:
                    lock.release()
