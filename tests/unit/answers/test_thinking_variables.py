"""Wishes about thoughts become the variables that each chat template knows."""

from __future__ import annotations

from typing import Any

import pytest

from services.answers.request import ThinkingWish
from services.answers.thinking import template_variables, wish_of
from services.backend.types import ChatFormat
from services.errors import BadModelFile, InvalidRequest
from services.models.profile import Profile
from services.prompts.chat import ChatForm
from services.prompts.chat_template import ChatTemplate, chat_template
from tests.support.real_models import chat_templates

OFF, ON = ThinkingWish(enabled=False), ThinkingWish(enabled=True)


def template_of(name: str) -> ChatTemplate:
    return chat_template(ChatFormat(chat_templates()[name], "", "", ()))


@pytest.mark.parametrize(
    ("name", "wish", "variables"),
    [
        ("Qwen-Qwen3-0.6B", OFF, {"enable_thinking": False}),
        ("Qwen-Qwen3-0.6B", ON, {"enable_thinking": True}),
        ("Qwen-Qwen3-0.6B", ThinkingWish(effort="low"), {"enable_thinking": True}),
        ("Qwen-Qwen3-0.6B", ThinkingWish(), {}),
        ("openai-gpt-oss-120b", ThinkingWish(effort="high"), {"reasoning_effort": "high"}),
        ("openai-gpt-oss-120b", ThinkingWish(effort="minimal"), {"reasoning_effort": "low"}),
        ("openai-gpt-oss-120b", OFF, {"reasoning_effort": "low"}),
        ("tencent-Hy3", OFF, {"reasoning_effort": "no_think"}),
        ("tencent-Hy3", ThinkingWish(effort="medium"), {"reasoning_effort": "low"}),
        ("tencent-Hy3", ThinkingWish(effort="max"), {"reasoning_effort": "high"}),
        ("upstage-Solar-Open-100B", OFF, {"reasoning_effort": "minimal"}),
        ("ibm-granite-granite-3.3-2B-Instruct", ON, {"thinking": True}),
        ("ByteDance-Seed-OSS", OFF, {"thinking_budget": 0}),
        ("ByteDance-Seed-OSS", ThinkingWish(budget=512), {"thinking_budget": 512}),
    ],
)
def test_a_template_is_told_in_its_own_words(name: str, wish: ThinkingWish, variables: dict[str, Any]) -> None:
    told = template_variables(template_of(name), wish)
    assert {variable: told.get(variable) for variable in variables} == variables
    assert set(told) <= {*variables, "enable_thinking", "thinking"}


@pytest.mark.parametrize("name", chat_templates())
def test_no_template_refuses_a_wish(name: str) -> None:
    """Those that write a plain chat at all write it with every wish."""
    template, user = template_of(name), ({"role": "user", "content": "Hello"},)
    try:
        ChatForm(template, user).fill((), "Hello")
    except (BadModelFile, InvalidRequest):
        return
    wishes = [OFF, ON, *(ThinkingWish(effort=each) for each in ("minimal", "medium", "high", "max"))]
    told = [template_variables(template, wish) for wish in wishes]
    for variables in [each for n, each in enumerate(told) if each not in told[:n]]:
        ChatForm(template, user, kwargs=variables).fill((), "Hello")


PROFILE = {"model": "a.gguf"}


@pytest.mark.parametrize(
    ("asked", "kwargs", "profile", "found"),
    [
        (ThinkingWish(), {}, {}, (None, None, None)),
        (ThinkingWish(), {}, {"thinking": "low", "thinking_budget": 9}, (None, "low", 9)),
        (ThinkingWish(effort="high"), {}, {"thinking": "low", "thinking_budget": 9}, (None, "high", 9)),
        (ThinkingWish(enabled=True), {}, {"thinking": "low"}, (True, "low", None)),
        (ThinkingWish(effort="none"), {}, {"thinking": "low"}, (False, None, None)),
        (ThinkingWish(budget=5), {}, {"thinking": False}, (False, None, None)),
        (ThinkingWish(), {"thinking": False}, {"thinking": "low"}, (False, None, None)),
        (ThinkingWish(), {"thinking_budget": 7}, {"thinking_budget": 9}, (None, None, 7)),
        (ThinkingWish(), {"thinking_budget": -1}, {"thinking_budget": 9}, (None, None, 9)),
    ],
)
def test_wishes_add_up(
    asked: ThinkingWish, kwargs: dict[str, Any], profile: dict[str, Any], found: tuple[Any, Any, Any]
) -> None:
    wish = wish_of(asked, kwargs, Profile.model_validate({**PROFILE, **profile}))
    assert (wish.enabled, wish.effort, wish.budget) == found
