"""LangChain's packages for Ollama and Anthropic, unchanged, against the real server."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from functools import reduce
from importlib import import_module
from operator import add
from typing import Any

import ollama
import pytest
from langchain_core.messages import AIMessage, HumanMessage, SystemMessage, ToolMessage
from langchain_core.tools import tool
from pydantic import BaseModel

from tests.server.conftest import Transports
from tests.server.test_agents import DONE, FAMILIES, FIRST, QUESTION, RULES, STEPS, Library, scripts_of
from tests.support.families import Family, scripted_server
from tests.support.serving import Server

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."


class City(BaseModel):
    """A city, of which a model that writes at random comes to the end."""

    capital: bool


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("langchain"), models) as running:
        yield running


@pytest.fixture
def of_ollama(transports: Transports) -> Callable[..., Any]:
    """Makes a client of LangChain's package for Ollama."""
    # Imported here, since every process of pytest collects this file.
    package = import_module("langchain_ollama")

    def make(kind: str, server: Server, model: str = "Guide", key: str = "", **fields: Any) -> Any:
        return getattr(package, kind)(
            model=model,
            base_url=server.url,
            client_kwargs={"headers": {"Authorization": f"Bearer {key or server.key}"}},
            sync_client_kwargs={"transport": transports.direct},
            async_client_kwargs={"transport": transports.awaited},
            **fields,
        )

    return make


@pytest.fixture
def of_anthropic() -> Callable[..., Any]:
    """Makes a client of LangChain's package for Anthropic."""
    if sys.version_info < (3, 11):
        pytest.skip("needs Python 3.11")
    package = import_module("langchain_anthropic")

    def make(server: Server, model: str = "Guide", key: str = "", **fields: Any) -> Any:
        return package.ChatAnthropic(
            model=model, base_url=server.url, api_key=key or server.key, max_tokens=300, max_retries=0, **fields
        )

    return make


def check_chat(llm: Any, loop: asyncio.AbstractEventLoop) -> None:
    """The same answer and usage, whole and streamed, at once and awaited."""

    async def later() -> list[Any]:
        return [await llm.ainvoke(FRANCE), reduce(add, [chunk async for chunk in llm.astream(FRANCE)])]

    replies = [llm.invoke(FRANCE), reduce(add, llm.stream(FRANCE)), *loop.run_until_complete(later())]
    assert [reply.text for reply in replies] == [PARIS] * 4
    usage = [(reply.usage_metadata["input_tokens"], reply.usage_metadata["output_tokens"]) for reply in replies]
    assert usage == [usage[0]] * 4
    assert min(usage[0]) > 5
    assert [reply.response_metadata["model_name"] for reply in replies] == ["Guide"] * 4


def check_loop(llm: Any, family: Family) -> None:
    library = Library()
    bound = llm.bind_tools([tool(library.look_up)])
    messages: list[Any] = [SystemMessage(RULES), HumanMessage(QUESTION)]
    for step in range(STEPS):
        reply = reduce(add, bound.stream(messages)) if step % 2 else bound.invoke(messages)
        assert isinstance(reply, AIMessage)
        assert not reply.invalid_tool_calls
        [call] = reply.tool_calls
        assert call["args"] == {"step": FIRST + step, "topic": f"the moons of Jupiter, part {step}"}
        thoughts = [block["reasoning"] for block in reply.content_blocks if block["type"] == "reasoning"]
        assert thoughts == [f"Fact number {step} is what I need."] * family.thinks
        messages += [reply, ToolMessage(library.look_up(**call["args"]), tool_call_id=call["id"])]
    library.check()
    last = bound.invoke(messages)
    assert (last.text.strip(), last.tool_calls) == (DONE, [])


each_family = pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])


def test_ollama_asks_and_streams(of_ollama: Callable[..., Any], server: Server, loop: asyncio.AbstractEventLoop) -> None:
    check_chat(of_ollama("ChatOllama", server, temperature=0), loop)
    llm = of_ollama("OllamaLLM", server, temperature=0)
    assert llm.invoke(FRANCE) == PARIS
    assert "".join(llm.stream(FRANCE)) == PARIS
    assert llm.invoke(FRANCE, stop=[" Paris"]) == "The capital of France is"


def test_ollama_has_forms_and_vectors(of_ollama: Callable[..., Any], server: Server) -> None:
    form = of_ollama("ChatOllama", server, temperature=0).with_structured_output(City)
    assert isinstance(form.invoke(FRANCE), City)
    embeddings = of_ollama("OllamaEmbeddings", server)
    one, two = embeddings.embed_documents([FRANCE, "Count to 9."])
    assert one != two
    # Texts that are computed together have other roundings.
    assert embeddings.embed_query(FRANCE) == pytest.approx(one, abs=1e-5)


def test_ollamas_errors(of_ollama: Callable[..., Any], server: Server) -> None:
    with pytest.raises(ollama.ResponseError) as missing:
        of_ollama("ChatOllama", server, model="llama3.2").invoke("x")
    assert missing.value.status_code == 404
    with pytest.raises(ollama.ResponseError) as stranger:
        of_ollama("ChatOllama", server, key="wrong").invoke("x")
    assert stranger.value.status_code == 401


@each_family
def test_ollamas_tool_loop(of_ollama: Callable[..., Any], scripted: Server, family: Family) -> None:
    check_loop(of_ollama("ChatOllama", scripted, family.name, reasoning=True if family.thinks else None), family)


def test_anthropic_asks_and_streams(
    of_anthropic: Callable[..., Any], server: Server, loop: asyncio.AbstractEventLoop
) -> None:
    check_chat(of_anthropic(server), loop)


def test_anthropic_has_forms_and_calls(of_anthropic: Callable[..., Any], server: Server) -> None:
    llm = of_anthropic(server)
    for method in ("function_calling", "json_schema"):
        assert isinstance(llm.with_structured_output(City, method=method).invoke(FRANCE), City)
    assert llm.bind_tools([City], tool_choice="any").invoke(FRANCE).tool_calls[0]["name"] == "City"


def test_anthropics_errors(of_anthropic: Callable[..., Any], server: Server) -> None:
    anthropic = import_module("anthropic")
    with pytest.raises(anthropic.NotFoundError):
        of_anthropic(server, model="claude").invoke("x")
    with pytest.raises(anthropic.AuthenticationError):
        of_anthropic(server, key="wrong").invoke("x")


@each_family
def test_anthropics_tool_loop(of_anthropic: Callable[..., Any], scripted: Server, family: Family) -> None:
    check_loop(of_anthropic(scripted, family.name, thinking={"type": "adaptive"}), family)
