"""Thoughts and tool calls in the sessions of a cluster: on any node they are as they are in files after a restart.

The nodes are applications in this process, over fake backends and a real Redis.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from typing import Any, cast

import pytest

from services.backend.types import Mark
from services.cluster.heartbeat import Intervals
from services.cluster.redis_client import RedisClient
from services.cluster.registry import Registry
from services.cluster.settings import ClusterSettings
from services.models.files import ModelFiles
from services.settings import Settings
from services.stores import Stores
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client

pytestmark = pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
# It shows the thoughts of all earlier answers, and takes tools, calls and results.
TEMPLATE = (
    "{% for t in tools or [] %}<tool>{{ t.function.name }}</tool>{% endfor %}{% for m in messages %}<|{{ m.role }}|>"
    "{% if m.reasoning_content %}<think>{{ m.reasoning_content }}</think>{% endif %}{{ m.content }}"
    "{% for c in m.tool_calls or [] %}<call>{{ c.function.name }} {{ c.function.arguments }}</call>{% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
THOUGHT, SECOND = "Größe 漢字 😀", "A tool\n\nknows."
TOOL = {"type": "function", "function": {"name": "get_weather", "parameters": {"type": "object", "properties": {}}}}
CALL = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city":"Köln"}'}}


@pytest.fixture(params=["files", "redis"])
def node(
    request: pytest.FixtureRequest, open_client: Callable[..., Client], monkeypatch: pytest.MonkeyPatch, redis_url: str
) -> Callable[[], Client]:
    """Returns the next of two nodes, in turns; by files, the one server after a restart."""
    shared = ClusterSettings("", redis_url, prefix=uuid.uuid4().hex)

    def stores(settings: Settings) -> Stores:
        from services.cluster.stores.stores import cluster_stores

        client, files = RedisClient(shared), cast(Any, ModelFiles(settings.models))
        return cluster_stores(settings, client, f"node {settings.data.name}", Registry(client), files, Intervals())[0]

    if request.param == "redis":
        monkeypatch.setattr("tests.support.in_process.file_stores", stores)
    one = open_client()
    others = [open_client(key=one.key) if request.param == "redis" else one, one]
    for each in (one, others[0]):
        each.edit_config(template=None, chat_template=TEMPLATE)
    asked = 0

    def turn() -> Client:
        nonlocal asked
        asked += 1
        if request.param == "files":
            one.restart()
        return others[asked % 2]

    return turn


def fake(client: Client) -> FakeBackend:
    assert isinstance(client.backend, FakeBackend)
    return client.backend


def test_thoughts_and_calls_are_the_same_on_any_node(node: Callable[[], Client]) -> None:
    here = node()
    fake(here).reply(Mark("<think>"), THOUGHT, Mark("</think>"), "Hello.")
    assert here.ask("I live in Köln.", session_id=1)["reasoning"] == THOUGHT

    # A call is no exchange yet: the client sends it again with its result.
    there = node()
    fake(there).reply(
        Mark("<think>"),
        SECOND,
        Mark("</think>"),
        f"<tool_call>{json.dumps(as_written(CALL), ensure_ascii=False)}</tool_call>",
    )
    user = {"role": "user", "content": "How warm is it?"}
    reply = there.post("/v1/chat/completions", {"session_id": 1, "messages": [user], "tools": [TOOL]}).json()
    said = reply["choices"][0]["message"]
    assert said["tool_calls"][0]["function"]["name"] == "get_weather"
    assert f"<think>{THOUGHT}</think>Hello.<|user|>How warm is it?" in prompt_of(there)
    assert len(messages(there)) == 2

    here = node()
    fake(here).reply("It is 19 C.")
    result = {"role": "tool", "tool_call_id": said["tool_calls"][0]["id"], "content": "19 C"}
    here.post("/v1/chat/completions", {"session_id": 1, "messages": [user, said, result], "tools": [TOOL]})
    prompt = prompt_of(here)
    wanted = (THOUGHT, "Hello.", "How warm is it?", SECOND, '<call>get_weather {"city": "Köln"}</call>', "<|tool|>19 C")
    places = [prompt.index(words) for words in wanted]
    assert places == sorted(places)

    there = node()
    assert messages(there) == [
        {"type": "human", "content": "I live in Köln."},
        {"type": "ai", "content": "Hello.", "reasoning": THOUGHT},
        {"type": "human", "content": "How warm is it?"},
        {"type": "ai", "content": "It is 19 C."},
    ]
    kept = there.parts.stores.sessions.kept("0")
    assert (kept.count, kept.n_bytes) == (1, sum(len(text.encode()) for each in messages(there) for text in said_in(each)))


def test_the_thoughts_behind_an_edit_are_kept_in_their_branch(node: Callable[[], Client]) -> None:
    here = node()
    fake(here).reply(Mark("<think>"), THOUGHT, Mark("</think>"), "One.")
    here.ask("First", session_id=1)
    there = node()
    fake(there).reply(Mark("<think>"), SECOND, Mark("</think>"), "Two.")
    there.ask("Second", session_id=1)
    here = node()
    fake(here).reply("Anew.")
    here.ask("Other", session_id=1, keep=2)
    assert SECOND not in prompt_of(here)
    assert f"<think>{THOUGHT}</think>One." in prompt_of(here)
    there = node()
    assert [each.get("reasoning") for each in messages(there)] == [None, THOUGHT, None, None]
    edited = messages(there)
    there.post("/answer/1/branch", {"at": 2, "number": 1})
    assert [each.get("reasoning") for each in messages(node())] == [None, THOUGHT, None, SECOND]
    total = sum(len(text.encode()) for each in (*edited, *messages(there)[2:]) for text in said_in(each))
    assert there.parts.stores.sessions.kept("0").n_bytes == total


def test_a_request_is_answered_again_with_its_thoughts(node: Callable[[], Client]) -> None:
    body, headers = {"prompt": "What is 2 plus 2?", "session_id": 1}, {"Idempotency-Key": "sum"}
    here = node()
    fake(here).reply(Mark("<think>"), THOUGHT, Mark("</think>"), "Four.")
    first = here.post("/answer", body, headers=headers).json()
    assert first["reasoning"] == THOUGHT
    assert node().post("/answer", body, headers=headers).json() == first


def messages(client: Client) -> list[dict[str, Any]]:
    return list(client.get("/answer/1").json()["messages"])


def said_in(message: dict[str, Any]) -> list[str]:
    return [message["content"], message.get("reasoning", "")]


def prompt_of(client: Client) -> str:
    """The prompt of the last answer."""
    return str(fake(client).models()[0].text(fake(client).requests[-1].tokens))


def as_written(call: dict[str, Any]) -> dict[str, Any]:
    function = call["function"]
    return {"name": function["name"], "arguments": json.loads(function["arguments"])}
