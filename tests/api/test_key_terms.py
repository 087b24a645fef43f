"""What a key may do: scopes, expiry, profiles, changes, rotation; over the API and on the command line."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from auth.access import PUBLIC
from auth.hashing import sha256
from auth.identity import Terms, duration, moment
from auth.keys import KeyStore
from services.api.routes import ROUTES
from services.errors import DamagedFile, InvalidRequest, NotAuthenticated
from tests.support.clock import Clock
from tests.support.in_process import Client

Open = Callable[..., Client]
# One request for each scope, which a key without it does not get to make.
ASKING: dict[str, tuple[str, str, Any]] = {
    "answer": ("POST", "/answer", {"prompt": "Count to 3."}),
    "models:read": ("GET", "/models", None),
    "models:switch": ("POST", "/models/model", {"model": "guide.gguf", "model_config": "Guide"}),
    "models:pull": ("POST", "/models/pull", {"source": "nonsense"}),
    "keys": ("GET", "/auth/key", None),
}


@pytest.mark.parametrize("scope", ASKING)
def test_a_key_does_what_its_scopes_name_and_nothing_else(client: Client, scope: str) -> None:
    key, _ = client.mint(scopes=[scope])
    for name, (method, path, body) in ASKING.items():
        reply = client.request(method, path, json=body, key=key)
        if name == scope:
            assert reply.status_code not in (401, 403), reply.text
        else:
            assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
            assert name in reply.json()["message"]
    assert client.get("/auth/me", key=key).json()["scopes"] == [scope]


def test_a_key_without_any_scope_is_good_and_may_do_nothing(client: Client) -> None:
    key, _ = client.mint(scopes=[])
    assert client.get("/auth", key=key).json() == {"auth": True}
    for method, path, body in ASKING.values():
        assert client.request(method, path, json=body, key=key).status_code == 403


def test_every_route_needs_a_key_but_for_the_public_ones(client: Client) -> None:
    for route in ROUTES:
        for rule in route.paths:
            path = rule.replace("<path:name>", "x").replace("<path:job_id>", "x")
            path = path.replace("<number>", "1").replace("<owner>", "o").replace("<id_>", "i").replace("<name>", "n")
            path = path.replace("<index>", "0")
            assert "<" not in path
            for method in route.resource.methods:
                status = client.http.request(method, client.url + path).status_code
                assert (status == 401) != (route.needs == PUBLIC), f"{method} {path}: {status}"
    public = sorted(route.name for route in ROUTES if route.needs == PUBLIC)
    assert public == ["docs", "docs_file", "document", "health", "healthz", "ollama_version", "page", "page_file", "readyz"]


def test_an_expired_key_is_told_so(client: Client, clock: Clock) -> None:
    key, id_ = client.mint(expires="1s")
    assert client.get("/auth", key=key).status_code == 200
    clock.forward(2)
    reply = client.get("/auth", key=key)
    assert (reply.status_code, reply.json()["error"]["code"]) == (401, "key_expired")
    assert key not in reply.text
    assert client.request("PATCH", f"/auth/key/{id_}", json={"expires": None}).json()["expires"] is None
    assert client.get("/auth", key=key).status_code == 200


def test_times_are_read_as_people_write_them() -> None:
    now = datetime.now(timezone.utc)
    assert duration("30d") == timedelta(days=30)
    assert duration(" 90M ") == timedelta(minutes=90)
    assert timedelta(seconds=-5) < moment("12h") - now - timedelta(hours=12) < timedelta(seconds=5)
    assert moment("2027-01-31") == datetime(2027, 1, 31, tzinfo=timezone.utc)
    assert moment("2027-01-31T18:00:00Z") == moment("2027-01-31T19:00:00+01:00")
    for wrong in ("", "soon", "-3d", "30", "30 years", "2027-13-01", "9" * 30 + "d"):
        with pytest.raises(ValueError, match="should be a time like"):
            moment(wrong)


@pytest.mark.parametrize(
    ("terms", "param"),
    [
        ({"expires": "2001-01-01"}, "expires"),
        ({"expires": "soon"}, "expires"),
        ({"expires": 5}, "expires"),
        ({"scopes": ["answer", "fly"]}, "scopes.1"),
        ({"scopes": "answer"}, "scopes"),
        ({"profiles": []}, "profiles"),
        ({"profiles": [""]}, "profiles.0"),
        ({"limits": {"parallel": 0}}, "limits.parallel"),
        ({"limits": {"paralel": 2}}, "limits.paralel"),
        ({"limits": {"tokens_per_day": 1.5}}, "limits.tokens_per_day"),
        ({"limits": 5}, "limits"),
        ({"name": ""}, "name"),
    ],
)
def test_wrong_terms_are_refused_by_name(client: Client, terms: dict[str, Any], param: str) -> None:
    _, id_ = client.mint()
    for reply in (client.post("/auth/key", terms), client.request("PATCH", f"/auth/key/{id_}", json=terms)):
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, param)


def test_a_key_is_changed_field_by_field(client: Client) -> None:
    key, id_ = client.mint("Ana", limits={"parallel": 2, "max_tokens": 5}, profiles=["Guide"], expires="9d")
    before = client.get("/auth/me", key=key).json()
    changed = client.request("PATCH", f"/auth/key/{id_}", json={"limits": {"max_tokens": None, "tokens_per_day": 9}}).json()
    assert changed["limits"] == {"parallel": 2, "tokens_per_day": 9}
    assert {name: changed[name] for name in ("name", "profiles", "expires")} == {
        name: before[name] for name in ("name", "profiles", "expires")
    }
    fields = {"limits": None, "profiles": None, "expires": None, "name": None, "scopes": ["answer"]}
    bare = client.request("PATCH", f"/auth/key/{id_}", json=fields).json()
    assert (bare["limits"], bare["profiles"], bare["expires"], bare["name"], bare["scopes"]) == (
        {},
        None,
        None,
        None,
        ["answer"],
    )
    assert client.get("/auth", key=key).status_code == 200
    assert client.request("PATCH", "/auth/key/0", json={"name": "x"}).status_code == 400
    assert client.request("PATCH", "/auth/key/none", json={"name": "x"}).status_code == 404


def test_a_rotated_key_keeps_its_sessions_and_its_old_form_for_a_while(client: Client, clock: Clock) -> None:
    old, id_ = client.mint("Ana")
    client.ask("My name is Ana.", key=old, session_id=1)
    new = client.post(f"/auth/key/{id_}/rotate", {"grace": "1s"}).json()["key"]
    for key in (old, new):
        assert client.get("/auth/me", key=key).json()["id"] == id_
    assert client.ask("What is my name?", key=new, session_id=1)["result"] == "Your name is Ana."
    clock.forward(2)
    assert client.get("/auth", key=old).status_code == 401
    newest = client.post(f"/auth/key/{id_}/rotate", {"grace": "0s"}).json()["key"]
    assert [client.get("/auth", key=key).status_code for key in (old, new, newest)] == [401, 401, 200]
    assert client.post(f"/auth/key/{id_}/rotate", {"grace": "long"}).json()["error"]["param"] == "grace"
    assert client.post("/auth/key/none/rotate", {}).status_code == 404


def test_a_form_that_leaked_ends_with_a_rotation_without_grace(client: Client) -> None:
    leaked, id_ = client.mint("Ana")
    second = client.post(f"/auth/key/{id_}/rotate", {"grace": "7d"}).json()["key"]
    third = client.post(f"/auth/key/{id_}/rotate", {"grace": "0s"}).json()["key"]
    assert [client.get("/auth", key=key).status_code for key in (leaked, second, third)] == [401, 401, 200]


def test_a_key_of_some_profiles_switches_to_no_other_model(open_client: Open, model_folder: Path) -> None:
    client = open_client(models=model_folder)
    key, _ = client.mint(profiles=["Guide"], scopes=["models:switch"])
    reply = client.post("/models/model", {"model": "random.gguf", "model_config": "Guide"}, key=key)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "profile_not_permitted")
    assert client.post("/models/model", {"model": "guide.gguf", "model_config": "Guide"}, key=key).status_code == 200


def test_the_master_key_can_be_rotated(client: Client) -> None:
    first = client.key
    client.key = client.post("/auth/key/0/rotate", {"grace": "0s"}).json()["key"]
    assert client.get("/auth/key").status_code == 200
    assert client.get("/auth", key=first).status_code == 401


def test_who_may_mint_gives_no_more_than_they_have(client: Client) -> None:
    terms = {"scopes": ["answer", "keys"], "profiles": ["Guide"], "limits": {"parallel": 2}, "expires": "9d"}
    head, _ = client.mint("Head", **terms)
    good = {"scopes": ["answer"], "profiles": ["Guide"], "limits": {"parallel": 1}, "expires": "8d"}
    for wrong, param in (
        ({"scopes": ["answer", "models:read"]}, "scopes"),
        ({"profiles": ["Guide", "Pirate"]}, "profiles"),
        ({"profiles": None}, "profiles"),
        ({"limits": {"parallel": 3}}, "limits.parallel"),
        ({"limits": None}, "limits.parallel"),
        ({"expires": "10d"}, "expires"),
        ({"expires": None}, "expires"),
    ):
        reply = client.post("/auth/key", {**good, **wrong}, key=head)
        assert (reply.status_code, reply.json()["error"]["param"]) == (403, param)
    minted = client.post("/auth/key", good, key=head).json()
    assert (
        client.request("PATCH", f"/auth/key/{minted['id']}", json={"limits": {"parallel": 9}}, key=head).status_code == 403
    )
    assert client.get("/auth", key=minted["key"]).status_code == 200
    # It manages these, and knows of no others: not of the master's, nor of itself.
    other = client.mint("Other")[1]
    me = client.get("/auth/me", key=head).json()["id"]
    assert [each["id"] for each in client.get("/auth/key", key=head).json()["keys"]] == [minted["id"]]
    for id_ in (other, me):
        assert client.delete(f"/auth/key/{id_}", key=head).status_code == 404
        assert client.post(f"/auth/key/{id_}/rotate", {}, key=head).status_code == 404
    assert client.post("/auth/key/0/rotate", {}, key=head).status_code == 404
    assert client.delete(f"/auth/key/{minted['id']}", key=head).json() == {"deleted": True}


def test_a_key_uses_its_profiles_and_no_others(client: Client) -> None:
    key, _ = client.mint(profiles=["Pirate"], scopes=["answer", "models:read", "models:switch"])
    assert client.ask("What is the capital of France?", key=key, memory_k=0)["profile"] == "Pirate"
    assert client.get("/models", key=key).json()["profiles"] == ["Pirate"]
    assert [each["id"] for each in client.get("/v1/models", key=key).json()["data"]] == ["Pirate"]
    chat = {"messages": [{"role": "user", "content": "Hi"}]}
    for path, body in (
        ("/answer", {"prompt": "Hi", "model": "Guide"}),
        ("/v1/chat/completions", {**chat, "model": "Guide"}),
        ("/tokenize", {"content": "Hi", "model": "Guide"}),
        ("/v1/embeddings", {"input": "Hi", "model": "Guide"}),
        ("/models/model", {"model": "guide.gguf", "model_config": "Guide"}),
    ):
        reply = client.post(path, body, key=key)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "profile_not_permitted"), path
    assert client.post("/v1/chat/completions", {**chat, "model": "Pirate"}, key=key).status_code == 200


@pytest.mark.parametrize(
    ("entry", "says"),
    [
        ({"expires": "tomorrow"}, "expires"),
        ({"expires": "2027-01-31"}, "expires should be a time with its zone"),
        ({"scopes": ["fly"]}, "scopes"),
        ({"limits": {"parallel": "two"}}, "parallel"),
        ({"previous": 5}, "previous"),
        ({"previous": [{"hash": "x"}]}, "previous"),
    ],
)
def test_wrong_terms_in_the_file_are_told_with_their_line(tmp_path: Path, entry: dict[str, Any], says: str) -> None:
    path = tmp_path / "api_keys.json"
    path.write_text(json.dumps({"a": {"hash": "sha256:" + "0" * 64, **entry}}, indent=1))
    with pytest.raises(DamagedFile, match=f"line \\d+.*{says}"):
        KeyStore(path)


def test_a_store_tells_what_is_over(tmp_path: Path, clock: Clock) -> None:
    store = KeyStore(tmp_path / "api_keys.json")
    with pytest.raises(InvalidRequest, match="over"):
        store.mint(Terms(expires="2001-01-01"))
    minted = store.mint(Terms(expires="1s"))
    clock.forward(2)
    with pytest.raises(NotAuthenticated, match="expired"):
        store.check(minted.key)
    with pytest.raises(NotAuthenticated, match="expired"):
        store.identity(minted.id)


def test_near_misses_are_looked_up_as_any_other_guess(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """CVE-2025-59425: a key was compared letter by letter, which tells by the time how much of a guess is right."""
    stores = [KeyStore(tmp_path / "api_keys.json") for _ in range(2)]
    keys = [stores[0].mint().key for _ in range(5)]
    looked_up: list[bytes] = []

    def noting(data: bytes) -> bytes:
        looked_up.append(sha256(data))
        return looked_up[-1]

    for store in stores:
        store.check("")
    monkeypatch.setattr("auth.keys.sha256", noting)
    for guess in (keys[0], keys[0][:-1] + "x", "x" * len(keys[0]), ""):
        looked_up.clear()
        for store in stores:
            store.check(guess)
        # What is looked up are digests under a secret of each store: nobody can guess one that is half right.
        assert [len(each) for each in looked_up] == [32, 32]
        assert looked_up[0] != looked_up[1]
