"""Every route by every kind of key: who gets in is written down here once more, beside what the server declares."""

from __future__ import annotations

import re

import pytest

from auth.access import access_of
from auth.authentication import check_scope
from auth.identity import Identity
from services.api.auth import AuthResource
from services.api.route import Route
from services.api.routes import ROUTES
from services.errors import NotPermitted
from tests.support.clock import Clock
from tests.support.in_process import Client

PUBLIC, ANY, MASTER = "public", "any key", "master"
SCOPES = ("answer", "models:read", "models:switch", "models:pull", "models:delete", "keys", "metrics")
# What a route needs, by its path; with the methods, where not all need the same.
NEEDS = {
    **dict.fromkeys(("/", "/docs", "/openapi.json", "/health", "/healthz", "/readyz"), PUBLIC),
    **dict.fromkeys(("/docs/<path:name>", "/page/<path:name>"), PUBLIC),
    **dict.fromkeys(("/auth", "/auth/me", "/auth/usage", "/status"), ANY),
    **dict.fromkeys(("/answer", "/answer/<number>", "/answer/<owner>/<number>", "/answer/<number>/prompt"), "answer"),
    **dict.fromkeys(("/answer/<number>/draft", "/answer/<number>/stop", "/sessions", "/tokenize", "/detokenize"), "answer"),
    **dict.fromkeys(("/answer/<number>/branch", "/answer/<number>/messages/<index>"), "answer"),
    **dict.fromkeys(("/sessions/export", "/sessions/import"), "answer"),
    **dict.fromkeys(("/assistants", "/assistants/<id_>", "/settings"), "answer"),
    **dict.fromkeys(("/v1/messages", "/v1/messages/count_tokens"), "answer"),
    **dict.fromkeys(("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"), "answer"),
    **dict.fromkeys(("/infill",), "answer"),
    **dict.fromkeys(("/files", "/files/<id_>", "/files/<id_>/content", "/collections", "/search"), "answer"),
    **dict.fromkeys(("/v1/files", "/v1/files/<id_>", "/v1/files/<id_>/content"), "answer"),
    **dict.fromkeys(("/collections/<path:name>", "/collections/<name>/files"), "answer"),
    "/collections/<name>/files/<id_>": "answer",
    **dict.fromkeys(("/props", "/apply-template"), "answer"),
    **dict.fromkeys(("/v1/responses", "/v1/responses/input_tokens", "/v1/responses/<id_>"), "answer"),
    **dict.fromkeys(("/v1/responses/<id_>/cancel", "/v1/responses/<id_>/input_items"), "answer"),
    **dict.fromkeys(("/api/chat", "/api/embed", "/api/embeddings"), "answer"),
    **dict.fromkeys(("/api/tags", "/api/ps", "/api/show"), "models:read"),
    "/api/version": PUBLIC,
    **dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"), "answer"),
    **dict.fromkeys(("/api", "/api/generate", "/generate", "/chat_completion", "/jobs", "/jobs/<path:job_id>"), "answer"),
    **dict.fromkeys(("/models", "/v1/models", "/v1/models/<path:name>"), "models:read"),
    **dict.fromkeys(("/models/model", "/models/unload"), "models:switch"),
    "/models/pull": "models:pull",
    "/api/pull": "models:pull",
    "/api/delete": "models:delete",
    **dict.fromkeys(("/auth/key", "/auth/key/<id_>", "/auth/key/<id_>/rotate"), "keys"),
    "/metrics": "metrics",
    "/cluster": MASTER,
}


def routes() -> list[tuple[str, str, str]]:
    """Each route's rule, a path of it, and a method."""
    found = []
    for rule, methods in ((rule, route.resource.methods) for route in ROUTES for rule in route.paths):
        path = rule.replace("<number>", "77")
        path = re.sub(r"<(path:)?\w+>", "none-such", path)
        found += [(rule, path, method) for method in sorted(methods)]
    return found


@pytest.fixture
def kinds(client: Client, clock: Clock) -> dict[str, tuple[str, set[str] | None]]:
    """Keys by their kind, and what each may do; None: it is no key."""
    expiring, _ = client.mint(expires="1s")
    revoked, revoked_id = client.mint()
    rotated, rotated_id = client.mint()
    parent, parent_id = client.mint(scopes=["answer", "keys"])
    reply = client.post("/auth/key", {"scopes": ["answer"]}, key=parent)
    orphan, orphan_id = reply.json()["key"], reply.json()["id"]
    narrow, narrow_id = client.mint(scopes=["answer", "keys"])
    child = client.post("/auth/key", {"scopes": ["answer", "keys"]}, key=narrow).json()["key"]
    assert client.request("PATCH", f"/auth/key/{narrow_id}", json={"scopes": ["answer"]}).status_code == 200
    assert client.delete(f"/auth/key/{revoked_id}").status_code == 200
    assert client.post(f"/auth/key/{rotated_id}/rotate", {"grace": "0s"}).status_code == 200
    assert client.delete(f"/auth/key/{parent_id}").status_code == 200
    assert orphan_id != parent_id
    clock.forward(2)
    scoped = {scope: (client.mint(scopes=[scope])[0], {scope}) for scope in SCOPES}
    near = client.key[:-1] + ("A" if client.key[-1] != "A" else "B")
    return {
        "none": ("", None),
        "garbage": ("hearth-none", None),
        "a letter off": (near, None),
        "expired": (expiring, None),
        "revoked": (revoked, None),
        "an old form": (rotated, None),
        "minted by one that was revoked": (orphan, None),
        "without scopes": (client.mint(scopes=[])[0], set()),
        **scoped,
        "narrowed by the one that minted it": (child, {"answer"}),
        "master": (client.key, {*SCOPES, MASTER}),
    }


def test_every_route_lets_in_whom_it_should_and_nobody_else(
    client: Client, kinds: dict[str, tuple[str, set[str] | None]]
) -> None:
    wrong, rules = [], set()
    for rule, path, method in routes():
        rules.add(rule)
        need = NEEDS[rule]
        for kind, (key, scopes) in kinds.items():
            headers = {"Authorization": key} if key else {}
            body = "{}" if method in ("POST", "PATCH") else None
            reply = client.http.request(method, client.url + path, headers=headers, data=body)
            if need == PUBLIC:
                expected = "in"
            elif scopes is None:
                expected = "401"
            else:
                expected = "in" if need == ANY or need in scopes else "403"
            status = reply.status_code
            # One that may use the route may still ask it for too much, or for what is another's.
            is_refused = "needs the scope" in reply.text or "only the master key" in reply.text
            found = str(status) if status == 401 or (status == 403 and is_refused) else "in"
            if found != expected:
                wrong.append(f"{method} {rule} with the key {kind!r}: {status} {reply.text[:100]}, not {expected}")
    assert not wrong, "\n".join(wrong)
    assert rules == set(NEEDS), "a route is missing here, or is no more"


def test_the_application_serves_the_table_and_nothing_else(client: Client) -> None:
    served = {(rule.endpoint, rule.rule) for rule in client.app.url_map.iter_rules()}
    assert served == {(route.name, path) for route in ROUTES for path in route.paths}


def test_a_route_has_to_say_who_may_use_it() -> None:
    with pytest.raises(TypeError, match="needs"):
        Route("new", ("/new",), AuthResource, None)  # type: ignore[call-arg]
    # One that the guard knows nothing of is the master's alone.
    with pytest.raises(NotPermitted, match="only the master key"):
        check_scope(Identity("ana", None, frozenset(SCOPES)), access_of("new", {}))


def test_what_a_key_has_is_nobody_elses(client: Client) -> None:
    """Sessions, jobs and replies of one key, asked for by another with all that names them."""
    (ana, ana_id), (bea, _) = client.mint("Ana", scopes=["answer"]), client.mint("Bea", scopes=["answer"])
    named = {"headers": {"Idempotency-Key": "once"}}
    body = {"prompt": "Count to 3.", "session_id": 1}
    first = client.post("/answer", body, key=ana, **named)
    assert first.status_code == 200
    assert client.post("/answer", body, key=ana, **named).headers["Idempotent-Replayed"] == "true"
    job = {"job_id": "j1", "meta": {"tokens_limit": 2}, "content": "Hi"}
    assert client.post("/generate", job, key=ana).status_code == 200
    assert client.get("/jobs/j1", key=ana).status_code == 200
    assert client.get("/jobs/j1", key=bea).status_code == 404
    again = client.post("/answer", body, key=bea, **named)
    assert again.status_code == 200
    assert "Idempotent-Replayed" not in again.headers
    assert again.json()["usage"]["cached_tokens"] <= first.json()["usage"]["cached_tokens"] + 1
    assert client.delete("/answer/1", key=bea).status_code == 200
    assert client.get("/answer/1", key=bea).status_code == 404
    for path in (f"/answer/{ana_id}/1", f"/answer/{ana_id}%2F1"):
        assert client.get(path, key=bea).status_code in (403, 404)
        assert client.delete(path, key=bea).status_code in (403, 404, 405)
    messages = client.get("/answer/1", key=ana).json()["messages"]
    assert [message["type"] for message in messages] == ["human", "ai"]
