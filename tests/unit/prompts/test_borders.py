"""The beginnings of messages: in a prompt's text, and from there in its tokens."""

from __future__ import annotations

from itertools import accumulate

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backend.types import ChatFormat, Prompt
from services.engine.kv.checkpoints import borders_in_tokens
from services.prompts.borders import in_bytes, message_borders
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.form import Exchange
from services.prompts.template import fill_template
from tests.support.real_models import chat_templates

TALK = ["Name a bird.", "A grey heron.", "And a fish?", "A silver roach.", "Where do they meet?"]


def check(prompt: Prompt) -> None:
    """The prompt's borders are where the talk's messages begin, and the last one ends."""
    *starts, end = prompt.borders
    assert all(prompt.text.startswith(content, start) for content, start in zip(TALK, starts, strict=True))
    assert prompt.text.endswith(TALK[-1], 0, end)


@pytest.mark.parametrize(
    "name",
    ["Qwen-Qwen3-0.6B", "meta-llama-Llama-3.1-8B-Instruct", "mistralai-Mistral-Nemo-Instruct-2407", "google-gemma-2-2b-it"],
)
def test_each_message_of_a_chat_has_its_beginning(name: str) -> None:
    template = chat_template(ChatFormat(chat_templates()[name], "<s>", "</s>", ()))
    roles = ("user", "assistant") * 3
    messages = tuple({"role": role, "content": content} for role, content in zip(roles, TALK, strict=False))
    prompt = ChatForm(template, messages).fill((), TALK[-1])
    assert [prompt.text[at:].startswith(content) for at, content in zip(prompt.borders[:-1], TALK, strict=True)] == [
        True
    ] * 5
    assert prompt.text[: prompt.borders[-1]].endswith(TALK[-1])


def test_each_message_in_a_profiles_template_has_its_beginning() -> None:
    window = [Exchange(TALK[0], TALK[1]), Exchange(TALK[2], TALK[3])]
    prompt = fill_template("Answer.\n{chat_history}\nHuman: {input}\nAI:", window, TALK[4])
    assert [prompt.text[at:].startswith(content) for at, content in zip(prompt.borders[:-1], TALK, strict=True)] == [
        True
    ] * 5
    assert prompt.text[: prompt.borders[-1]].endswith(TALK[-1])


def test_a_message_that_the_text_does_not_hold_is_passed_over() -> None:
    assert message_borders("<u>One<a>Two<u>One", ["One", "gone", "", " Two\n", "One"]) == (3, 9, 15, 18)
    assert message_borders("", ["One"]) == ()


def test_positions_are_counted_in_bytes_too() -> None:
    text = "aé日b"
    assert in_bytes(text, (1, 2, 3)) == (1, 3, 6, 7)
    assert in_bytes(text, ()) == (7,)


@given(st.lists(st.integers(0, 9), min_size=1, max_size=50), st.lists(st.integers(0, 300)), st.integers(-9, 9))
def test_a_position_is_never_behind_a_messages_beginning(sizes: list[int], starts: list[int], drift: int) -> None:
    n_bytes = max(sum(sizes) + drift, 0)
    borders = sorted(min(start, n_bytes) for start in starts)
    found = borders_in_tokens(sizes, [*borders, n_bytes])
    ends = [0, *accumulate(sizes)]
    # Whether bytes were dropped before it or behind it is not known: so it is neither way.
    missing = max(n_bytes - ends[-1], 0)
    assert found == sorted(set(found))
    assert all(any(ends[at] + missing <= border for border in borders) for at in found)
    if not drift:
        exact = {border for border in borders if border in ends and border}
        assert exact <= {ends[at] for at in found}
