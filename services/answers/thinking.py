"""Thinking: a request's wishes about a model's thoughts, as chat templates and the engine take them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Any

from services.answers.request import AnswerRequest, ThinkingWish
from services.backend.types import Thoughts
from services.errors import BadModelFile, InvalidRequest
from services.models.profile import Profile
from services.prompts.chat import ChatForm
from services.prompts.chat_template import ChatTemplate
from services.prompts.form import Form
from services.replies.format import ReplyFormat

# The template variables that switch thinking on and off, with their values for off and on.
_SWITCHES: dict[str, tuple[Any, Any]] = {
    "enable_thinking": (False, True),
    "thinking": (False, True),
    "thinking_mode": ("disabled", "enabled"),
}
# The template variables that take an effort.
_EFFORTS = ("reasoning_effort", "thinking_effort")
# The budgets, in tokens, that stand for efforts with templates that know none; higher ones have no limit.
EFFORT_BUDGETS = {"minimal": 128, "low": 512, "medium": 2048}
# What templates may call an effort, the best first. A name in the first row is used only if the template mentions it.
_NAMES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "none": (("none", "no_think", "minimal"), ("low",)),
    "minimal": (("minimal",), ("low", "medium", "high")),
    "low": ((), ("low", "medium", "high")),
    "medium": ((), ("medium", "low", "high")),
    "high": ((), ("high", "max", "medium", "low")),
    "xhigh": (("xhigh", "max"), ("high", "medium")),
    "max": (("max", "xhigh"), ("high", "medium")),
}


def wish_of(asked: ThinkingWish, kwargs: Mapping[str, Any], profile: Profile) -> ThinkingWish:
    """Return what a request wants, given its template variables too, and what its profile decides."""
    usual = ThinkingWish(
        profile.thinking if isinstance(profile.thinking, bool) else None,
        profile.thinking if isinstance(profile.thinking, str) else None,
        profile.thinking_budget,
    )
    return asked.over(_told_by(kwargs)).over(usual).over(_told_by(profile.chat_template_kwargs))


def with_thinking(form: Form, asked: AnswerRequest, profile: Profile) -> Form:
    """Return a request's form with the template's variables: the profile's, those about thoughts, and the request's own."""
    if not isinstance(form, ChatForm):
        return form
    wish = wish_of(asked.thinking, asked.template_kwargs, profile)
    variables = template_variables(form.template, wish)
    return replace(form, kwargs={**profile.chat_template_kwargs, **variables, **asked.template_kwargs})


def template_variables(template: ChatTemplate, wish: ThinkingWish) -> dict[str, Any]:
    """Return the variables by which a chat template is told the wish: those that it reads."""
    known: dict[str, Any] = {}
    if wish.is_off or wish.is_on:
        known |= {name: values[wish.is_on] for name, values in _SWITCHES.items() if name in template.variables}
    effort = "none" if wish.is_off else wish.effort
    if effort:
        for name in _EFFORTS:
            if name in template.variables and (value := _effort(template, name, effort)):
                known[name] = value
    budget = 0 if wish.is_off else wish.budget
    if budget is not None and "thinking_budget" in template.variables:
        known["thinking_budget"] = budget
    return known


def check_wish(asked: ThinkingWish, reply_format: ReplyFormat | None) -> None:
    """Raise InvalidRequest if a request wants thoughts of a model that has none; `reply_format` None: it writes no chat."""
    if not asked.is_on or asked.is_optional or (reply_format and reply_format.thoughts):
        return
    param = asked.param or ("reasoning_effort" if asked.effort else "thinking")
    why = "the model's chat template has no thoughts" if reply_format else "no chat template writes this prompt"
    raise InvalidRequest(f"{param}: this model cannot be asked to think: {why}", param=param, code="no_thoughts")


def thoughts_of(
    wish: ThinkingWish,
    template: ChatTemplate,
    reply_format: ReplyFormat,
    tools: Sequence[Mapping[str, Any]],
    is_thinking: bool,
) -> Thoughts | None:
    """Return how the model thinks, for the engine; None: it does not. `is_thinking`: the prompt ends within a thought.

    `tools` are those that may be called, as in `ReplyFormat.reader`.
    """
    tags = reply_format.thoughts
    if tags is None:
        return None
    budget = _budget(wish, template)
    # A thought that never was says nothing.
    closing = tags.ends + tags.after if budget == 0 else tags.closing
    return Thoughts(
        begins=tags.begins,
        ends=tags.ends,
        is_open=is_thinking,
        budget=budget,
        closing=closing,
        breaks=reply_format.thought_breaks(tools),
    )


def _budget(wish: ThinkingWish, template: ChatTemplate) -> int | None:
    """Return the most tokens of thoughts."""
    if wish.is_off:
        # Not every template can switch thinking off.
        return 0
    if wish.budget is None and wish.effort and template.variables.isdisjoint(_EFFORTS):
        return EFFORT_BUDGETS.get(wish.effort)
    return wish.budget


@lru_cache(maxsize=256)
def _effort(template: ChatTemplate, name: str, effort: str) -> str | None:
    """Return the template's own word for an effort, by trying which it takes; None: none of them."""
    source = template.format.template
    special, usual = _NAMES[effort]
    for value in (*(word for word in special if f"'{word}'" in source or f'"{word}"' in source), *usual):
        try:
            ChatForm(template, ({"role": "user", "content": "A"},), kwargs={name: value}).fill((), "A")
            return value
        except (InvalidRequest, BadModelFile):
            continue
    return None


def _told_by(kwargs: Mapping[str, Any]) -> ThinkingWish:
    """Return what template variables say about thinking."""
    enabled = next((kwargs[name] for name in ("enable_thinking", "thinking") if isinstance(kwargs.get(name), bool)), None)
    budget = kwargs.get("thinking_budget")
    # Seed-OSS takes -1 for any number.
    is_budget = isinstance(budget, int) and not isinstance(budget, bool) and budget >= 0
    return ThinkingWish(enabled, None, budget if is_budget else None)
