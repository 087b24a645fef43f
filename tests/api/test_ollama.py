"""Ollama's API: /api/chat, /api/generate with a model, /api/embed, and the models."""

from __future__ import annotations

import json
from datetime import datetime
from typing import Any

import pytest

from tests.api.test_openai_tools import ARGUMENTS, MARKS, TEMPLATE, THOUGHT, call, prompt_of
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.openai_api import CLOCK, FRANCE, WEATHER

CHAT, GENERATE = "/api/chat", "/api/generate"


@pytest.fixture
def backend(request: pytest.FixtureRequest) -> FakeBackend:
    """The model of tests called `…without_thoughts…` has none."""
    is_plain = "without_thoughts" in request.node.name
    return FakeBackend() if is_plain else FakeBackend(template=TEMPLATE, specials=MARKS)


@pytest.fixture
def client(client: Client) -> Client:
    client.edit_config("Guide", template=None)
    return client


def body(words: Any = FRANCE, **fields: Any) -> dict[str, Any]:
    messages = [{"role": "user", "content": words}] if isinstance(words, str) else words
    return {"model": "Guide", "messages": messages, **fields}


def whole(client: Client, path: str = CHAT, **fields: Any) -> dict[str, Any]:
    stream = {"stream": False} if path in (CHAT, GENERATE) else {}
    reply = client.post(path, {**stream, **fields})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def lines(client: Client, path: str = CHAT, **fields: Any) -> list[dict[str, Any]]:
    reply = client.post(path, fields)
    assert reply.headers["Content-Type"] == "application/x-ndjson", reply.text
    return [json.loads(line) for line in reply.text.splitlines()]


def refused(client: Client, path: str = CHAT, status: int = 400, **fields: Any) -> str:
    reply = client.post(path, fields)
    assert reply.status_code == status, reply.text
    assert list(reply.json()) == ["error"]
    return str(reply.json()["error"])


def test_a_whole_chat(client: Client, backend: FakeBackend) -> None:
    backend.reply("Paris", " it is.")
    told = whole(client, **body(model="Guide:latest"))
    assert told["message"] == {"role": "assistant", "content": "Paris it is."}
    assert (told["model"], told["done"], told["done_reason"]) == ("Guide", True, "stop")
    assert told["eval_count"] > 0
    assert told["prompt_eval_count"] > 0
    assert told["total_duration"] >= told["eval_duration"] > 0
    assert datetime.fromisoformat(told["created_at"].replace("Z", "+00:00"))


def test_a_chat_in_lines(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, "I look.\n", *call(), "\n", *call("clock", "{}"))
    *parts, last = lines(client, **body(tools=[WEATHER, CLOCK]))
    assert not any(part["done"] for part in parts)
    assert "".join(part["message"].get("thinking", "") for part in parts) == "The user asks."
    assert "".join(part["message"]["content"] for part in parts) == "I look."
    calls = [called for part in parts for called in part["message"].get("tool_calls", ())]
    assert [called["function"]["name"] for called in calls] == ["get_weather", "clock"]
    assert calls[0]["function"]["arguments"] == json.loads(ARGUMENTS)
    assert (last["done"], last["done_reason"], last["message"]["content"]) == (True, "stop", "")


def test_a_tool_loop(client: Client, backend: FakeBackend) -> None:
    backend.reply(*THOUGHT, *call())
    message = whole(client, **body(tools=[WEATHER]))["message"]
    assert message["thinking"] == "The user asks."
    result = {"role": "tool", "tool_name": "get_weather", "content": "Rain"}
    backend.reply("It rains.")
    talk = [{"role": "user", "content": FRANCE}, message, result]
    assert whole(client, **body(talk, tools=[WEATHER]))["message"]["content"] == "It rains."
    prompt = prompt_of(backend)
    assert '{"name": "get_weather", "arguments": {"city": "Rome", "days": 2}}' in prompt
    assert "<tool_response>Rain</tool_response>" in prompt


def test_options(client: Client, backend: FakeBackend) -> None:
    options = {
        "temperature": 0.5,
        "top_k": 7,
        "top_p": 0.5,
        "min_p": 0.1,
        "repeat_penalty": 1.2,
        "seed": 3,
        "stop": [" two"],
    }
    backend.reply("One two three")
    told = whole(client, **body(options={**options, "num_predict": -2, "num_ctx": 100_000, "num_gpu": 1}))
    assert told["message"]["content"] == "One"
    request = backend.requests[-1]
    sampling = request.sampling
    assert (sampling.temperature, sampling.top_k, sampling.top_p, sampling.min_p) == (0.5, 7, 0.5, 0.1)
    assert (sampling.repeat_penalty, sampling.seed) == (1.2, 3)
    assert request.max_tokens > 1000
    backend.reply("One two three")
    assert whole(client, **body(options={"num_predict": 2}))["done_reason"] == "length"
    assert backend.requests[-1].max_tokens == 2
    assert "num_ctx" in refused(client, **body(options={"num_ctx": 1}))
    assert "64" in refused(client, **body("word " * 100, options={"num_ctx": 64}))


def test_forms_and_thoughts(client: Client, backend: FakeBackend) -> None:
    schema = {"type": "object", "properties": {"city": {"type": "string"}}}
    for form, source in ((schema, json.dumps(schema)), ("json", '{"type": "object"}')):
        backend.reply('{"city": "Paris"}')
        whole(client, **body(format=form))
        constraint = backend.requests[-1].sampling.constraint
        assert constraint
        assert source in constraint.source
    backend.reply("Paris.")
    whole(client, **body(think=False, format=""))
    assert prompt_of(backend).endswith("<think>\n\n</think>\n\n")
    backend.reply("Paris.")
    told = whole(client, **body(logprobs=True, top_logprobs=2))
    assert told["logprobs"][0].keys() >= {"token", "logprob", "top_logprobs"}


def test_a_model_without_thoughts_is_not_asked_to_think(client: Client) -> None:
    assert refused(client, **body(think=True)).startswith("think: ")
    assert whole(client, **body(think=False))["message"]["content"]


def test_generate(client: Client, backend: FakeBackend) -> None:
    backend.reply("Par", "is.")
    *parts, last = lines(client, GENERATE, model="Guide", prompt=FRANCE, system="Be brief.")
    assert "".join(part["response"] for part in parts) == "Paris."
    assert (last["done"], last["response"]) == (True, "")
    assert prompt_of(backend).startswith("<|im_start|>system\nBe brief.<|im_end|>")
    backend.reply("Paris.")
    told = whole(client, GENERATE, model="Guide", prompt="<|im_start|>user\nHi", raw=True)
    assert told["response"] == "Paris."
    assert prompt_of(backend) == "<|im_start|>user\nHi"
    for fields in ({"suffix": "x"}, {"template": "x"}, {"context": [1]}, {"images": ["x"]}, {"raw": True, "system": "x"}):
        assert list(fields)[-1] in refused(client, GENERATE, model="Guide", prompt="x", **fields)
    whole(client, GENERATE, model="Guide", prompt="x", suffix="", context=[], images=None, template="")


def test_generate_without_a_model_is_langformers(client: Client, backend: FakeBackend) -> None:
    backend.reply("Paris.")
    reply = client.post(GENERATE, {"prompt": FRANCE})
    assert reply.headers["Content-Type"].startswith("text/event-stream")
    assert '"chunk": "Paris' in reply.text
    error = client.post(GENERATE, {"prompt": FRANCE, "options": {}}).json()["error"]
    assert error["param"] == "options"
    assert "prompt" in client.post(GENERATE, {}).json()["message"]


def test_a_model_is_loaded_without_a_prompt(client: Client) -> None:
    assert whole(client, **body([]))["done_reason"] == "load"
    [told] = lines(client, GENERATE, model="Guide")
    assert (told["response"], told["done"], told["done_reason"]) == ("", True, "load")
    assert "POST /models/unload" in refused(client, model="Guide", keep_alive=0)
    assert "POST /models/unload" in refused(client, model="Guide", keep_alive="0s")


def test_a_session_keeps_its_conversation(client: Client, backend: FakeBackend) -> None:
    backend.reply("Hello Zoe.")
    whole(client, **body("I am Zoe.", session_id=7))
    backend.reply("Zoe.")
    whole(client, GENERATE, model="Guide", prompt="Who am I?", session_id=7)
    assert "I am Zoe." in prompt_of(backend)
    talk = [{"role": "user", "content": "A"}, {"role": "assistant", "content": "B"}]
    assert "session" in refused(client, **body(talk, session_id=7))


def test_what_cannot_be_honoured_is_refused_by_name(client: Client) -> None:
    assert "model" in refused(client, messages=[])
    assert "nobody" in refused(client, status=404, **body(model="nobody"))
    assert "images" in refused(client, **body([{"role": "user", "content": "x", "images": ["AAAA"]}]))
    assert "tfs_z" in refused(client, **body(options={"tfs_z": 0.5}))
    assert "n:" in refused(client, **body(options={"n": 2}))
    assert "format" in refused(client, **body(format="xml"))
    reply = client.post(CHAT, body(mood=1, stream=False, options={"mood": 2}))
    assert reply.headers["X-Hearth-Ignored"] == "mood, options.mood"
    wrong = client.post(CHAT, body(), key="wrong")
    assert (wrong.status_code, list(wrong.json())) == (401, ["error"])


def test_an_error_in_a_stream_is_a_line(client: Client, backend: FakeBackend) -> None:
    backend.reply("Par", RuntimeError("broken"))
    assert list(lines(client, **body())[-1]) == ["error"]


def test_the_models(client: Client) -> None:
    models = client.get("/api/tags").json()["models"]
    assert models[0]["name"] == models[0]["model"] == "Guide:latest"
    assert len(models[0]["digest"]) == 64
    assert models[0]["details"].items() >= {"format": "gguf", "family": "llama", "quantization_level": "Q8_0"}.items()
    assert models[0]["size"] > 10**6
    assert datetime.fromisoformat(models[0]["modified_at"].replace("Z", "+00:00"))
    whole(client, **body([]))
    loaded = [model["name"] for model in client.get("/api/ps").json()["models"]]
    assert "Guide:latest" in loaded
    assert client.get("/api/version").json()["version"]


def test_a_model_is_shown(client: Client) -> None:
    shown = client.post("/api/show", {"model": "Guide:latest"}).json()
    assert shown["model_info"]["general.architecture"] == "llama"
    assert shown["model_info"]["llama.context_length"] == 2048
    assert shown["capabilities"] == ["completion"]
    client.edit_config("Guide", chat_template=TEMPLATE)
    shown = client.post("/api/show", {"name": "Guide"}).json()
    assert shown["template"] == TEMPLATE
    assert shown["capabilities"] == ["completion", "tools", "thinking"]
    assert "temperature" in shown["parameters"]
    assert "nobody" in refused(client, "/api/show", 404, model="nobody")
    assert "model" in refused(client, "/api/show")


def test_only_the_keys_own_profiles_are_told(client: Client) -> None:
    key, _ = client.mint(scopes=["models:read"], profiles=["Pirate"])
    assert [model["name"] for model in client.get("/api/tags", key=key).json()["models"]] == ["Pirate:latest"]
    assert client.post("/api/show", {"model": "Guide"}, key=key).status_code == 404


def test_vectors(client: Client) -> None:
    told = whole(client, "/api/embed", model="Guide", input=["One", "Two"])
    assert (len(told["embeddings"]), told["model"]) == (2, "Guide")
    assert told["prompt_eval_count"] > 0
    alone = whole(client, "/api/embed", model="Guide", input="One", truncate=True, keep_alive="5m")
    assert alone["embeddings"] == told["embeddings"][:1]
    assert whole(client, "/api/embeddings", model="Guide", prompt="One")["embedding"] == told["embeddings"][0]
    assert "dimensions" in refused(client, "/api/embed", model="Guide", input="One", dimensions=400)
    assert "input" in refused(client, "/api/embed", model="Guide", input=[])
