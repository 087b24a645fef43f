"""What a caller asks, as every endpoint that generates passes it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from services.backend.types import Prompt
from services.models.profile import Profile
from services.validation import (
    AnswerPenalty,
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
    TopK,
)

_SAMPLING = (
    "temperature",
    "top_p",
    "top_k",
    "min_p",
    "repeat_penalty",
    "presence_penalty",
    "frequency_penalty",
    "seed",
)


class Question(Strict):
    """What a caller asks. What is left out, the profile decides."""

    prompt: str
    """The person's own words, by which the exchange is stored."""
    session_id: SessionId | None = None
    memory_k: MemoryK | None = None
    keep: Keep | None = None
    """How many messages of the session stay before this prompt: to answer one of them anew. None: all."""
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

    def sampling(self) -> dict[str, float | int]:
        """The sampling parameters that it sets."""
        return {name: value for name in _SAMPLING if (value := getattr(self, name)) is not None}


@dataclass(frozen=True)
class AnswerRequest:
    """A question, and what only some endpoints let a caller choose."""

    question: Question
    model: str | None = None
    """A profile's name or a file's; None: the selected profile."""
    system: str | None = field(default=None, repr=False)
    """The conversation's system prompt: another than it has had so far begins it anew. None: nothing is said of it."""
    talk: str = "unsaved"
    """Which of the caller's conversations it is where it is no session."""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The chat that is to be answered, of which the question's prompt is the last user's message; (): the prompt alone."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The tools that the model may call, as chat templates take them."""
    format: str = ""
    """The name of the chat template to use in the place of the model's own; "": that one."""
    text: Prompt | None = field(default=None, repr=False)
    """A text to go on with as it stands, in the place of a prompt or a chat."""
    stores: Callable[[str, bool], bool] = lambda _text, _is_whole: True
    """Whether an exchange that ends in this answer, which was stopped where it is not whole, is one of the conversation."""
    context: Callable[[Profile, int], int] = lambda _profile, n_ctx: n_ctx
    """How much of the context the request takes (tokens), given its profile and the context that is loaded.

    Raises InvalidRequest where the request wants what is not loaded: no request loads a model in another way.
    """
    trims: bool = True
    """Whether white space at the answer's ends is left out."""
    json_schema: str = ""
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_top: int | None = None
    """See `Sampling`."""
