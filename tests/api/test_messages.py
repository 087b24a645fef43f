"""Messages of errors: what can be done is for whoever runs the server; others read of no commands or files of its own."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from services.cluster.stores.profiles import ClusterProfiles
from services.errors import DamagedFile, HearthError, InvalidRequest, Unavailable
from tests.support.in_process import Client

# Words that only whoever runs a server can do something with.
INNER = ("main.py", "config.json", "models folder", "data/", "HEARTH_", "HF_TOKEN", " --", "log says")
ALL = ["answer", "models:read", "models:switch", "models:pull"]

CASES: list[tuple[str, dict[str, Any], int, str, str]] = [
    ("/answer", {"prompt": "Hi", "model": "Qwen"}, 503, "no_model", "main.py pull Qwen"),
    ("/answer", {"prompt": "Hi", "model": "Qwen", "stream": True}, 503, "no_model", "main.py pull Qwen"),
    ("/answer", {"prompt": "Hi", "model": "none"}, 404, "model_not_found", "models folder"),
    ("/models/model", {"model": "none.gguf"}, 404, "model_not_found", "models folder"),
    ("/models/model", {"model": "../guide.gguf"}, 400, "bad_model_name", "models folder"),
    ("/models/model", {"model": "guide.gguf", "model_config": "No"}, 404, "profile_not_found", "data/config.json"),
    ("/models/pull", {"source": "Guide"}, 404, "no_source", '"source", hf:'),
    ("/models/pull", {"source": "file:///tmp/x.gguf"}, 400, "local_source", "main.py pull"),
]


@pytest.mark.parametrize(("path", "body", "status", "code", "hint"), CASES)
def test_hints_are_for_the_master_key(
    client: Client, path: str, body: dict[str, Any], status: int, code: str, hint: str
) -> None:
    other, _ = client.mint(scopes=ALL)
    mine, others = client.post(path, body), client.post(path, body, key=other)
    assert hint in mine.json()["message"]
    assert (mine.status_code, mine.json()["error"]["code"]) == (status, code), mine.text
    assert (others.status_code, others.json()["error"]["code"]) == (status, code), others.text
    assert others.json()["error"]["param"] == mine.json()["error"]["param"]
    assert others.json()["message"] == others.json()["error"]["message"]
    assert not [word for word in (*INNER, hint) if word in others.text]


def test_a_missing_file_is_told_in_a_persons_words_in_every_api(client: Client, key: str) -> None:
    says = 'the profile "Qwen" has no working model: this model\'s file is not on the server. Ask whoever runs it'
    chat = {"model": "Qwen", "messages": [{"role": "user", "content": "Hi"}], "max_tokens": 5}
    for path, headers in (
        ("/v1/chat/completions", {}),
        # It is computed as a job, apart from its request.
        ("/v1/chat/completions", {"Idempotency-Key": "once"}),
        ("/v1/messages", {"anthropic-version": "2023-06-01"}),
    ):
        body = client.post(path, chat, key=key, headers=headers).json()
        assert body["error"]["message"] == says
        master = client.post(path, chat, headers={name: f"{value} more" for name, value in headers.items()})
        assert "main.py pull Qwen" in master.json()["error"]["message"]
    assert client.post("/api/chat", {"model": "Qwen", "messages": chat["messages"]}, key=key).json()["error"] == says


def test_a_stream_that_fails_on_its_way_is_told_alike(client: Client, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise DamagedFile(Path("data/sessions.json"), "is broken", line=3)

    monkeypatch.setattr("services.answers.stream.Answer.events", lambda _: iter(lambda: fail(), None))
    asked = {"prompt": "What is 7 plus 5?", "stream": True, "memory_k": 0}
    assert "data/sessions.json, line 3" in client.post("/answer", asked).text
    others = client.post("/answer", asked, key=key).text
    assert '"code": "damaged_file"' in others
    assert not [word for word in (*INNER, "sessions.json") if word in others]


def test_a_broken_edit_is_the_master_keys_to_read(client: Client) -> None:
    other, _ = client.mint(scopes=ALL)
    path = client.data / "config.json"
    path.write_text(path.read_text().replace('"n_ctx": 2048,', '"n_ctx": 2048', 1))
    assert "line 6" in client.get("/models").json()["config_problem"]
    assert "config_problem" not in client.get("/models", key=other).json()
    switch = {"model": "guide.gguf", "model_config": "Pirate"}
    assert "config.json, line 6" in client.post("/models/model", switch).json()["message"]
    refused = client.post("/models/model", switch, key=other)
    assert (refused.status_code, refused.json()["error"]["code"]) == (500, "damaged_file")
    assert refused.json()["message"] == "a file of the server is damaged. Ask whoever runs it"


def test_a_file_of_the_cluster_is_nobody_elses(tmp_path: Path) -> None:
    class Redis:
        def key(self, name: str) -> str:
            return name

    profiles = ClusterProfiles(tmp_path / "config.json", Redis())  # type: ignore[arg-type]
    with pytest.raises(InvalidRequest) as refused:
        profiles.add("New", {"model": "new.gguf"})
    assert "config.json" in refused.value.message_for(is_master=True)
    assert refused.value.message_for(is_master=False) == "no profile has the model new.gguf"


@pytest.mark.parametrize("error", [HearthError("it is so"), Unavailable("it is so", retry_after=1)])
def test_other_messages_are_everybodys(error: HearthError) -> None:
    assert error.message_for(is_master=True) == error.message_for(is_master=False) == "it is so"
