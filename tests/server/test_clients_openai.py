"""OpenAI's own package and LangChain's, unchanged, against the real server."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Annotated, Any

import openai
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage
from pydantic import BaseModel, Field, SecretStr

from tests.support.serving import Server

if TYPE_CHECKING:
    from langchain_openai import ChatOpenAI

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."


class City(BaseModel):
    """A city. A model that writes at random comes to the end of one soon."""

    name: Annotated[str, Field(max_length=12)]
    people: Annotated[int, Field(ge=0, le=99)]


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
        yield client


def ask(words: str) -> list[Any]:
    return [{"role": "user", "content": words}]


def test_chats_whole_and_streamed(client: openai.OpenAI) -> None:
    reply = client.chat.completions.create(model="Guide", messages=ask(FRANCE))
    assert reply.choices[0].message.content == PARIS
    assert reply.usage
    assert reply.usage.prompt_tokens_details
    stream = client.chat.completions.create(
        model="Guide", messages=ask(FRANCE), stream=True, stream_options={"include_usage": True}
    )
    chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == PARIS
    assert chunks[-1].usage
    assert chunks[-1].usage.completion_tokens == reply.usage.completion_tokens


def test_chats_without_blocking(server: Server) -> None:
    async def talk() -> tuple[str | None, str]:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key) as client:
            whole, stream = await asyncio.gather(
                client.chat.completions.create(model="Guide", messages=ask(FRANCE)),
                client.chat.completions.create(model="Guide", messages=ask(FRANCE), stream=True),
            )
            text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            return whole.choices[0].message.content, text

    assert asyncio.run(talk()) == (PARIS, PARIS)


def test_completions_and_models(client: openai.OpenAI) -> None:
    prompt = f"You are the guide of this server.\n\nHuman: {FRANCE}\nAI:"
    reply = client.completions.create(model="Guide", prompt=prompt, temperature=0, max_tokens=40, logprobs=1)
    assert reply.choices[0].text.strip() == PARIS
    assert reply.choices[0].logprobs
    pieces = client.completions.create(model="Guide", prompt=prompt, temperature=0, max_tokens=40, stream=True)
    assert "".join(piece.choices[0].text for piece in pieces).strip() == PARIS
    assert "Guide" in [model.id for model in client.models.list()]
    assert client.models.retrieve("guide.gguf").owned_by == "hearth"


def test_answers_are_parsed_into_types(client: openai.OpenAI) -> None:
    reply = client.chat.completions.parse(model="Guide", messages=ask(FRANCE), response_format=City, max_tokens=200)
    assert isinstance(reply.choices[0].message.parsed, City)


def test_tools_and_what_goes_beyond(client: openai.OpenAI) -> None:
    tool: Any = {"type": "function", "function": {"name": "city", "parameters": City.model_json_schema()}}
    reply = client.chat.completions.create(
        model="Guide", messages=ask(FRANCE), tools=[tool], tool_choice="required", max_tokens=200
    )
    calls = reply.choices[0].message.tool_calls
    assert calls
    assert calls[0].type == "function"
    City.model_validate_json(calls[0].function.arguments)
    for words, said in (("My name is Zoe.", "Zoe"), ("What is my name?", "Zoe")):
        kept = client.chat.completions.create(model="Guide", messages=ask(words), extra_body={"session_id": 815})
        assert said in str(kept.choices[0].message.content)


def test_what_clients_of_other_servers_send(client: openai.OpenAI) -> None:
    def said(words: str = FRANCE, **fields: Any) -> str | None:
        reply = client.chat.completions.create(model="Guide", messages=ask(words), temperature=0, extra_body=fields)
        return reply.choices[0].message.content

    assert said() == PARIS
    samplers: dict[str, Any] = {
        "top_k": -1,
        "typical_p": 0.9,
        "top_n_sigma": 2.0,
        "repetition_penalty": 1.0,
        "repeat_last_n": 32,
        "min_p": 0.05,
        "dry_multiplier": 0.5,
        "dry_sequence_breakers": ["."],
        "xtc_probability": 0.0,
        "seed": -1,
    }
    assert said(**samplers) == PARIS
    assert said(mirostat=2, mirostat_tau=5.0, mirostat_eta=0.1)
    assert said(max_tokens=0) == ""
    assert said(max_tokens=-1) == PARIS
    assert said(max_tokens=8.0) == PARIS[: len(said(max_tokens=8) or "")]
    assert said(regex="(Rome|Oslo)") in ("Rome", "Oslo")
    assert said(guided_choice=["yes, it is", "no?"]) in ("yes, it is", "no?")
    assert said(grammar='root ::= "a" [bc] "d"') in ("abd", "acd")
    assert said(grammar='start: "a" /[bc]/ "d"', grammar_syntax="lark") in ("abd", "acd")
    assert json.loads(said(structured_outputs={"json": City.model_json_schema()}) or "").keys() == {"name", "people"}
    assert len(said(min_tokens=20, ignore_eos=True, max_tokens=24) or "") > len(PARIS)


def test_a_message_is_continued(client: openai.OpenAI) -> None:
    begun: list[Any] = [*ask(FRANCE), {"role": "assistant", "content": "The capital of France"}]
    reply = client.chat.completions.create(model="Guide", messages=begun, temperature=0)
    assert reply.choices[0].message.content == " is Paris."
    chunks = client.chat.completions.create(model="Guide", messages=begun, temperature=0, stream=True)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == " is Paris."


def test_each_chunk_has_the_logprobs_of_its_text(client: openai.OpenAI) -> None:
    chunks = client.chat.completions.create(
        model="Guide", messages=ask("Say: Grüße, 你好 🙂"), temperature=0, stream=True, logprobs=True, top_logprobs=1
    )
    told: list[bytes] = []
    for chunk in chunks:
        choice = chunk.choices[0]
        pieces = choice.logprobs.content or [] if choice.logprobs else []
        told += [bytes(piece.bytes or []) for piece in pieces]
        if choice.delta.content:
            assert choice.delta.content in b"".join(told).decode()
            assert pieces
    assert told


def test_unknown_fields_are_named(client: openai.OpenAI) -> None:
    raw = client.chat.completions.with_raw_response.create(
        model="Guide", messages=ask(FRANCE), extra_body={"mood": "good"}, user="ana", store=True
    )
    assert raw.headers["X-Hearth-Ignored"] == "mood"
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="Guide", messages=ask("x"), modalities=["text", "audio"])
    assert bad.value.param == "modalities"


def test_a_form_that_cannot_be_kept_is_refused_by_its_field(client: openai.OpenAI) -> None:
    bad = {"type": "object", "properties": {"a": {"type": "string", "pattern": "("}}, "required": ["a"]}
    tool = {"type": "function", "function": {"name": "f", "parameters": bad}}
    forms: list[tuple[str, dict[str, Any]]] = [
        ("response_format", {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": bad}}}),
        ("json_schema", {"json_schema": bad}),
        ("guided_json", {"guided_json": json.dumps(bad)}),
        ("structured_outputs", {"structured_outputs": {"json": bad}}),
        ("regex", {"regex": "("}),
        ("guided_regex", {"guided_regex": "("}),
        ("grammar", {"grammar": "root ::= ("}),
        ("ebnf", {"ebnf": "root ::= ("}),
        ("guided_grammar", {"guided_grammar": "start: ("}),
        ("tools", {"tools": [tool], "tool_choice": "required"}),
        ("tools", {"tools": [tool]}),
        ("functions", {"functions": [tool["function"]], "function_call": {"name": "f"}}),
    ]
    for field, fields in forms:
        with pytest.raises(openai.BadRequestError) as refused:
            client.chat.completions.create(model="Guide", messages=ask("x"), max_tokens=8, extra_body=fields)
        assert refused.value.param == field


def test_errors_are_of_the_packages_classes(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError) as missing:
        client.chat.completions.create(model="gpt-4o", messages=ask("x"))
    assert (missing.value.code, missing.value.param) == ("model_not_found", "model")
    with pytest.raises(openai.BadRequestError) as bad:
        client.chat.completions.create(model="Guide", messages=ask("x"), temperature=7)
    assert bad.value.param == "temperature"
    with pytest.raises(openai.BadRequestError) as long:
        client.chat.completions.create(model="Guide", messages=ask("word " * 5000))
    assert long.value.code == "context_length_exceeded"
    with pytest.raises(openai.AuthenticationError):
        client.with_options(api_key="wrong").models.list()


@pytest.fixture
def new_llm(server: Server) -> Callable[[str], ChatOpenAI]:
    """Makes LangChain's client with a key."""
    # Imported here, since every process of pytest collects this file.
    from langchain_openai import ChatOpenAI

    return lambda key: ChatOpenAI(
        base_url=f"{server.url}/v1", api_key=SecretStr(key), model="Guide", temperature=0, max_retries=0
    )


@pytest.fixture
def llm(server: Server, new_llm: Callable[[str], ChatOpenAI]) -> ChatOpenAI:
    return new_llm(server.key)


def test_langchain_asks_and_streams(llm: ChatOpenAI) -> None:
    messages = [
        SystemMessage("You are a pirate."),
        HumanMessage("My name is Ana."),
        AIMessage("Arr! Nice to meet you, Ana!"),
    ]
    reply = llm.invoke([*messages, HumanMessage("What is my name?")])
    assert "Ana" in str(reply.content)
    assert isinstance(reply, AIMessage)
    assert reply.usage_metadata
    assert reply.usage_metadata["input_tokens"] > 20
    assert "".join(str(chunk.content) for chunk in llm.stream(FRANCE)) == PARIS

    async def later() -> tuple[str, str]:
        whole = await llm.ainvoke(FRANCE)
        return str(whole.content), "".join([str(chunk.content) async for chunk in llm.astream(FRANCE)])

    assert asyncio.run(later()) == (PARIS, PARIS)
    assert [str(each.content) for each in llm.batch([FRANCE] * 3)] == [PARIS] * 3


def test_langchain_has_forms_and_tools(llm: ChatOpenAI) -> None:
    for method in ("json_schema", "function_calling"):
        city = llm.with_structured_output(City, method=method).invoke(FRANCE)
        assert isinstance(city, City)
    assert isinstance(json.loads(str(llm.bind(response_format={"type": "json_object"}).invoke(FRANCE).content)), dict)
    called = llm.bind_tools([City], tool_choice="any").invoke(FRANCE)
    assert isinstance(called, AIMessage)
    assert called.tool_calls[0]["name"] == "City"


def test_langchains_errors(new_llm: Callable[[str], ChatOpenAI]) -> None:
    with pytest.raises(openai.AuthenticationError):
        new_llm("wrong").invoke("x")
