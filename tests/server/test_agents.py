"""Agents of today, unchanged, in a tool loop of twelve steps with a scripted model of each of six formats."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Callable, Iterator
from importlib import import_module

import openai
import pytest
from langchain_core.messages import HumanMessage, SystemMessage, ToolMessage
from pydantic import SecretStr

from tests.support.families import GLM, GPT_OSS, LFM2, LLAMA, MINISTRAL, QWEN, Call, Family, scripted_server
from tests.support.scripted import Scripts, marker
from tests.support.serving import Server

STEPS = 12
FAMILIES = (QWEN, GPT_OSS, MINISTRAL, LLAMA, GLM, LFM2)
RULES = "Look up one fact after the other, and then say what you found."
QUESTION = "What do we know about the moons of Jupiter?"
DONE = "All twelve facts are found: Jupiter has many moons."
# The models' numbers of steps, each long enough for a token of its own.
FIRST = 10_000
FINISH = marker("finish")

LookUp = Callable[[int, str], str]


def scripts_of(family: Family) -> Scripts:
    """The n-th result leads to the next call, and the last one to the answer: a text, or smolagents' tool for answers."""
    thoughts = [f"Fact number {n} is what I need." for n in range(STEPS + 1)] if family.thinks else [""] * (STEPS + 1)
    topics = [f"the moons of Jupiter, part {n}" for n in range(STEPS)]
    return {
        **{
            marker(n) if n else "": family.write(
                thoughts[n], "", [Call("look_up", {"step": FIRST + n, "topic": topics[n]})]
            )
            for n in range(STEPS)
        },
        marker(STEPS): family.write(thoughts[STEPS], DONE, ()),
        FINISH: family.write(thoughts[STEPS], "", [Call("final_answer", {"answer": DONE})]),
    }


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("agents"), models) as running:
        yield running


class Library:
    """The tool's own side: it notes what it was asked, and its n-th result has the model's n-th marker."""

    def __init__(self, last: str = marker(STEPS)) -> None:
        self.asked: list[tuple[int, str]] = []
        self._last = last

    def look_up(self, step: int, topic: str) -> str:
        """Look up a fact.

        Args:
            step: The number of the fact.
            topic: What the fact is about.
        """
        self.asked.append((step, topic))
        n = len(self.asked)
        return f'Fact {step}: "a moon" was seen in {1600 + n}. {self._last if n == STEPS else marker(n)}'

    def check(self) -> None:
        assert self.asked == [(FIRST + n, f"the moons of Jupiter, part {n}") for n in range(STEPS)]


# Imported by name, since Python 3.10 has no version of them.
since_311 = pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11")
each_family = pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])


@each_family
def test_langchain(server: Server, family: Family) -> None:
    # Imported here, since every process of pytest collects this file.
    from langchain_core.tools import tool
    from langchain_openai import ChatOpenAI

    llm = ChatOpenAI(base_url=f"{server.url}/v1", api_key=SecretStr(server.key), model=family.name, max_retries=0)
    library = Library()
    bound = llm.bind_tools([tool(library.look_up)])
    messages = [SystemMessage(RULES), HumanMessage(QUESTION)]
    for _ in range(STEPS):
        reply = bound.invoke(messages)
        assert not reply.invalid_tool_calls
        [call] = reply.tool_calls
        messages += [reply, ToolMessage(library.look_up(**call["args"]), tool_call_id=call["id"])]
    library.check()
    last = bound.invoke(messages)
    assert (str(last.content).strip(), last.tool_calls) == (DONE, [])


@since_311
@each_family
def test_openai_agents(server: Server, family: Family) -> None:
    """In streams."""
    agents = import_module("agents")
    library = Library()

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
            model = agents.OpenAIChatCompletionsModel(model=family.name, openai_client=client)
            agent = agents.Agent(
                name="Librarian", instructions=RULES, model=model, tools=[agents.function_tool(library.look_up)]
            )
            settings = agents.RunConfig(tracing_disabled=True)
            found = agents.Runner.run_streamed(agent, QUESTION, max_turns=STEPS + 2, run_config=settings)
            async for _ in found.stream_events():
                pass
            return str(found.final_output)

    assert asyncio.run(run()).strip() == DONE
    library.check()


@since_311
@each_family
def test_pydantic_ai(server: Server, family: Family) -> None:
    pydantic_ai = import_module("pydantic_ai")
    models, providers = import_module("pydantic_ai.models.openai"), import_module("pydantic_ai.providers.openai")
    library = Library()

    async def run() -> str:
        async with openai.AsyncOpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as client:
            model = models.OpenAIChatModel(family.name, provider=providers.OpenAIProvider(openai_client=client))
            agent = pydantic_ai.Agent(model, instructions=RULES, tools=[library.look_up])
            return str((await agent.run(QUESTION)).output)

    assert asyncio.run(run()).strip() == DONE
    library.check()


@each_family
def test_smolagents(server: Server, family: Family) -> None:
    smolagents = import_module("smolagents")
    library = Library(FINISH)

    def look_up(step: int, topic: str) -> str:
        """Look up a fact.

        Args:
            step: The number of the fact.
            topic: What the fact is about.
        """
        return library.look_up(step, topic)

    model = smolagents.OpenAIModel(model_id=family.name, api_base=f"{server.url}/v1", api_key=server.key)
    agent = smolagents.ToolCallingAgent(
        tools=[smolagents.tool(look_up)], model=model, max_steps=STEPS + 2, verbosity_level=0
    )
    assert str(agent.run(QUESTION)).strip() == DONE
    library.check()
