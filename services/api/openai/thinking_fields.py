"""The fields by which clients say whether and how much a model thinks: each server has its own."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Annotated, Any, Literal, TypeVar

from pydantic import Field, model_validator

from services.api.http.open_body import Open, Whole
from services.validation import Effort, TemplateKwargs

# -1: no limit.
Budget = Annotated[int, Field(ge=-1, le=2**31 - 1), Whole]
T = TypeVar("T")

_BUDGETS = ("thinking_budget", "thinking_budget_tokens", "thinking_token_budget", "reasoning_budget_tokens")
# The variables by which templates are told whether to think.
_SWITCHES = ("enable_thinking", "thinking")


class Thinking(Open):
    """Whether the model thinks, as Anthropic's, DeepSeek's and GLM's clients say it."""

    type: Literal["enabled", "disabled", "adaptive", "auto"]
    budget_tokens: Budget | None = None


class Reasoning(Open):
    """How the model thinks, as OpenRouter's and Ollama's clients say it. `exclude`: the reply leaves the thoughts out."""

    effort: Effort | None = None
    enabled: bool | None = None
    max_tokens: Budget | None = None
    exclude: bool | None = None


class ThinkingFields(Open):
    """The fields of a chat's body about thoughts."""

    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    think: bool | Effort | None = None
    thinking: bool | Thinking | None = None
    reasoning: Reasoning | None = None
    include_reasoning: bool | None = None
    thinking_budget: Budget | None = None
    thinking_budget_tokens: Budget | None = None
    thinking_token_budget: Budget | None = None
    reasoning_budget_tokens: Budget | None = None
    chat_template_kwargs: TemplateKwargs | None = None

    @model_validator(mode="after")
    def _says_one_thing(self) -> ThinkingFields:
        for name in _SWITCHES:
            if not isinstance((self.chat_template_kwargs or {}).get(name), bool | None):
                raise ValueError(f"chat_template_kwargs.{name}: should be true or false")
        agreed(self._efforts())
        agreed(self._budgets())
        agreed(self._switches())
        return self

    @property
    def effort(self) -> str | None:
        """How much the model is to think; None: as it does by itself."""
        effort = agreed(self._efforts())
        return None if effort == "none" else effort

    @property
    def thinks(self) -> bool | None:
        """True if the model should think, False if not; None: as it does by itself."""
        return agreed(self._switches())

    @property
    def budget(self) -> int | None:
        """The most tokens of thoughts; None: no limit is asked for."""
        budget = agreed(self._budgets())
        return None if budget == -1 else budget

    @property
    def shows_thoughts(self) -> bool:
        """True if the reply has the thoughts."""
        return self.include_reasoning is not False and not (self.reasoning and self.reasoning.exclude)

    @property
    def thinking_field(self) -> str:
        """The field that asks for thoughts, or for none; "" if no field does."""
        return next((name for name, _ in (*self._efforts(), *self._switches(), *self._budgets())), "")

    def _efforts(self) -> Iterator[tuple[str, str]]:
        given = {
            "reasoning_effort": self.reasoning_effort,
            "think": self.think if isinstance(self.think, str) else None,
            "reasoning": self.reasoning.effort if self.reasoning else None,
        }
        yield from ((name, effort) for name, effort in given.items() if effort is not None)

    def _switches(self) -> Iterator[tuple[str, bool]]:
        kwargs = self.chat_template_kwargs or {}
        given: dict[str, Any] = {
            **{f"chat_template_kwargs.{name}": kwargs.get(name) for name in _SWITCHES},
            "enable_thinking": self.enable_thinking,
            "think": self.think if isinstance(self.think, bool) else None,
            "thinking": _switch(self.thinking),
            "reasoning": self.reasoning.enabled if self.reasoning else None,
        }
        yield from ((name, switch) for name, switch in given.items() if switch is not None)
        yield from ((name, effort != "none") for name, effort in self._efforts())

    def _budgets(self) -> Iterator[tuple[str, int]]:
        given = {name: getattr(self, name) for name in _BUDGETS}
        if isinstance(self.thinking, Thinking):
            given["thinking"] = self.thinking.budget_tokens
        if self.reasoning:
            given["reasoning"] = self.reasoning.max_tokens
        yield from ((name, budget) for name, budget in given.items() if budget is not None)


def _switch(thinking: bool | Thinking | None) -> bool | None:
    if isinstance(thinking, Thinking):
        return {"enabled": True, "disabled": False}.get(thinking.type)
    return thinking


def agreed(given: Iterable[tuple[str, T]]) -> T | None:
    """Return the value that all of these fields have; None if none is given. Raises ValueError, naming one that differs."""
    first: tuple[str, T] | None = None
    for name, value in given:
        if first is None:
            first = name, value
        elif value != first[1]:
            raise ValueError(f"{name} says something else than {first[0]}")
    return first[1] if first else None
