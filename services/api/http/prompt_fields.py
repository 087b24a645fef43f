"""The fields of a prompt, as /answer's body and query have them."""

from __future__ import annotations

from collections.abc import Iterator

from pydantic import model_validator

from services.answers.request import ThinkingWish
from services.api.http.file_fields import FileFields
from services.validation import (
    AnswerPenalty,
    Effort,
    Keep,
    MaxTokens,
    MemoryK,
    RepeatPenalty,
    Seed,
    SessionId,
    Share,
    StopStrings,
    Strict,
    Temperature,
    TemplateKwargs,
    Thinking,
    ThinkingBudget,
    TopK,
)


class ThinkingFields(Strict):
    """Whether and how much the model thinks: four names for it, which may not contradict each other."""

    think: Thinking | None = None
    thinking: Thinking | None = None
    enable_thinking: bool | None = None
    reasoning_effort: Effort | None = None
    thinking_budget: ThinkingBudget | None = None
    chat_template_kwargs: TemplateKwargs | None = None

    @property
    def wish(self) -> ThinkingWish:
        """What these fields want of the model's thoughts."""
        effort = next((value for _, value in self._wanted() if isinstance(value, str)), None)
        switch = next((value for _, value in self._wanted() if isinstance(value, bool)), None)
        param = next((name for name, _ in self._wanted()), "")
        return ThinkingWish(switch, effort, self.thinking_budget, param)

    def _wanted(self) -> Iterator[tuple[str, bool | str]]:
        for name in ("think", "thinking", "enable_thinking", "reasoning_effort"):
            if (value := getattr(self, name)) is not None:
                yield name, value

    @model_validator(mode="after")
    def _says_one_thing(self) -> ThinkingFields:
        wanted = list(self._wanted())
        for number, (name, value) in enumerate(wanted):
            for other, before in wanted[:number]:
                is_same = value == before if type(value) is type(before) else _is_on(value) == _is_on(before)
                if not is_same:
                    raise ValueError(f"{name} says something else than {other}")
        return self


class PromptFields(ThinkingFields, FileFields):
    """A prompt, and how to answer it. What is left out, the profile decides; `AnswerRequest` describes the fields."""

    prompt: str
    session_id: SessionId | None = None
    memory_k: MemoryK | None = None
    keep: Keep | None = None
    temperature: Temperature | None = None
    max_tokens: MaxTokens | None = None
    top_p: Share | None = None
    top_k: TopK | None = None
    min_p: Share | None = None
    repeat_penalty: RepeatPenalty | None = None
    presence_penalty: AnswerPenalty | None = None
    frequency_penalty: AnswerPenalty | None = None
    stop: StopStrings | None = None
    seed: Seed | None = None


def _is_on(value: bool | str) -> bool:
    return value if isinstance(value, bool) else value != "none"
