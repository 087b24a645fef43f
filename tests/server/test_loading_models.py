"""Which model is loaded: switched, replaced, freed, edited and refused."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.support.serving import ENDLESS, Server
from tests.support.tiny import GUIDE, write_embedding_model

Serve = Callable[..., Server]


def config_of(server: Server) -> dict[str, Any]:
    return dict(json.loads((server.data / "config.json").read_text(encoding="utf-8")))


def test_switching_changes_profile_and_model_at_once_and_for_good(serve: Serve, models: Path) -> None:
    shutil.copy(GUIDE, models / "other.gguf")
    server = serve(models=models)
    reply = server.post("/models/model", {"model": "other.gguf", "model_config": "Pirate"})
    assert reply.json() == {"model_status": True, "profile": "Pirate"}
    answer = server.ask("What is the capital of France?", memory_k=0)
    assert answer["result"] == "Arr! The capital of France is Paris."
    assert (answer["model"], answer["profile"]) == ("other.gguf", "Pirate")
    assert config_of(server)["SelectedModel"] == "Pirate"
    assert config_of(server)["Pirate"]["model"] == "other.gguf"
    server.stop()
    server.start()
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "Arr! 7 plus 5 is 12."
    assert server.post("/models/model/", {"model": "guide.gguf", "model_config": "Guide"}).status_code == 200
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


def test_a_file_replaced_under_the_same_name_is_loaded(serve: Serve, models: Path, tmp_path: Path) -> None:
    server = serve(models=models)
    before = server.ask("What is 7 plus 5?", memory_k=0)["result"]
    shutil.copy(models / "random.gguf", tmp_path / "new")
    (tmp_path / "new").rename(models / "guide.gguf")
    assert server.ask("What is 7 plus 5?", memory_k=0, max_tokens=20)["result"] != before


def test_a_model_that_keeps_no_context_is_refused(serve: Serve, models: Path) -> None:
    """An embedding model, say: llama.cpp loads it, and could not go on writing with it."""
    write_embedding_model(models / "embed.gguf")
    server = serve(models=models)
    reply = server.post("/models/model", {"model": "embed.gguf", "model_config": "Guide"})
    assert reply.status_code == 422
    assert "not a model that goes on writing" in reply.json()["message"]
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


def test_an_answer_in_flight_finishes_on_the_old_model(serve: Serve, models: Path) -> None:
    server = serve(models=models)
    server.edit_config("Random", **{**ENDLESS, "max_tokens": 600})
    server.select("Random")
    stream = server.stream("Go on")
    first = stream.next()
    assert server.post("/models/model", {"model": "guide.gguf", "model_config": "Guide"}).status_code == 200
    assert server.ask("What is 7 plus 5?", memory_k=0)["model"] == "guide.gguf"
    *_, whole, done = stream.rest()
    assert first
    assert (whole["model"], whole["usage"]["completion_tokens"], done) == ("random.gguf", 600, "[DONE]")


@pytest.fixture(scope="module")
def bad_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bad")
    models = folder / "models"
    models.mkdir()
    shutil.copy(GUIDE, models)
    (models / "cut.gguf").write_bytes(GUIDE.read_bytes()[:1_000_000])
    # A whole GGUF file, of an architecture that llama.cpp does not know.
    strange = GUIDE.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxxxa", 1)
    (models / "strange.gguf").write_bytes(strange)
    server = Server(folder / "data", models=models)
    server.edit_config("Broken", model="guide.gguf", template="{input}", cache_type_v="q8_0", flash_attn=False)
    yield server.start()
    server.stop()


@pytest.mark.parametrize(
    "body",
    [
        {"model": "cut.gguf", "model_config": "Guide"},
        {"model": "strange.gguf", "model_config": "Guide"},
        {"model": "guide.gguf", "model_config": "Broken"},
        {"model": "strange.gguf"},
    ],
)
def test_a_model_that_cannot_be_loaded_changes_nothing(bad_models: Server, body: dict[str, Any]) -> None:
    before = config_of(bad_models)
    reply = bad_models.post("/models/model", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (422, "model"), reply.text
    assert config_of(bad_models) == before
    assert bad_models.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


def test_a_damaged_file_is_named_before_llama_cpp_sees_it(bad_models: Server) -> None:
    reply = bad_models.post("/models/model", {"model": "cut.gguf", "model_config": "Guide"})
    assert "cut short" in reply.json()["message"]
    assert "cut short" in bad_models.get("/models").json()["details"]["cut.gguf"]["problem"]


def test_a_model_is_freed_from_memory_and_loaded_again_when_it_is_asked(serve: Serve) -> None:
    server = serve()
    assert server.get("/models").json()["loaded"] == ["guide.gguf"]
    for name in ("Guide", "guide", "guide.gguf"):
        server.ask("Hi", memory_k=0, max_tokens=1)
        reply = server.post("/models/unload", {"model": name})
        assert reply.json() == {"unloaded": True, "model": "guide.gguf"}
        assert server.get("/models").json()["loaded"] == []
        assert server.get("/health").json() == {"status": "ready"}
    reply = server.post("/models/unload", {"model": "Guide"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_loaded")
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    done = [json.loads(line) for line in (server.data / "audit.jsonl").read_text().splitlines()]
    noted = [(line["model"], line["status"]) for line in done if line["did"] == "unload"]
    assert noted == [("guide.gguf", 200)] * 3 + [("guide.gguf", 404)]


def test_a_model_that_answers_stays_in_memory(endless: Server) -> None:
    stream = endless.stream("Go on", memory_k=0)
    assert stream.next()
    reply = endless.post("/models/unload", {"model": "Random"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_in_use")
    assert int(reply.headers["Retry-After"]) > 0
    assert stream.next()
    stream.close()
    deadline = time.monotonic() + 20
    while endless.post("/models/unload", {"model": "Random"}).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "random.gguf" not in endless.get("/models").json()["loaded"]


def test_an_edit_that_cannot_be_loaded_shows_in_health(serve: Serve) -> None:
    server = serve()
    server.edit_config("Guide", cache_type_v="q8_0", flash_attn=False)
    reply = server.post("/answer", {"prompt": "Hi"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_model")
    assert server.get("/health").json() == {"status": "down"}
    server.edit_config("Guide", flash_attn=True)
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    assert server.get("/health").json() == {"status": "ready"}
