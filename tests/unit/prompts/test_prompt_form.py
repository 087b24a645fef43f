from __future__ import annotations

from pathlib import Path
from typing import Any

from services.answers.prompt_form import form_of
from services.answers.request import AnswerRequest
from services.backend.types import ChatFormat
from services.models.profile import Profile
from services.prompts.chat import ChatForm

PLAIN = "{% for m in messages %}[{{ m.role }}]{{ m.content }}{% endfor %}"
OWN = ChatFormat(PLAIN, "", "", (), tool_template="(tools)" + PLAIN)
USER = {"role": "user", "content": "hi"}
CALL = {"id": "1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {"probe": {}}}}}


def form(system: str | None = None, **request: Any) -> ChatForm:
    profile = Profile(model="m.gguf", system_prompt="be kind")
    made = form_of(AnswerRequest("hi", **request), profile, OWN, Path(), system)
    assert isinstance(made, ChatForm)
    return made


def test_the_template_for_tools_is_for_calls_and_results_too() -> None:
    assert not form(messages=(USER,)).fill((), "hi").text.startswith("(tools)")
    for messages in (
        (USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}),
        ({"role": "tool", "content": "x"},),
    ):
        assert form(messages=messages).fill((), "hi").text.startswith("(tools)")
    assert form(messages=(USER,), tools=(TOOL,)).fill((), "hi").text.startswith("(tools)[system]be kind\n\n")


def test_a_request_says_how_its_prompt_ends() -> None:
    begun = (USER, {"role": "assistant", "content": "Well, "})
    assert form(messages=begun, continues=True).fill((), "hi").text == "[system]be kind[user]hi[assistant]Well, "
    made = form(template_kwargs={"enable_thinking": False}, generation_prompt=False)
    assert (made.kwargs, made.generation_prompt) == ({"enable_thinking": False}, False)


def test_a_developers_message_is_the_conversations_own_system_prompt() -> None:
    own = ({"role": "developer", "content": "be brief"}, USER)
    assert form("be loud", messages=own).fill((), "hi").text == "[system]be brief[user]hi"
    assert form("be loud", messages=(USER,)).fill((), "hi").text == "[system]be loud[user]hi"
