"""Keys managed on the command line, beside a running server."""

from __future__ import annotations

import json
from collections.abc import Callable

from auth.identity import MASTER
from tests.support.commands import run_command
from tests.support.serving import Server

Serve = Callable[..., Server]


def test_keys_are_managed_on_the_command_line(serve: Serve) -> None:
    server = serve()

    def run(*arguments: str) -> tuple[int, str, str]:
        # One of them is a new Python.
        done = run_command("keys", *arguments, "--data", server.data, forks=arguments[0] != "revoke")
        return done.returncode, done.stdout, done.stderr

    status, said, _ = run("mint", "--name", "Ana", "--expires", "30d", "--parallel", "2", "--scopes", "answer")
    assert status == 0
    key = next(line.strip() for line in said.splitlines() if line.strip().startswith("hearth-"))
    id_ = server.get("/auth/me", key=key).json()["id"]
    assert f"the key {id_}" in said
    assert server.ask("Count to 3.", key=key)["result"] == "1, 2, 3."
    assert "Ana" in run("list")[1]
    assert run("change", id_, "--parallel", "none", "--max-tokens", "3")[0] == 0
    assert server.get("/auth/me", key=key).json()["limits"] == {"max_tokens": 3}
    said = run("rotate", id_, "--grace", "0s")[1]
    new = next(line.strip() for line in said.splitlines() if line.strip().startswith("hearth-"))
    assert [server.get("/auth", key=each).status_code for each in (key, new)] == [401, 200]
    drawn = run("usage")[1]
    assert "█" in drawn
    assert id_ in drawn
    assert run("usage", id_, "--csv")[1].startswith("key,name,day,requests")
    assert json.loads(run("usage", "--json")[1])["usage"][0]["key"] == id_
    assert run("revoke", id_)[0] == 0
    assert server.get("/auth", key=new).status_code == 401
    for wrong, says in (
        (("revoke", id_), "there is no key"),
        (("revoke", MASTER), "master"),
        (("mint", "--scopes", "fly"), "scopes.0"),
        (("mint", "--parallel", "x"), "limits.parallel"),
        (("rotate", MASTER, "--grace", "long"), "--grace"),
    ):
        status, _, error = run(*wrong)
        assert status != 0
        assert says in error
        assert "Traceback" not in error
    done = [json.loads(line)["did"] for line in (server.data / "audit.jsonl").read_text().splitlines()]
    assert [each for each in done if each != "refused"] == ["mint", "change", "rotate", "revoke"]
