"""The unsaved conversations of a cluster, in Redis."""

from __future__ import annotations

import json
from contextlib import suppress

import redis
from typing_extensions import override

from services.cluster.redis_client import RedisClient, reached
from services.prompts.form import Exchange
from services.sessions.unsaved import UnsavedConversation, UnsavedConversations

# Seconds after which an unsaved conversation is forgotten.
_KEPT_FOR = 24 * 3600


class RedisUnsavedConversations(UnsavedConversations):
    """The conversations in Redis. Any thread may call it. All raise Unavailable where Redis is away."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client

    @override
    def get(self, owner: str, name: str) -> UnsavedConversation:
        with reached():
            text = self._client.redis.get(self._client.key("unsaved", owner, name))
        if text is None:
            return UnsavedConversation()
        data = json.loads(text)
        exchanges = tuple(Exchange(*each) for each in data["exchanges"])
        return UnsavedConversation(exchanges, data["system"], *data.get("window", ()))

    @override
    def add(self, owner: str, name: str, exchange: Exchange, system: str | None, last: int, start: int) -> None:
        key = self._client.key("unsaved", owner, name)
        lock = self._client.redis.lock(f"{key}:lock", timeout=5, sleep=0.01)
        with reached():
            # Where another writer takes too long, the later exchange is the one that is kept.
            is_held = lock.acquire(blocking_timeout=2)
            conversation = self.get(owner, name).followed_by(exchange, system, last, start)
            exchanges = [[each.human, each.ai, each.reasoning] for each in conversation.exchanges]
            window = (conversation.start, conversation.forgotten)
            data = {"exchanges": exchanges, "system": conversation.system, "window": window}
            self._client.redis.set(key, json.dumps(data), ex=_KEPT_FOR)
            with suppress(redis.RedisError):
                if is_held:
                    lock.release()
