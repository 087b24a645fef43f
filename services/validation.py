"""The values that fields written by people may take, in requests and profiles alike, and how a wrong one is told."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, ValidationError

Temperature = Annotated[float, Field(ge=0, le=2)]
Share = Annotated[float, Field(ge=0, le=1)]
TopK = Annotated[int, Field(ge=0, le=2**31 - 1)]
RepeatPenalty = Annotated[float, Field(gt=0, le=10)]
# llama.cpp takes 2**32 - 1 to mean "draw one".
Seed = Annotated[int, Field(ge=0, le=2**32 - 2)]
MaxTokens = Annotated[int, Field(ge=1, le=2**31 - 1)]
MemoryK = Annotated[int, Field(ge=0, le=2**31 - 1)]
SessionId = Annotated[int, Field(ge=0, le=2**63 - 1)]
StopString = Annotated[str, Field(min_length=1, max_length=256)]
StopStrings = Annotated[list[StopString], Field(max_length=16)]


class Strict(BaseModel):
    """A model that takes no unknown field, converts nothing silently, and cannot be changed."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True, allow_inf_nan=False)


def explain(error: ValidationError, known: Iterable[str] = ()) -> tuple[str, str]:
    """The first fault of `error`: the field's path ("stop.0"), and a sentence that names it.

    What was given is not repeated, since it may be private. `known` are the fields that a misspelt one may have meant.
    """
    fault = error.errors(include_url=False, include_input=False)[0]
    # A union's branches ("list[constrained-str]") stand in the path too.
    place = ".".join(str(part) for part in fault["loc"] if str(part).isidentifier() or isinstance(part, int))
    if fault["type"] == "extra_forbidden":
        meant = get_close_matches(place, list(known), n=1)
        return place, f"{place}: there is no such field" + (f"; did you mean {meant[0]}?" if meant else "")
    if fault["type"] == "missing":
        return place, f"{place}: is missing"
    reason = str(fault["msg"]).removeprefix("Value error, ")
    return place, f"{place}: {reason[0].lower()}{reason[1:]}" if place else reason
