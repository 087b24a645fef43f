"""Ollama's own package, unchanged, against the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import ollama
import pytest
from pydantic import BaseModel

from tests.server.test_agents import DONE, FAMILIES, FIRST, QUESTION, RULES, STEPS, Library, scripts_of
from tests.support.families import Family, scripted_server
from tests.support.hub import Hub
from tests.support.serving import Server
from tests.support.tiny import GUIDE

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
SURELY = {"temperature": 0, "num_predict": 50}


class City(BaseModel):
    """A city, of which a model that writes at random comes to the end."""

    capital: bool


@contextmanager
def client_of(server: Server, key: str | None = None) -> Iterator[ollama.Client]:
    headers = {"Authorization": f"Bearer {server.key if key is None else key}"}
    with closing(ollama.Client(host=server.url, headers=headers)) as client:
        yield client


@pytest.fixture
def client(server: Server) -> Iterator[ollama.Client]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("ollama"), models) as running:
        yield running


def ask(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


def test_chats_and_prompts(client: ollama.Client) -> None:
    whole = client.chat("Guide", ask(FRANCE), options=SURELY)
    assert (whole.message.content, whole.done_reason, whole.model) == (PARIS, "stop", "Guide")
    parts = list(client.chat("Guide:latest", ask(FRANCE), options=SURELY, stream=True))
    assert "".join(part.message.content or "" for part in parts) == PARIS
    assert [part.done for part in parts] == [False] * (len(parts) - 1) + [True]
    assert parts[-1].eval_count == whole.eval_count
    assert parts[-1].total_duration
    assert client.generate("Guide", FRANCE, options=SURELY).response == PARIS
    assert "".join(part.response or "" for part in client.generate("Guide", FRANCE, options=SURELY, stream=True)) == PARIS
    assert client.generate("Guide").done_reason == "load"


def test_chats_without_blocking(server: Server) -> None:
    async def talk() -> str:
        client = ollama.AsyncClient(host=server.url, headers={"Authorization": f"Bearer {server.key}"})
        async with client:
            stream = await client.chat("Guide", ask(FRANCE), options=SURELY, stream=True)
            return "".join([part.message.content or "" async for part in stream])

    assert asyncio.run(talk()) == PARIS


def test_forms_vectors_and_models(client: ollama.Client) -> None:
    told = client.chat("Guide", ask(FRANCE), format=City.model_json_schema(), options=SURELY)
    City.model_validate_json(told.message.content or "")
    vectors = client.embed("Guide", ["One", "Two"]).embeddings
    assert len(vectors) == 2
    assert client.embeddings("Guide", "One").embedding == vectors[0]
    assert "Guide:latest" in [model.model for model in client.list().models]
    assert "Guide:latest" in [model.model for model in client.ps().models]
    shown = client.show("Guide:latest")
    assert shown.capabilities
    assert shown.modelinfo
    assert shown.details
    assert shown.details.family == "llama"


def test_errors_are_those_that_the_package_knows(server: Server, client: ollama.Client) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        client.chat("llama3.2", ask(FRANCE))
    assert missing.value.status_code == 404
    assert "llama3.2" in missing.value.error
    with client_of(server, "wrong") as stranger_client, pytest.raises(ollama.ResponseError) as stranger:
        stranger_client.chat("Guide", ask(FRANCE))
    assert stranger.value.status_code == 401


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
def test_a_tool_loop(scripted: Server, family: Family) -> None:
    with client_of(scripted) as client:
        _loop(client, family)


def _loop(client: ollama.Client, family: Family) -> None:
    library = Library()
    messages: list[Any] = [{"role": "system", "content": RULES}, *ask(QUESTION)]
    for step in range(STEPS):
        if step % 2:
            reply = client.chat(family.name, messages, tools=[library.look_up]).message
        else:
            *parts, _ = client.chat(family.name, messages, tools=[library.look_up], stream=True)
            reply = parts[-1].message
            reply.thinking = "".join(part.message.thinking or "" for part in parts)
        [call] = reply.tool_calls or ()
        assert bool(reply.thinking) == family.thinks
        assert json.dumps(dict(call.function.arguments)) == json.dumps(
            {"step": FIRST + step, "topic": f"the moons of Jupiter, part {step}"}
        )
        result = library.look_up(**call.function.arguments)
        messages += [reply, {"role": "tool", "tool_name": call.function.name, "content": result}]
    library.check()
    assert (client.chat(family.name, messages, tools=[library.look_up]).message.content or "").strip() == DONE


def test_models_are_fetched_and_deleted(serve: Callable[..., Server], tmp_path: Path) -> None:
    hub, data = Hub(), GUIDE.read_bytes()
    hub.files["Hearth/guide-GGUF"] = {"guide-q8_0.gguf": data}
    (tmp_path / "models").mkdir()
    (tmp_path / "models" / GUIDE.name).symlink_to(GUIDE)
    server = serve(models=tmp_path / "models", environ=hub.env)
    name = "hf.co/Hearth/guide-GGUF:Q8_0"
    with client_of(server) as client:
        told = list(client.pull(name, stream=True))
        assert [each.status for each in (told[0], *told[-3:])] == [
            "pulling manifest",
            "verifying sha256 digest",
            "writing manifest",
            "success",
        ]
        assert (told[-4].completed, told[-4].total) == (len(data), len(data))
        assert client.pull(name).status == "success"
        # It answers by the name under which it was fetched, and others stay as they were.
        assert client.chat(name, ask(FRANCE), options=SURELY).message.content
        assert server.get("/models").json()["selected"] == "Guide"
        assert name in [model.model for model in client.list().models]
        assert client.delete(name).status == "success"
        assert not (tmp_path / "models" / "guide-q8_0.gguf").exists()
        with pytest.raises(ollama.ResponseError, match="no model"):
            client.delete(name)
        with pytest.raises(ollama.ResponseError, match="is needed: by Guide, Pirate"):
            client.delete("Guide")
        with pytest.raises(ollama.ResponseError, match="not-there"):
            client.pull("not-there")
    with client_of(server, server.mint("reader")[0]) as client, pytest.raises(ollama.ResponseError, match="models:delete"):
        client.delete("Guide")
    hub.close()
