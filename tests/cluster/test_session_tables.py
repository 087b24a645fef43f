"""Sessions in Redis are as those in files, whatever is said, set, branched and deleted; the files after a restart too."""

from __future__ import annotations

import uuid
from pathlib import Path
from random import Random
from typing import Any

import pytest

from services.cluster.redis_client import RedisClient
from services.cluster.settings import ClusterSettings
from services.errors import NotFound
from services.prompts.form import Exchange
from services.sessions.file_table import SessionTable
from services.sessions.history import SessionHistory, SessionKey
from services.sessions.service import Sessions
from services.sessions.table import Answered, RequestName

pytestmark = pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
KEY = SessionKey("1", 7)


def act(rng: Random, history: SessionHistory, n: int) -> str:
    """Do one thing to a session, the same for the same `rng`; return what was refused, "" if nothing was."""
    count = history.count()
    at, number = rng.randrange(count + 1), rng.randrange(1, 4)
    exchange = Exchange(f"ask {rng.randrange(3)}", f"tell {n} é", f"think {n}" if rng.random() < 0.3 else "")
    request = Answered(RequestName(f"key:{n}", "digest"), {"n": n}) if rng.random() < 0.5 else None
    choice = rng.choice(["say", "say", "anew", "anew", "enter", "enter", "edit", "delete", "set", "window", "new system"])
    try:
        match choice:
            case "say":
                history.add_exchange(exchange, request=request)
            case "anew":
                history.add_exchange(exchange, keep=at, request=request)
            case "enter":
                history.enter(at, number)
            case "edit":
                history.edit(at, f"edited {n}")
            case "delete":
                history.delete(at)
            case "set":
                fields = {"name": f"name {n}", "pinned": n % 2 == 0, "folder": rng.choice(["", "Ü"]), "settings": {"a": n}}
                history.set(dict(rng.sample(sorted(fields.items()), 2)))
            case "window":
                history.keep_window(rng.randrange(2))
            case _:
                history.add_exchange(exchange, "Be kind.", keep=0, branches=False)
    except NotFound as error:
        return error.message
    return ""


@pytest.mark.parametrize("seed", range(6))
def test_they_are_alike(tmp_path: Path, redis_url: str, seed: int) -> None:
    from services.cluster.stores.sessions import RedisSessionTable

    client = RedisClient(ClusterSettings("", redis_url, prefix=uuid.uuid4().hex))
    path = tmp_path / "sessions.json"
    files, redis = Sessions(path, SessionTable(path, 3600)), Sessions(Path(), RedisSessionTable(client))
    others = Sessions(Path(), RedisSessionTable(client))
    for n in range(60):
        refused = [act(Random(f"{seed} {n}"), each.history(KEY), n) for each in (files, redis)]
        assert refused[0] == refused[1]
        if n % 20 == 19:
            files.close()
            files = Sessions(path, SessionTable(path, 3600))
        told = [described(each) for each in (files, redis, others)]
        assert told[0] == told[1] == told[2]
        assert files.kept(KEY.owner) == redis.kept(KEY.owner)
    for each in (files, redis):
        while each.history(KEY).count():
            each.history(KEY).delete(0)
        each.history(KEY).clear()
        assert each.kept(KEY.owner).n_bytes == 0
    assert not [key for key in client.redis.scan_iter(f"{client.key('')}*") if "7" in key.split(":")[-1]]


def described(sessions: Sessions) -> dict[str, Any]:
    history = sessions.history(KEY)
    if not history.exists:
        return {}
    requests = {n: history.answered(RequestName(f"key:{n}", "digest")) for n in range(60)}
    (listed,) = sessions.listed(KEY.owner)
    about = {name: value for name, value in history.describe().items() if name not in ("created", "updated")}
    return {**about, "listed": listed["messages"], "window": history.window_start, "requests": requests}
