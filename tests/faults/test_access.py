"""Every route by every kind of key: who gets in is written down here once more, beside what the server declares."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import pytest

from services.app import create_app
from services.engine.pool import EnginePool
from services.settings import Settings
from tests.support.serving import ROOT, Server

PUBLIC, ANY, MASTER = "public", "any key", "master"
SCOPES = ("answer", "models:read", "models:switch", "models:pull", "keys", "metrics")
# What a route needs, by its path; with the methods, where not all need the same.
NEEDS = {
    **dict.fromkeys(("/", "/docs", "/openapi.json", "/health", "/healthz", "/readyz"), PUBLIC),
    **dict.fromkeys(("/docs/<path:name>", "/page/<path:name>"), PUBLIC),
    **dict.fromkeys(("/auth", "/auth/me", "/auth/usage", "/status"), ANY),
    **dict.fromkeys(("/answer", "/answer/<number>", "/answer/<owner>/<number>", "/answer/<number>/prompt"), "answer"),
    **dict.fromkeys(("/answer/<number>/stop", "/sessions", "/tokenize", "/detokenize"), "answer"),
    **dict.fromkeys(("/v1/chat/completions", "/v1/completions", "/v1/embeddings"), "answer"),
    **dict.fromkeys(("/api", "/api/generate", "/generate", "/chat_completion", "/jobs", "/jobs/<path:job_id>"), "answer"),
    **dict.fromkeys(("/models", "/v1/models", "/v1/models/<path:name>"), "models:read"),
    **dict.fromkeys(("/models/model", "/models/unload"), "models:switch"),
    "/models/pull": "models:pull",
    **dict.fromkeys(("/auth/key", "/auth/key/<id_>", "/auth/key/<id_>/rotate"), "keys"),
    "/metrics": "metrics",
    "/cluster": MASTER,
}


def routes(tmp_path: Path) -> list[tuple[str, str, str]]:
    """Each route's rule, a path of it, and a method."""
    data = tmp_path / "routes"
    data.mkdir()
    (data / "config.json").write_text((ROOT / "data" / "config.example.json").read_text())
    found = []
    for route in create_app(Settings(data=data), EnginePool()).url_map.iter_rules():
        path = route.rule
        for argument in route.arguments:
            converter = "path:" if f"<path:{argument}>" in path else ""
            path = path.replace(f"<{converter}{argument}>", "77" if argument == "number" else "none-such")
        found += [(route.rule, path, method) for method in sorted((route.methods or set()) - {"OPTIONS", "HEAD"})]
    return found


@pytest.fixture(scope="module")
def kinds(server: Server) -> dict[str, tuple[str, set[str] | None]]:
    """Keys by their kind, and what each may do; None: it is no key."""
    expiring, _ = server.mint(expires="1s")
    revoked, revoked_id = server.mint()
    rotated, rotated_id = server.mint()
    parent, parent_id = server.mint(scopes=["answer", "keys"])
    reply = server.post("/auth/key", {"scopes": ["answer"]}, key=parent)
    orphan, orphan_id = reply.json()["key"], reply.json()["id"]
    narrow, narrow_id = server.mint(scopes=["answer", "keys"])
    child = server.post("/auth/key", {"scopes": ["answer", "keys"]}, key=narrow).json()["key"]
    assert server.request("PATCH", f"/auth/key/{narrow_id}", json={"scopes": ["answer"]}).status_code == 200
    assert server.delete(f"/auth/key/{revoked_id}").status_code == 200
    assert server.post(f"/auth/key/{rotated_id}/rotate", {"grace": "0s"}).status_code == 200
    assert server.delete(f"/auth/key/{parent_id}").status_code == 200
    assert orphan_id != parent_id
    time.sleep(1.1)
    scoped = {scope: (server.mint(scopes=[scope])[0], {scope}) for scope in SCOPES}
    near = server.key[:-1] + ("A" if server.key[-1] != "A" else "B")
    return {
        "none": ("", None),
        "garbage": ("hearth-none", None),
        "a letter off": (near, None),
        "expired": (expiring, None),
        "revoked": (revoked, None),
        "an old form": (rotated, None),
        "minted by one that was revoked": (orphan, None),
        "without scopes": (server.mint(scopes=[])[0], set()),
        **scoped,
        "narrowed by the one that minted it": (child, {"answer"}),
        "master": (server.key, {*SCOPES, MASTER}),
    }


def test_every_route_lets_in_whom_it_should_and_nobody_else(
    server: Server, kinds: dict[str, tuple[str, set[str] | None]], tmp_path: Path
) -> None:
    wrong, rules = [], set()
    for rule, path, method in routes(tmp_path):
        rules.add(rule)
        need = NEEDS[rule]
        for kind, (key, scopes) in kinds.items():
            headers = {"Authorization": key} if key else {}
            body = "{}" if method in ("POST", "PATCH") else None
            reply = server.http.request(method, server.url + path, headers=headers, data=body, timeout=60)
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


def test_what_a_key_has_is_nobody_elses(serve: Callable[..., Server]) -> None:
    """Sessions, jobs and replies of one key, asked for by another with all that names them."""
    server = serve()
    (ana, ana_id), (bea, _) = server.mint("Ana", scopes=["answer"]), server.mint("Bea", scopes=["answer"])
    named = {"headers": {"Idempotency-Key": "once"}}
    body = {"prompt": "Count to 3.", "session_id": 1}
    first = server.post("/answer", body, key=ana, **named)
    assert first.status_code == 200
    assert server.post("/answer", body, key=ana, **named).headers["Idempotent-Replayed"] == "true"
    job = {"job_id": "j1", "meta": {"tokens_limit": 2}, "content": "Hi"}
    assert server.post("/generate", job, key=ana).status_code == 200
    assert server.get("/jobs/j1", key=ana).status_code == 200
    assert server.get("/jobs/j1", key=bea).status_code == 404
    again = server.post("/answer", body, key=bea, **named)
    assert again.status_code == 200
    assert "Idempotent-Replayed" not in again.headers
    assert again.json()["usage"]["cached_tokens"] <= first.json()["usage"]["cached_tokens"] + 1
    assert server.delete("/answer/1", key=bea).status_code == 200
    assert server.get("/answer/1", key=bea).status_code == 404
    for path in (f"/answer/{ana_id}/1", f"/answer/{ana_id}%2F1"):
        assert server.get(path, key=bea).status_code in (403, 404)
        assert server.delete(path, key=bea).status_code in (403, 404, 405)
    messages = server.get("/answer/1", key=ana).json()["messages"]
    assert [message["type"] for message in messages] == ["human", "ai"]
