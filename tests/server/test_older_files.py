"""A server that starts where an older one has run."""

from __future__ import annotations

from collections.abc import Callable

from services.storage.database import NAME
from tests.support.older_files import OLD, older_files
from tests.support.serving import Server


def test_a_server_starts_with_older_files(serve: Callable[..., Server]) -> None:
    server = serve()
    key, id_ = server.mint("Bob")
    server.stop()
    for path in server.data.glob(f"{NAME}*"):
        path.unlink()
    older_files(server.data, key=id_)
    server.start()
    assert not any((server.data / name).exists() for name in OLD)
    (row,) = server.get("/auth/usage", key=key).json()["usage"]
    assert (row["requests"], row["completion_tokens"]) == (2, 40)
    assert {each["id"]: each["last_used"] for each in server.get("/auth/key").json()["keys"]}[id_]
    assert server.get("/jobs/1", key=key).status_code == 200
    assert server.ask("Count to 3.", key=key)["result"] == "1, 2, 3."
    assert server.stop() == 0
    assert {path.name for path in server.data.glob("*.sqlite*")} == {NAME, "documents.sqlite"}
