"""The Responses API of OpenAI's own package, and agents by it, unchanged, against the real server."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable, Iterator
from importlib import import_module
from typing import Annotated, Any

import openai
import pytest
from pydantic import BaseModel, Field

from tests.server.test_agents import DONE, FAMILIES, QUESTION, RULES, STEPS, Library, scripts_of
from tests.support.families import Family, scripted_server
from tests.support.serving import Server

FRANCE = "What is the capital of France?"
PARIS = "The capital of France is Paris."
LOOK_UP = {
    "type": "function",
    "name": "look_up",
    "description": "Look up a fact.",
    "parameters": {
        "type": "object",
        "properties": {"step": {"type": "integer"}, "topic": {"type": "string"}},
        "required": ["step", "topic"],
        "additionalProperties": False,
    },
    "strict": True,
}


class City(BaseModel):
    """A city, of which a model that writes at random comes to the end."""

    name: Annotated[str, Field(max_length=12)]
    capital: bool


def client_of(server: Server) -> openai.OpenAI:
    return openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)


@pytest.fixture
def client(server: Server) -> Iterator[openai.OpenAI]:
    with client_of(server) as client:
        yield client


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {family.name: (family, scripts_of(family)) for family in FAMILIES}
    with scripted_server(tmp_path_factory.mktemp("responses"), models) as running:
        yield running


def test_responses_whole_and_streamed(client: openai.OpenAI) -> None:
    whole = client.responses.create(model="Guide", input=FRANCE, temperature=0)
    assert (whole.output_text, whole.status, whole.model) == (PARIS, "completed", "Guide")
    events = list(client.responses.create(model="Guide", input=FRANCE, temperature=0, stream=True))
    assert [event.sequence_number for event in events] == list(range(len(events)))
    kinds = [event.type for event in events]
    assert kinds[:4] == [
        "response.created",
        "response.in_progress",
        "response.output_item.added",
        "response.content_part.added",
    ]
    assert kinds[-4:] == [
        "response.output_text.done",
        "response.content_part.done",
        "response.output_item.done",
        "response.completed",
    ]
    assert "".join(event.delta for event in events if event.type == "response.output_text.delta") == PARIS
    assert events[-1].type == "response.completed"
    streamed = events[-1].response
    assert (streamed.output_text, streamed.usage and streamed.usage.output_tokens) == (
        PARIS,
        whole.usage and whole.usage.output_tokens,
    )
    with client.responses.stream(model="Guide", input=FRANCE, temperature=0) as stream:
        assert stream.get_final_response().output_text == PARIS
    counted = client.responses.input_tokens.count(model="Guide", input=FRANCE)
    assert whole.usage
    assert counted.input_tokens == whole.usage.input_tokens


def test_a_response_is_kept_and_gone_on_from(client: openai.OpenAI, serve: Callable[..., Server]) -> None:
    server = serve()
    with client_of(server) as client:
        first = client.responses.create(model="Guide", input="My name is Zoe.", metadata={"who": "test"})
        server.stop()
        server.start()
    with client_of(server) as client:
        assert client.responses.retrieve(first.id) == first
        assert first.metadata == {"who": "test"}
        items = client.responses.input_items.list(first.id).data
        assert [getattr(item, "content", None) for item in items] == ["My name is Zoe."]
        # Two go on from the same one.
        for _ in range(2):
            again = client.responses.create(model="Guide", input="What is my name?", previous_response_id=first.id)
            assert "Zoe" in again.output_text
        server.stop()
        server.start()
    with client_of(server) as client:
        # What was computed of the conversation is kept as well.
        third = client.responses.create(model="Guide", input="Count to 3.", previous_response_id=again.id)
        assert third.usage
        assert third.usage.input_tokens_details.cached_tokens > 0.6 * third.usage.input_tokens
        unkept = client.responses.create(model="Guide", input=FRANCE, store=False)
        for id_ in (unkept.id, "resp_none"):
            with pytest.raises(openai.NotFoundError):
                client.responses.retrieve(id_)
        client.responses.delete(first.id)
        with pytest.raises(openai.BadRequestError, match="not found") as gone:
            client.responses.create(model="Guide", input="What is my name?", previous_response_id=again.id)
        assert (gone.value.param, gone.value.code) == ("previous_response_id", "previous_response_not_found")
        other, _ = server.mint("other")
        with pytest.raises(openai.NotFoundError):
            client.with_options(api_key=other).responses.retrieve(again.id)
        with pytest.raises(openai.BadRequestError):
            client.with_options(api_key=other).responses.create(
                model="Guide", input="What is my name?", previous_response_id=again.id
            )


def test_a_conversation_is_a_session(client: openai.OpenAI, server: Server) -> None:
    for words, said in (("My name is Zoe.", "Zoe"), ("What is my name?", "Zoe")):
        reply = client.responses.create(model="Guide", input=words, conversation="conv_4711")
        assert said in reply.output_text
        assert reply.conversation
        assert reply.conversation.id == "conv_4711"
    session = server.get("/answer/4711").json()
    assert [message["content"] for message in session["messages"]][::2] == ["My name is Zoe.", "What is my name?"]


def test_answers_are_parsed_and_logprobs_told(client: openai.OpenAI) -> None:
    parsed = client.responses.parse(model="Guide", input=FRANCE, text_format=City, max_output_tokens=200)
    assert isinstance(parsed.output_parsed, City)
    told = client.responses.create(
        model="Guide", input=FRANCE, temperature=0, top_logprobs=2, include=["message.output_text.logprobs"]
    )
    message = told.output[0]
    assert message.type == "message"
    part = message.content[0]
    assert part.type == "output_text"
    assert part.logprobs
    assert "".join(each.token for each in part.logprobs).lstrip().startswith(PARIS)
    assert {len(each.top_logprobs) for each in part.logprobs} == {2}
    cut = client.responses.create(model="Guide", input=FRANCE, temperature=0, max_output_tokens=2)
    assert cut.incomplete_details
    assert (cut.status, cut.incomplete_details.reason) == ("incomplete", "max_output_tokens")


def test_a_response_in_the_background(client: openai.OpenAI) -> None:
    queued = client.responses.create(model="Guide", input=FRANCE, temperature=0, background=True)
    assert queued.status in ("queued", "in_progress")
    end = time.monotonic() + 60
    while (now := client.responses.retrieve(queued.id)).status in ("queued", "in_progress"):
        assert time.monotonic() < end
        time.sleep(0.05)
    assert (now.status, now.output_text, now.background) == ("completed", PARIS, True)
    assert client.responses.cancel(queued.id).status == "completed"
    tool = {"type": "function", "name": "f", "parameters": {"type": "object", "properties": {"x": {"type": "string"}}}}
    endless: Any = {"model": "Guide", "input": FRANCE, "background": True, "tools": [tool], "tool_choice": "required"}
    long = client.responses.create(**endless, max_output_tokens=10_000)
    assert client.responses.cancel(long.id).status in ("cancelled", "completed")
    with pytest.raises(openai.BadRequestError, match="background"):
        client.responses.cancel(client.responses.create(model="Guide", input=FRANCE).id)


def test_errors_and_tools_that_a_server_would_run(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="gpt"):
        client.responses.create(model="gpt", input=FRANCE)
    with pytest.raises(openai.BadRequestError, match="images"):
        image: Any = {"type": "input_image", "image_url": "data:image/png;base64,", "detail": "auto"}
        client.responses.create(model="Guide", input=[{"role": "user", "content": [image]}])
    raw = client.responses.with_raw_response.create(
        model="Guide", input=FRANCE, tools=[{"type": "web_search"}], extra_body={"mood": 1}
    )
    assert raw.headers["X-Hearth-Ignored"] == "mood, tools.0.web_search"


@pytest.mark.parametrize("family", FAMILIES, ids=[family.name for family in FAMILIES])
@pytest.mark.parametrize("stored", [True, False], ids=["stored", "sent again"])
def test_a_tool_loop(scripted: Server, family: Family, stored: bool) -> None:
    library = Library()
    fields: dict[str, Any] = {
        "model": family.name,
        "max_output_tokens": 300,
        "instructions": RULES,
        "tools": [LOOK_UP],
        "store": stored,
        "include": ["reasoning.encrypted_content"],
    }
    talk: list[Any] = [{"role": "user", "content": QUESTION}]
    with client_of(scripted) as client:
        for step in range(STEPS):
            if step % 2:
                with client.responses.stream(input=talk, **fields) as stream:
                    reply = stream.get_final_response()
            else:
                reply = client.responses.create(input=talk, **fields)
            call = reply.output[-1]
            assert call.type == "function_call", reply
            assert reply.output[0].type == ("reasoning" if family.thinks else "function_call")
            result = library.look_up(**json.loads(call.arguments))
            output = {"type": "function_call_output", "call_id": call.call_id, "output": result}
            if stored:
                talk, fields["previous_response_id"] = [output], reply.id
            else:
                talk = [*talk, *(item.to_dict() for item in reply.output), output]
        library.check()
        last = client.responses.create(input=talk, **fields)
    assert (last.output_text.strip(), last.status) == (DONE, "completed")


def test_a_conversation_goes_on_after_calls(scripted: Server) -> None:
    """A session keeps words alone: the calls before them are kept with the responses."""
    library, family = Library(), FAMILIES[0]
    fields: dict[str, Any] = {"model": family.name, "instructions": RULES, "tools": [LOOK_UP], "conversation": "conv_1"}
    with client_of(scripted) as client:
        reply = client.responses.create(input=QUESTION, **fields)
        for _ in range(STEPS):
            call = reply.output[-1]
            assert call.type == "function_call", reply
            result = library.look_up(**json.loads(call.arguments))
            output: Any = {"type": "function_call_output", "call_id": call.call_id, "output": result}
            reply = client.responses.create(input=[output], **fields)
        library.check()
    assert reply.output_text.strip() == DONE
    assert [message["content"] for message in scripted.get("/answer/1").json()["messages"]] == [QUESTION, DONE]


def test_a_custom_tool_takes_a_text(client: openai.OpenAI) -> None:
    tool: Any = {
        "type": "custom",
        "name": "shout",
        "description": "Say it aloud.",
        "format": {"type": "grammar", "syntax": "regex", "definition": "[A-Z]{3,6}!"},
    }
    fields: dict[str, Any] = {"model": "Guide", "tools": [tool], "tool_choice": {"type": "custom", "name": "shout"}}
    reply = client.responses.create(input=FRANCE, **fields)
    (call,) = reply.output
    assert call.type == "custom_tool_call", reply
    assert call.name == "shout"
    assert call.input.endswith("!")
    assert call.input[:-1].isupper()
    output: Any = {"type": "custom_tool_call_output", "call_id": call.call_id, "output": "Heard."}
    after = client.responses.create(model="Guide", input=[output], previous_response_id=reply.id)
    assert after.status in ("completed", "incomplete")
    events = list(client.responses.create(input=FRANCE, stream=True, **fields))
    whole = next(event for event in events if event.type == "response.custom_tool_call_input.done")
    assert whole.input.endswith("!")


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11")
@pytest.mark.parametrize("family", FAMILIES[:2], ids=[family.name for family in FAMILIES[:2]])
def test_agents_by_responses(scripted: Server, family: Family) -> None:
    agents, pydantic_ai = import_module("agents"), import_module("pydantic_ai")
    models, providers = import_module("pydantic_ai.models.openai"), import_module("pydantic_ai.providers.openai")
    libraries = Library(), Library()

    async def run() -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=f"{scripted.url}/v1", api_key=scripted.key, max_retries=0) as client:
            model = agents.OpenAIResponsesModel(model=family.name, openai_client=client)
            tools = [agents.function_tool(libraries[0].look_up)]
            agent = agents.Agent(name="Librarian", instructions=RULES, model=model, tools=tools)
            settings = agents.RunConfig(tracing_disabled=True)
            found = agents.Runner.run_streamed(agent, QUESTION, max_turns=STEPS + 2, run_config=settings)
            async for _ in found.stream_events():
                pass
            other = models.OpenAIResponsesModel(family.name, provider=providers.OpenAIProvider(openai_client=client))
            result = await pydantic_ai.Agent(other, instructions=RULES, tools=[libraries[1].look_up]).run(QUESTION)
            return str(found.final_output).strip(), str(result.output).strip()

    assert asyncio.run(run()) == (DONE, DONE)
    for library in libraries:
        library.check()
