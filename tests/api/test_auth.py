from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.in_process import Client

Open = Callable[..., Client]


def test_a_key_is_taken_in_every_form(client: Client) -> None:
    for headers in (
        {"Authorization": client.key},
        {"Authorization": f"Bearer {client.key}"},
        {"Authorization": f"bearer  {client.key} "},
        {"X-Api-Key": client.key},
    ):
        reply = client.http.get(f"{client.url}/auth", headers=headers)
        assert (reply.status_code, reply.json()) == (200, {"auth": True})


@pytest.mark.parametrize(
    "path",
    [
        "/answer",
        "/answer/1",
        "/models",
        "/models/model",
        "/auth",
        "/auth/",
        "/auth/key",
        "/jobs/x",
        "/nothing",
        "/status",
        "/sessions",
    ],
)
@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer"}, {"Authorization": "wrong"}, {"X-Api-Key": "é"}, {"Authorization": "Basic eA=="}],
)
def test_without_a_good_key_nothing_is_answered(client: Client, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "DELETE"):
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        reply = client.http.request(method, client.url + path, headers=encoded)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert reply.json()["error"]["type"] == "authentication_error"


def test_the_master_mints_lists_and_revokes(client: Client) -> None:
    reply = client.post("/auth/key", {"name": "Ana"})
    key, id_ = reply.json()["key"], reply.json()["id"]
    assert client.get("/auth", key=key).json() == {"auth": True}
    listed = client.get("/auth/key")
    assert {"id": id_, "name": "Ana"}.items() <= {k["id"]: k for k in listed.json()["keys"]}[id_].items()
    assert key not in listed.text
    assert "hash" not in listed.text
    assert client.ask("Count to 3.", key=key, session_id=1)["result"] == "1, 2, 3."
    assert client.delete(f"/auth/key/{id_}").json() == {"deleted": True}
    assert client.get("/auth", key=key).status_code == 401
    assert client.delete(f"/auth/key/{id_}").status_code == 404
    assert client.delete("/auth/key/0").status_code == 400


def test_minting_needs_no_body(client: Client) -> None:
    reply = client.request("POST", "/auth/key")
    assert reply.status_code == 200
    assert {k["id"]: k["name"] for k in client.get("/auth/key").json()["keys"]}[reply.json()["id"]] is None


@pytest.mark.parametrize("body", [{"name": ""}, {"name": 5}, {"nam": "x"}, {"name": "x" * 201}])
def test_a_bad_name_is_refused(client: Client, body: object) -> None:
    assert client.post("/auth/key", body).status_code == 400


def test_a_derived_key_may_not_mint(client: Client) -> None:
    key, id_ = client.mint()
    for method, path in (("POST", "/auth/key"), ("GET", "/auth/key"), ("DELETE", f"/auth/key/{id_}")):
        reply = client.request(method, path, key=key)
        assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    assert client.get("/auth", key=key).status_code == 200


def test_a_key_typed_by_a_person_is_the_master(client: Client) -> None:
    first = client.key
    (client.data / "api_keys.json").write_text('{"0": "open sesame ü"}', encoding="utf-8")
    assert client.get("/auth", key=first).status_code == 401
    assert client.get("/auth/key", key="open sesame ü".encode()).status_code == 200
    stored = (client.data / "api_keys.json").read_text()
    assert "sesame" not in stored
    assert json.loads(stored)["0"]["hash"].startswith("scrypt:")
