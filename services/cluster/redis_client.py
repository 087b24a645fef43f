"""The client of the Redis that a cluster's processes share."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import redis
from redis.backoff import ConstantBackoff
from redis.retry import Retry

from services.cluster.settings import ClusterSettings
from services.errors import InvalidRequest, Unavailable

# Seconds in which Redis answers, or counts as away.
PATIENCE = 5.0
RETRY_AFTER = 5


class RedisClient:
    """A client of Redis, and the names of keys. Any thread may call it: each command takes a connection of its own."""

    def __init__(self, settings: ClusterSettings) -> None:
        self.url = settings.redis
        self.prefix = settings.prefix
        # A command whose reply was lost is sent twice: callers make that harmless.
        retry = Retry(ConstantBackoff(0.05), 2)
        timeouts: dict[str, Any] = {
            "socket_timeout": PATIENCE,
            "socket_connect_timeout": PATIENCE,
            "health_check_interval": 30,
        }
        # Any: its methods' types say that each may be awaited.
        self.redis: Any = redis.Redis.from_url(settings.redis, retry=retry, decode_responses=True, **timeouts)
        self.raw: Any = redis.Redis.from_url(settings.redis, retry=retry, **timeouts)
        """The same, with replies as bytes."""

    def key(self, *parts: object) -> str:
        """Return a key's name in Redis, made of `parts`."""
        return ":".join((self.prefix, *(quoted(str(part)) for part in parts)))

    def is_there(self) -> bool:
        """Return whether Redis answers. Raises InvalidRequest where it refuses the password."""
        try:
            return bool(self.redis.ping())
        except redis.AuthenticationError as error:
            raise InvalidRequest(f"Redis refuses us: {error}; the password stands in CELERY_RESULT_BACKEND") from None
        except redis.RedisError:
            return False


@contextmanager
def reached() -> Iterator[None]:
    """Raise Unavailable where Redis cannot be reached."""
    try:
        yield
    except redis.RedisError as error:
        if not is_away(error):
            raise
        raise away() from error


def away() -> Unavailable:
    """Return the error to raise where Redis is away."""
    what = "the cluster's Redis cannot be reached; nothing was lost, and asking again is safe"
    return Unavailable(what, code="redis_unavailable", retry_after=RETRY_AFTER)


def is_away(error: BaseException) -> bool:
    """Return whether an error says that Redis is away, full or read-only for now, and not that a command is wrong."""
    if isinstance(error, Unavailable):
        return error.code == away().code
    return isinstance(error, _AWAY) or (isinstance(error, redis.ResponseError) and str(error).startswith(_NOT_NOW))


_AWAY = (redis.ConnectionError, redis.TimeoutError, redis.exceptions.OutOfMemoryError, redis.exceptions.ReadOnlyError)
_NOT_NOW = ("MISCONF", "NOREPLICAS", "OOM", "READONLY", "LOADING", "TRYAGAIN", "MASTERDOWN", "CLUSTERDOWN")


def quoted(part: str) -> str:
    """Return a part of a name without colons."""
    return part.replace("%", "%25").replace(":", "%3A")
