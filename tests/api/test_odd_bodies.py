"""Bodies that no well-meaning client sends, and some that one does: a clear answer each time, and the server goes on."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from services.backend.types import ChatFormat, Constraint
from services.engine.llama.constraint import check_constraint
from services.errors import InvalidRequest
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.form import PROBE
from tests.support.in_process import Client
from tests.support.openai_api import chat, refused, said

CHATS = "/v1/chat/completions"
USER = {"role": "user", "content": "Go on"}


def tool(name: str, parameters: Any) -> dict[str, Any]:
    return {"type": "function", "function": {"name": name, "parameters": parameters}}


@pytest.mark.parametrize(
    ("schema", "says"),
    [
        ({"type": "array", "minItems": 5, "maxItems": 2, "items": {}}, "#/minItems: it is more than maxItems"),
        ({"type": "object", "properties": {"a": False}, "required": ["a"]}, "'a' is unsatisfiable"),
        ({"type": "string", "minLength": 2.5}, "#/minLength: it should be a whole number"),
        ({"$ref": "#/$defs/a", "$defs": {"a": {"$ref": "#/$defs/a"}}}, "refers to itself"),
    ],
)
def test_what_nothing_fits_is_refused(schema: Any, says: str) -> None:
    with pytest.raises(InvalidRequest, match=re.escape(says)):
        check_constraint(Constraint("json_schema", json.dumps(schema)))


@pytest.mark.parametrize(
    "arguments", ["[" * 200, '{"a": "\\ud800"}', '{"a": NaN}', "no json", '{"a": ' * 150 + "1" + "}" * 150]
)
def test_calls_that_cannot_be_read_are_text(client: Client, arguments: str) -> None:
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
    calling: dict[str, Any] = {"role": "assistant", "content": None, "tool_calls": [call]}
    said_so: list[dict[str, Any]] = [USER, calling, {"role": "tool", "content": ""}]
    assert chat(client, said_so, max_tokens=5)["choices"]


def test_what_is_nested_deeply_is_refused(client: Client) -> None:
    deep: Any = {}
    for _ in range(120):
        deep = {"items": deep}
    assert "nested more than 100 levels" in refused(client, messages=[USER], tools=[tool("f", deep)])["message"]


def test_every_character_of_private_use_is_refused(client: Client) -> None:
    words = "".join(map(chr, range(0xE000, 0xF900)))
    assert refused(client, messages=[{"role": "user", "content": words}])["param"] == "messages"
    assert refused(client, messages=[{"role": "user", "content": words[:-1]}])["code"] == "context_length_exceeded"


def test_nothing_of_a_caller_is_in_what_all_share() -> None:
    fields = "{{ m.name }}{{ m.tool_call_id }}{% if m.tool_calls %}{{ m.tool_calls | tojson }}{% endif %}"
    template = "{% for m in messages %}<{{ m.role }}>" + fields + "{{ m.content }}{% endfor %}"
    call = {"id": "1", "type": "function", "function": {"name": "f", "arguments": {"q": "secret"}}}
    messages = (
        {"role": "user", "content": "secret", "name": "secret"},
        {"role": "assistant", "content": "secret", "tool_calls": [call]},
        {"role": "tool", "content": "secret", "tool_call_id": "secret", "name": "secret"},
        {"role": "user", "content": "secret"},
    )
    form = ChatForm(chat_template(ChatFormat(template, "", "", ())), messages)
    assert "secret" in form.fill((), "secret").text
    bare = form.bare().text
    assert "secret" not in bare
    assert bare.count(PROBE) == 4


def test_usage_counts_every_prompt_once(client: Client) -> None:
    texts = ["hello there my friend", "b"]

    def count(prompt: Any, n: int = 1) -> int:
        body = {"prompt": prompt, "n": n, "max_tokens": 1, "seed": 1}
        return int(client.post("/v1/completions", body).json()["usage"]["prompt_tokens"])

    assert count(texts) == count(texts, 2) == count(texts[0]) + count(texts[1])


def test_more_answers_than_can_wait_are_refused(client: Client) -> None:
    error = refused(client, "/v1/completions", prompt=["x"] * 8, n=8)
    assert (error["param"], "more than 32" in error["message"]) == ("n", True)


@pytest.mark.parametrize(
    ("path", "fields", "param"),
    [
        (CHATS, {"messages": [USER], "tool_choice": "required"}, "tool_choice"),
        (CHATS, {"messages": [USER], "top_logprobs": 2}, "top_logprobs"),
        (CHATS, {"messages": [USER], "logit_bias": {"-1": 1}}, "logit_bias"),
        (
            CHATS,
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}]},
            "messages.0.content.0.type",
        ),
        (CHATS, {"messages": [{"role": "user", "content": "word " * 9000}]}, "messages"),
        (CHATS, {"messages": []}, "messages"),
        ("/v1/completions", {"prompt": []}, "prompt"),
        ("/v1/completions", {"prompt": [[]]}, "prompt"),
        ("/v1/completions", {"prompt": {}}, "prompt"),
        ("/v1/completions", {"prompt": "a", "best_of": 3}, "best_of"),
        ("/v1/completions", {"prompt": "a", "suffix": "b"}, "suffix"),
        ("/v1/embeddings", {"input": 5}, "input"),
        ("/v1/embeddings", {"input": "a", "dimensions": 400}, "dimensions"),
        ("/v1/embeddings", {"input": [[-1]]}, "input"),
    ],
)
def test_the_field_at_fault_is_named(client: Client, path: str, fields: dict[str, Any], param: str) -> None:
    assert refused(client, path, **fields)["param"] == param


@pytest.mark.parametrize(
    ("path", "fields", "words"),
    [
        ("/v1/completions", {"prompt": ["a"] * 33}, "at most 32 texts, not 33"),
        ("/v1/completions", {"prompt": [[1]] * 33}, "at most 32 texts, not 33"),
        ("/v1/completions", {"prompt": ["a", 1]}, "a list of token ids"),
        ("/v1/completions", {"prompt": [True]}, "a list of token ids"),
        ("/v1/completions", {"prompt": []}, "empty list"),
        ("/v1/embeddings", {"input": ["a"] * 2049}, "at most 2,048 texts, not 2,049"),
    ],
)
def test_the_fault_of_a_list_of_texts_is_told(client: Client, path: str, fields: dict[str, Any], words: str) -> None:
    error = refused(client, path, **fields)
    assert words in error["message"]
    assert error["param"] in fields


def test_null_is_no_field_of_an_answer(client: Client) -> None:
    reply = client.post("/answer", {"prompt": "Hello", "stream": None, "system_prompt": None, "max_tokens": 3})
    assert reply.json()["result"], reply.text


def test_an_assistants_refusal_is_text(client: Client) -> None:
    no = {"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}
    assert said(chat(client, [USER, no, {"role": "user", "content": "Hello"}], max_tokens=5))
