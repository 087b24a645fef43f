"""The request for an answer, as every endpoint that generates passes it on."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from services.backend.types import Constraint, Infill, Prompt, Sampling
from services.models.profile import Profile
from services.prompts.form import Exchange
from services.replies.events import Reply

# Fields of `Sampling` that are no plain fields of a request's body.
_OTHERS = ("logit_bias", "text_bias", "banned", "allowed_tokens", "constraint", "n_top")
_SAMPLING = tuple(each.name for each in fields(Sampling) if each.name not in _OTHERS)


@dataclass(frozen=True)
class ThinkingWish:
    """The thinking that a request asks for. The profile decides a field that is None, else the model."""

    enabled: bool | None = None
    effort: str | None = None
    """One of none, minimal, low, medium, high, xhigh and max."""
    budget: int | None = None
    """The most tokens of thoughts."""
    param: str = ""
    """The field of the request by which thoughts were asked for."""
    is_optional: bool = False
    """True if a model that has no thoughts answers without them, instead of refusing."""

    @property
    def is_off(self) -> bool:
        """True if the model should not think."""
        return self.enabled is False or self.effort == "none" or self.budget == 0

    @property
    def is_on(self) -> bool:
        """True if the model should think."""
        return not self.is_off and (self.enabled is True or self.effort is not None)

    def over(self, other: ThinkingWish) -> ThinkingWish:
        """Return the wish of both; `other` decides what this one leaves open."""
        if self.is_off or (other.is_off and not self.is_on):
            return ThinkingWish(enabled=False, param=self.param)
        if other.is_off:
            return self
        budget = other.budget if self.budget is None else self.budget
        return ThinkingWish(self.enabled or other.enabled, self.effort or other.effort, budget, self.param)


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
    stop_tokens: tuple[int, ...] = ()
    """Token ids that end the answer."""
    keeps_stop: bool = False
    """True if the text that ended the answer is its last text."""
    sampling: Mapping[str, Any] = field(default_factory=dict)
    """The fields of `Sampling` that the request sets."""
    system: str | None = field(default=None, repr=False)
    """The conversation's system prompt: another than it has had so far begins it anew. None: it goes on with its own."""
    state: str = ""
    """The name of its computed state, where it is no session and other requests go on from it; "": it has none."""
    conversation: str = "unsaved"
    """Which of the caller's conversations it is where it is no session."""
    messages: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The chat to answer, of which `prompt` is the last user's message; (): the prompt alone."""
    history: tuple[Exchange, ...] = field(default=(), repr=False)
    """The turns before `messages`, of which the prompt leaves out the first ones where they do not fit."""
    history_start: int = 0
    """The number of these that the conversation's last prompt left out."""
    slides: bool = True
    """False if the prompt holds all exchanges, or is refused."""
    files: tuple[str, ...] = ()
    """The ids of files of the key from which it is answered."""
    earlier_files: tuple[str, ...] = ()
    """The ids of files that earlier messages named: those that are gone by now are left out."""
    collections: tuple[str, ...] = ()
    """The names of collections from whose files it is answered."""
    most_passages: int | None = None
    """The most passages of these that the prompt holds, where it does not hold their whole text; None: as usual."""
    tools: tuple[Mapping[str, Any], ...] = field(default=(), repr=False)
    """The tools that the model may call, as chat templates take them."""
    tool_choice: str = "auto"
    """The calls of the answer: "none", "auto" (as the model likes), "required", or the name of the tool to call."""
    parallel_tool_calls: bool = True
    """True if one answer may hold several calls."""
    thinking: ThinkingWish = ThinkingWish()
    template_kwargs: Mapping[str, Any] = field(default_factory=dict, repr=False)
    """Variables for the chat template, beside the messages and the tools."""
    continues: bool = False
    """True if the last message is the model's own and is continued, instead of answered."""
    goes_on: bool = False
    """True if the session's last answer is continued; what follows and `prompt` are then filled in from the session."""
    begun: str = field(default="", repr=False)
    """The answer so far that is continued, which the session stores with the rest."""
    begun_reasoning: str = field(default="", repr=False)
    """The thoughts before it."""
    generation_prompt: bool = True
    """True if the prompt ends with the beginning of the model's message."""
    chat_format: str = ""
    """The name of the chat template to use instead of the model's own; "": that one."""
    text: Prompt | None = field(default=None, repr=False)
    """A text to go on with as it stands, instead of a prompt or a chat."""
    infill: Infill | None = field(default=None, repr=False)
    """A gap to fill in, instead of a prompt or a chat; `history` has other files, of which the first may be left out."""
    stores: Callable[[Reply, bool], bool] = lambda _reply, _is_whole: True
    """Returns whether an exchange with this answer is stored; an answer that was stopped is not whole.

    One that ends in a tool call is never stored.
    """
    context: Callable[[Profile, int], int] = lambda _profile, n_ctx: n_ctx
    """Returns how many tokens of context the request takes, given its profile and how many are loaded.

    Raises InvalidRequest where the request wants what is not loaded: no request loads a model in another way.
    """
    trims: bool = True
    """True if white space at the answer's ends is left out."""
    constraint: Constraint | None = None
    """The form of the answer's text; one that is constrained calls no tool, unless `tool_choice` asks for a call."""
    logit_bias: tuple[tuple[int, float], ...] = ()
    n_top: int | None = None
    """Both are fields of `Sampling`."""
    prompt_logprobs: bool = False
    """True if the choices of the prompt's tokens are wanted too, if `n_top` asks for choices."""
    on_prompt: Callable[[Sequence[int], Sequence[bytes]], None] | None = None
    """Called with the ids and the bytes of the prompt's tokens, before the answer begins."""
    shows_specials: bool = False
    """True if the special tokens that the model writes are part of a continued text; see `text`."""

    def longest(self, profile: Profile) -> int:
        """Return the most tokens of the answer, as the request or else its profile says; 0: the prompt is only read."""
        return profile.max_tokens if self.max_tokens is None else self.max_tokens


def sampling_of(body: object) -> dict[str, Any]:
    """Return the sampling parameters that a request's body sets: those of its attributes that are not None."""
    return {name: value for name in _SAMPLING if (value := getattr(body, name, None)) is not None}
