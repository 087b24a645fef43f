from __future__ import annotations

import json
from collections.abc import Callable

import pytest

from tests.support.serving import Server

Serve = Callable[..., Server]


def test_a_key_is_taken_in_every_form(server: Server) -> None:
    for headers in (
        {"Authorization": server.key},
        {"Authorization": f"Bearer {server.key}"},
        {"Authorization": f"bearer  {server.key} "},
        {"X-Api-Key": server.key},
    ):
        reply = server.http.get(f"{server.url}/auth", headers=headers)
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
def test_without_a_good_key_nothing_is_answered(server: Server, path: str, headers: dict[str, str]) -> None:
    for method in ("GET", "POST", "DELETE"):
        encoded = {name: value.encode("latin-1") for name, value in headers.items()}
        reply = server.http.request(method, server.url + path, headers=encoded)
        assert reply.status_code == 401
        assert reply.headers["WWW-Authenticate"] == "Bearer"
        assert reply.json()["error"]["type"] == "authentication_error"


def test_the_master_mints_lists_and_revokes(server: Server) -> None:
    reply = server.post("/auth/key", {"name": "Ana"})
    key, id_ = reply.json()["key"], reply.json()["id"]
    assert server.get("/auth", key=key).json() == {"auth": True}
    listed = server.get("/auth/key")
    assert {"id": id_, "name": "Ana"}.items() <= {k["id"]: k for k in listed.json()["keys"]}[id_].items()
    assert key not in listed.text
    assert "hash" not in listed.text
    assert server.ask("Count to 3.", key=key, session_id=1)["result"] == "1, 2, 3."
    assert server.delete(f"/auth/key/{id_}").json() == {"deleted": True}
    assert server.get("/auth", key=key).status_code == 401
    assert server.delete(f"/auth/key/{id_}").status_code == 404
    assert server.delete("/auth/key/0").status_code == 400


def test_minting_needs_no_body(server: Server) -> None:
    reply = server.request("POST", "/auth/key")
    assert reply.status_code == 200
    assert {k["id"]: k["name"] for k in server.get("/auth/key").json()["keys"]}[reply.json()["id"]] is None


@pytest.mark.parametrize("body", [{"name": ""}, {"name": 5}, {"nam": "x"}, {"name": "x" * 201}])
def test_a_bad_name_is_refused(server: Server, body: object) -> None:
    assert server.post("/auth/key", body).status_code == 400


def test_a_derived_key_may_not_mint(server: Server) -> None:
    key, id_ = server.mint()
    for method, path in (("POST", "/auth/key"), ("GET", "/auth/key"), ("DELETE", f"/auth/key/{id_}")):
        reply = server.request(method, path, key=key)
        assert (reply.status_code, reply.json()["error"]["type"]) == (403, "permission_error")
    assert server.get("/auth", key=key).status_code == 200


def test_a_key_typed_by_a_person_is_the_master(serve: Serve) -> None:
    server = serve()
    first = server.key
    (server.data / "api_keys.json").write_text('{"0": "open sesame ü"}', encoding="utf-8")
    assert server.get("/auth", key=first).status_code == 401
    assert server.get("/auth/key", key="open sesame ü".encode()).status_code == 200
    stored = (server.data / "api_keys.json").read_text()
    assert "sesame" not in stored
    assert json.loads(stored)["0"]["hash"].startswith("scrypt:")


def test_no_key_is_ever_in_the_log(server: Server) -> None:
    key, _ = server.mint()
    server.get("/auth", key=key)
    server.get("/auth", key="wrong-key-wrong-key")
    server.post("/answer", {"prompt": "marzipan", "top_p": 5}, key=key)
    for secret in (key, server.key, "wrong-key", "marzipan"):
        assert secret not in server.log()
