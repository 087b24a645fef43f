"""Types of the fields in requests and profiles, and the message for a wrong value."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic_core import ErrorDetails

Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
TopK = Annotated[int, Field(ge=0, le=2**31 - 1)]
RepeatPenalty = Annotated[float, Field(ge=0.01, le=10)]
AnswerPenalty = Annotated[float, Field(ge=-2, le=2)]
# llama.cpp takes 2**32 - 1 to mean "draw one".
Seed = Annotated[int, Field(ge=0, le=2**32 - 2)]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
MemoryK = Annotated[int, Field(ge=0, le=2**31 - 1)]
NCtx = Annotated[int, Field(ge=32, le=2**24)]


def _is_auto(n_ctx: object) -> object:
    if isinstance(n_ctx, str) and n_ctx != "auto":
        raise ValueError('should be a whole number of tokens, or "auto"')
    return n_ctx


# "auto": what the model was trained on, as far as memory allows.
AnyNCtx = Annotated[NCtx | Literal["auto"], BeforeValidator(_is_auto)]
Keep = Annotated[int, Field(ge=0, le=2**31 - 1)]
SessionId = Annotated[int, Field(ge=0, le=2**63 - 1)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]

# The names that pydantic gives to the members of a union: types, classes, and anything with brackets.
_BRANCH = re.compile(r"(?:str|int|float|bool|dict|list|none)$|[A-Z]\w*$|constrained-|[\w-]+\[")


def at_most(most: int) -> BeforeValidator:
    """A validator that refuses a list of more than `most` items before it validates the items."""

    def check(given: object) -> object:
        if isinstance(given, list) and len(given) > most:
            raise ValueError(f"may hold at most {most:,}, not {len(given):,}")
        return given

    return BeforeValidator(check)


# Files that one request may name.
MOST_FILES = 100
FileId = Annotated[str, Field(min_length=1, max_length=64)]
FileIds = Annotated[list[FileId], at_most(MOST_FILES)]
# A collection's name, or OWNER/NAME.
AnyCollection = Annotated[str, Field(min_length=1, max_length=200)]


def _as_list(stop: object) -> object:
    """A list of stop strings, also from a single one."""
    if not isinstance(stop, str | list):
        raise ValueError("should be a text or a list of texts")
    return [stop] if isinstance(stop, str) else stop


StopStrings = Annotated[
    list[StopString], Field(max_length=16), BeforeValidator(_as_list, json_schema_input_type=StopString | list[StopString])
]


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]


def _is_thinking(thinking: object) -> object:
    """Refuse anything else than a bool or a text: pydantic would name both types of the union."""
    if not isinstance(thinking, bool | str):
        raise ValueError("should be true, false, or how much to think, such as low, medium or high")
    return thinking


# Whether a model thinks, or how much.
Thinking = Annotated[bool | Effort, BeforeValidator(_is_thinking, json_schema_input_type=bool | Effort)]
# Tokens of thoughts.
ThinkingBudget = Annotated[int, Field(ge=0, le=2**31 - 1)]
# What chat templates are told by the request and the model themselves.
_OWN_VARIABLES = ("messages", "tools", "add_generation_prompt", "bos_token", "eos_token")


def _has_no_own(kwargs: dict[str, Any]) -> dict[str, Any]:
    if own := next((name for name in _OWN_VARIABLES if name in kwargs), None):
        raise ValueError(f"{own} is no variable to set: the template gets the conversation's own")
    return kwargs


# Variables for a chat template.
TemplateKwargs = Annotated[dict[str, Any], Field(max_length=64), AfterValidator(_has_no_own)]


def _says_something(prompt: str) -> str:
    if not prompt.strip():
        raise ValueError("the prompt is empty")
    return prompt


Prompt = Annotated[str, AfterValidator(_says_something)]


class Private(BaseModel):
    """A model whose `repr` names the fields that are set, and hides their values."""

    def __repr_args__(self) -> Iterator[tuple[str, str]]:
        yield from ((name, "…") for name in type(self).model_fields if name in self.model_fields_set)


class Strict(Private):
    """A frozen model that refuses unknown fields and converts no types."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


@dataclass(frozen=True)
class Fault:
    """The fault of a field: its path, the path as people write it ("stop.0"), and a sentence that names it."""

    path: tuple[str | int, ...]
    field: str
    message: str


def explain(error: ValidationError, known: Iterable[str] = ()) -> Fault:
    """Return the first fault of `error`. It does not repeat the value, which may be private.

    `known` are the fields that may be suggested for a misspelt one.
    """
    faults = error.errors(include_url=False, include_input=False)
    fault = faults[0]
    if branches := _branches(fault):
        # No member of a union fits: the one that was meant is the one whose fault lies deepest.
        before = fault["loc"][: branches[0]]
        fault = max((each for each in faults if each["loc"][: len(before)] == before), key=lambda each: len(each["loc"]))
    branches = _branches(fault)
    path = tuple(part for n, part in enumerate(fault["loc"]) if n not in branches)
    field = ".".join(str(part) for part in path)
    if fault["type"] == "extra_forbidden":
        meant = get_close_matches(str(path[-1]), list(known), n=1)
        reason = "there is no such field" + (f"; did you mean {meant[0]}?" if meant else "")
    elif fault["type"] == "missing":
        reason = "is missing"
    elif fault["type"] in ("model_type", "model_attributes_type", "dict_type"):
        reason = "should be an object"
    else:
        reason = str(fault["msg"]).removeprefix("Value error, ").removeprefix("Assertion failed, ")
        reason = reason[0].lower() + reason[1:]
    if not field and (named := re.match(r"\w+", reason)) and named[0] in known:
        # A fault of several fields together: the sentence begins with the one to change.
        return Fault((named[0],), named[0], reason)
    return Fault(path, field, f"{field}: {reason}" if field else reason)


def _branches(fault: ErrorDetails) -> list[int]:
    """Return which parts of pydantic's path are members of unions, and no fields."""
    # An unknown field is the last part, whatever its sender calls it.
    parts = fault["loc"][:-1] if fault["type"] == "extra_forbidden" else fault["loc"]
    return [n for n, part in enumerate(parts) if isinstance(part, str) and _BRANCH.match(part)]
