"""The request for an answer, as every endpoint that generates passes it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from services.backend.types import Prompt, Sampling
from services.models.profile import Profile

# The other fields of `Sampling` are not plain fields of a request's body.
_SAMPLING = tuple(each.name for each in fields(Sampling) if each.name not in ("logit_bias", "json_schema", "n_top"))


@dataclass(frozen=True)
class AnswerRequest:
    """A prompt, and how to answer it. A field that is None the profile decides."""

    prompt: str = field(repr=False)
    """The person's own words, by which the exchange is stored."""
    model: str | None = None
    """A profile's name or a file's; None: the selected profile."""
    session_id: int | None = None
    memory_k: int | None = None
    """How many exchanges the prompt holds before the person's words."""
    keep: int | None = None
    """How many messages of the session stay before this prompt: to answer one of them anew. None: all."""
    max_tokens: int | None = None
    stop: tuple[str, ...] | None = field(default=None, repr=False)
    """Texts that end the answer."""
    sampling: Mapping[str, float | int] = field(default_factory=dict)
    """The fields of `Sampling` that the request sets."""
    system: str | None = field(default=None, repr=False)
    """The conversation's system prompt: another than it has had so far begins it anew. None: it goes on with its own."""
    conversation: str = "unsaved"
    """Which of the caller's conversations it is where it is no session."""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The chat to answer, of which `prompt` is the last user's message; (): the prompt alone."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The tools that the model may call, as chat templates take them."""
    chat_format: str = ""
    """The name of the chat template to use instead of the model's own; "": that one."""
    text: Prompt | None = field(default=None, repr=False)
    """A text to go on with as it stands, instead of a prompt or a chat."""
    stores: Callable[[str, bool], bool] = lambda _text, _is_whole: True
    """Returns whether an exchange with this answer is stored; an answer that was stopped is not whole."""
    context: Callable[[Profile, int], int] = lambda _profile, n_ctx: n_ctx
    """Returns how many tokens of context the request takes, given its profile and how many are loaded.

    Raises InvalidRequest where the request wants what is not loaded: no request loads a model in another way.
    """
    trims: bool = True
    """Whether white space at the answer's ends is left out."""
    json_schema: str = ""
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_top: int | None = None
    """These three are fields of `Sampling`."""


def sampling_of(body: object) -> dict[str, float | int]:
    """Return the sampling parameters that a request's body sets: those of its attributes that are not None."""
    return {name: value for name in _SAMPLING if (value := getattr(body, name, None)) is not None}
