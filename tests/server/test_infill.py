"""Gaps in texts: /infill, and `suffix` of OpenAI's and Ollama's APIs, with a model that has the tokens."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from tests.support.serving import Server
from tests.support.tiny import GUIDE, write_random_model

BEFORE, BEHIND = "int main() {", "}"


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    folder = tmp_path_factory.mktemp("models")
    write_random_model(folder / "coder.gguf", dim=64, layers=1, ffn=64, n_ctx=512, fills_gaps=True)
    write_random_model(folder / "plain.gguf", dim=64, layers=1, ffn=64, n_ctx=512)
    (folder / GUIDE.name).symlink_to(GUIDE)
    server = Server(tmp_path_factory.mktemp("server") / "data", models=folder).start()
    yield server
    server.stop()


def filled(server: Server, **fields: Any) -> dict[str, Any]:
    body = {"model": "coder.gguf", "input_prefix": BEFORE, "input_suffix": BEHIND, "n_predict": 8, "temperature": 0}
    reply = server.post("/infill", {**body, **fields})
    assert reply.status_code == 200, reply.text
    return dict(reply.json())


def test_a_gap_is_filled_in_by_all_three_apis(server: Server) -> None:
    mine = filled(server)
    assert (mine["stop"], mine["stop_type"], mine["tokens_predicted"]) == (True, "limit", 8)
    body = {"model": "coder.gguf", "prompt": BEFORE, "suffix": BEHIND, "temperature": 0}
    openai = server.post("/v1/completions", {**body, "max_tokens": 8}).json()
    ollama = server.post("/api/generate", {**body, "stream": False, "options": {"num_predict": 8, "temperature": 0}}).json()
    assert mine["content"] == openai["choices"][0]["text"] == ollama["response"] != ""
    assert mine["tokens_evaluated"] == openai["usage"]["prompt_tokens"] == ollama["prompt_eval_count"]
    # What is typed behind the prefix is a part of it.
    assert filled(server, input_prefix="int ", prompt="main() {")["content"] == mine["content"]
    assert filled(server, input_suffix="};")["tokens_evaluated"] > mine["tokens_evaluated"]


def test_a_stream_and_the_fields_that_are_wanted(server: Server) -> None:
    reply = server.post(
        "/infill",
        {
            "model": "coder.gguf",
            "input_prefix": BEFORE,
            "input_suffix": BEHIND,
            "n_predict": 8,
            "temperature": 0,
            "stream": True,
        },
    )
    events = [json.loads(line.removeprefix("data: ")) for line in reply.text.splitlines() if line.startswith("data: {")]
    assert "".join(event["content"] for event in events) == filled(server)["content"]
    assert [event["stop"] for event in events] == [False] * (len(events) - 1) + [True]
    # As llama.vim and llama.vscode ask.
    asked = {"samplers": ["top_k", "top_p", "infill"], "t_max_prompt_ms": 500, "t_max_predict_ms": 1000, "n_indent": 4}
    some = filled(server, **asked, cache_prompt=True, id_slot=0, response_fields=["content", "timings/predicted_n"])
    assert (set(some), some["timings/predicted_n"]) == ({"content", "timings/predicted_n"}, 8)


def test_other_files_are_read_as_far_as_they_fit(server: Server) -> None:
    few = filled(server, input_extra=[{"filename": "a.h", "text": "int f();"}])
    assert few["tokens_evaluated"] > filled(server)["tokens_evaluated"]
    assert few["truncated"] is False
    many = [{"filename": f"{n}.h", "text": f"int f{n}(); " * 10} for n in range(40)]
    assert filled(server, input_extra=many)["truncated"] is True


def test_what_cannot_be_filled_in_is_refused_by_name(server: Server) -> None:
    def fault(path: str, **fields: Any) -> tuple[int, str, str]:
        reply = server.post(path, fields)
        return reply.status_code, reply.json()["error"]["param"], reply.json()["error"]["code"]

    assert fault("/infill", model="plain.gguf", input_prefix="x") == (400, "input_suffix", "no_infill")
    assert fault("/v1/completions", model="plain.gguf", prompt="x", suffix="y") == (400, "suffix", "no_infill")
    assert fault("/v1/completions", model="coder.gguf", prompt=[1], suffix="y")[:2] == (400, "suffix")
    for extra in ({}, {"filename": "x"}, {"filename": 1, "text": "x"}, {"filename": "x", "text": 1}):
        assert fault("/infill", model="coder.gguf", input_extra=[extra])[1].startswith("input_extra.0")
    for fields in ({"n": 2}, {"n_probs": 1}, {"echo": True}, {"logprobs": 1}, {"suffix": "x"}, {"best_of": 2}):
        assert fault("/infill", model="coder.gguf", **fields)[1] == next(iter(fields))
    long = "int f(); " * 400
    assert fault("/infill", model="coder.gguf", input_suffix=long)[1] == "input_suffix"
    assert fault("/v1/completions", model="coder.gguf", prompt="x", suffix=long)[1] == "suffix"
    # An editor asks at the beginning of a file too.
    begun = server.post("/api/generate", {"model": "coder.gguf", "prompt": "", "suffix": "}", "stream": False}).json()
    assert begun["response"]
    ollama = server.post("/api/generate", {"model": "plain.gguf", "prompt": "x", "suffix": "y"})
    assert (ollama.status_code, "no tokens for filling in" in ollama.json()["error"]) == (400, True)
