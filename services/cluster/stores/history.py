"""LangChain's message history in Redis, which keeps the messages of a cluster's sessions.

LangChain's own programs read it by `RedisChatMessageHistory(ENTRY, url, key_prefix=f"{PREFIX}:session:")`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from langchain_community.chat_message_histories.redis import RedisChatMessageHistory
from langchain_core.messages import BaseMessage, message_to_dict

from services.cluster.redis_client import RedisClient, quoted


class CommonHistory(RedisChatMessageHistory):
    """The messages of one session. Its methods raise what Redis's client raises."""

    def __init__(self, client: RedisClient, entry: str) -> None:
        # LangChain's constructor would open a connection for each session.
        self.redis_client: Any = client.raw
        self.session_id = quoted(entry)
        self.key_prefix = client.key("session", "")
        self.ttl = None

    def add_messages(self, messages: Sequence[BaseMessage]) -> None:
        """Append all or none; LangChain's own adds one by one."""
        self.redis_client.lpush(self.key, *map(written, messages))


def written(message: BaseMessage) -> str:
    """Return a message as LangChain writes it."""
    return json.dumps(message_to_dict(message))
