"""The settings that turn a cluster on: the URLs of its broker and its Redis, from the environment or a .env file."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, urlsplit

from services.errors import InvalidRequest
from services.settings import HOME

# The names that ProtoLLM's users know, and NODE_NAME.
NAMES = (
    *("CELERY_BROKER_URL", "RABBIT_MQ_HOST", "RABBIT_MQ_PORT", "RABBIT_MQ_LOGIN", "RABBIT_MQ_PASSWORD", "QUEUE_NAME"),
    *("CELERY_RESULT_BACKEND", "REDIS_HOST", "REDIS_PORT", "REDIS_PREFIX", "INNER_LLM_URL", "INNER_LLM_KEY", "NODE_NAME"),
)
_NAME = re.compile(r"[A-Za-z0-9._@-]{1,100}")


@dataclass(frozen=True)
class ClusterSettings:
    """The URLs and names of a cluster. URLs may hold passwords."""

    broker: str = field(repr=False)
    redis: str = field(repr=False)
    prefix: str = "hearth"
    """The prefix of all keys' names in Redis."""
    queue: str = "hearth"
    """The prefix of all queues' names: clusters that share a broker have different ones."""
    upstream: str = ""
    """Another server with OpenAI's API, which a worker passes its work to; "": it computes itself."""
    upstream_key: str = field(default="", repr=False)
    name: str = ""
    """This process's name in the cluster, which no other has."""


def read_cluster(environ: Mapping[str, str], file: Path = HOME / ".env") -> ClusterSettings | None:
    """Read the settings from the environment, or else from `file`; return None where neither names a cluster.

    Raises InvalidRequest naming the variable that is wrong or missing.
    """
    values = {**_of_file(file), **{name: environ[name] for name in NAMES if environ.get(name)}}
    broker, redis = _broker(values), _redis(values)
    if not broker and not redis:
        return None
    if not broker:
        raise InvalidRequest("a cluster has a broker too: CELERY_BROKER_URL or RABBIT_MQ_HOST is missing")
    if not redis:
        raise InvalidRequest("a cluster has a Redis too: CELERY_RESULT_BACKEND or REDIS_HOST is missing")
    for name in ("QUEUE_NAME", "REDIS_PREFIX", "NODE_NAME"):
        if values.get(name) and not _NAME.fullmatch(values[name]):
            raise InvalidRequest(
                f"{name} should be of letters, digits, dots, hyphens and underscores, not {values[name]!r}"
            )
    upstream = values.get("INNER_LLM_URL", "")
    if upstream:
        upstream = upstream if "://" in upstream else f"http://{upstream}"
        _check_url("INNER_LLM_URL", upstream, ("http", "https"))
    return ClusterSettings(
        broker,
        redis,
        values.get("REDIS_PREFIX") or "hearth",
        values.get("QUEUE_NAME") or "hearth",
        upstream.rstrip("/"),
        values.get("INNER_LLM_KEY", ""),
        values.get("NODE_NAME") or _some_name(),
    )


def _some_name() -> str:
    """Return a name that no other process has: containers may share a host's name, and process numbers."""
    return f"{re.sub('[^A-Za-z0-9.-]', '-', socket.gethostname())[:60]}-{secrets.token_hex(3)}"


def _of_file(file: Path) -> dict[str, str]:
    """Return the variables of ours that a .env file sets."""
    try:
        text = file.read_text(encoding="utf-8")
    except FileNotFoundError:
        return {}
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidRequest(f"{file} cannot be read: {error}") from None
    if not re.search(rf"^\s*(export\s+)?({'|'.join(NAMES)})\s*=", text, re.MULTILINE):
        return {}
    from dotenv import dotenv_values

    found = dotenv_values(file)
    return {name: value for name in NAMES if (value := found.get(name))}


def _broker(values: Mapping[str, str]) -> str:
    if url := values.get("CELERY_BROKER_URL"):
        _check_url("CELERY_BROKER_URL", url, ("amqp", "amqps", "pyamqp"))
        return url
    if not (host := _host(values, "RABBIT_MQ_HOST")):
        return ""
    login, password = (quote(values.get(f"RABBIT_MQ_{name}") or "guest", safe="") for name in ("LOGIN", "PASSWORD"))
    return f"amqp://{login}:{password}@{host}:{_port(values, 'RABBIT_MQ_PORT', 5672)}//"


def _redis(values: Mapping[str, str]) -> str:
    if url := values.get("CELERY_RESULT_BACKEND"):
        _check_url("CELERY_RESULT_BACKEND", url, ("redis", "rediss"))
        return url
    host = _host(values, "REDIS_HOST")
    return f"redis://{host}:{_port(values, 'REDIS_PORT', 6379)}/0" if host else ""


def _host(values: Mapping[str, str], name: str) -> str:
    host = values.get(name, "")
    if host and not _NAME.fullmatch(host):
        raise InvalidRequest(f"{name} should be a host's name or address, without a port, not {host!r}")
    return host


def _port(values: Mapping[str, str], name: str, usual: int) -> int:
    given = values.get(name) or str(usual)
    if not given.isascii() or not given.isdigit() or not 0 < int(given) < 65_536:
        raise InvalidRequest(f"{name} should be a port from 1 to 65535, not {given!r}")
    return int(given)


def _check_url(name: str, url: str, schemes: tuple[str, ...]) -> None:
    """Raise InvalidRequest, without the URL, which may hold a password."""
    try:
        parts = urlsplit(url)
        good = parts.scheme in schemes and bool(parts.hostname) and parts.port != 0
    except ValueError:
        good = False
    if not good:
        raise InvalidRequest(f"{name} should be a URL that begins with {' or '.join(f'{scheme}://' for scheme in schemes)}")
