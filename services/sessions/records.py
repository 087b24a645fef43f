"""The format of data/sessions.json.

An entry of the file is `"1": {"name", "created", "updated", "messages": [{"type", "content"}]}`, where a type is human, ai
or system; an answer of a model that thinks has its `"reasoning"` too, and one that is not whole
`"cut": true`. Once the conversation is long, `"window"` counts its
first exchanges that prompts leave out. `"branches"` are what was said otherwise from one message on (see branches.py),
`"pinned"`, `"folder"` and `"settings"` what its owner has set: the last is for clients, such as the chat page. All four are
left out where they are empty. Its name is the session's number, and for a session of another key than the
master `KEY ID/NUMBER`. `"requests"` are those, by their names, whose answers were stored when the server last ended, and
whose replies were not: `{"key:NAME": {"digest", "at", "time", "told"}}`, where `at` is the index of the answer's message,
and `told` the reply's other fields. It is nearly always empty, and left out.

The older form, `"1": {"name", "history": ["Human: …", "AI: …"]}` beside an `"Active"`, is read too, and written anew when
its session goes on.
"""

from __future__ import annotations

import re
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from services.sessions.branches import check_tree
from services.sessions.history import MASTER, SessionKey
from services.storage.json_file import JsonObject, SchemaError
from services.validation import explain

_NUMBER = re.compile(r"0|[1-9][0-9]{0,18}")

_LOOSE = ConfigDict(strict=True, extra="ignore", frozen=True)


class StoredMessage(BaseModel):
    """One message in the file."""

    model_config = _LOOSE
    type: Literal["human", "ai", "system"]
    content: Annotated[str, Field(repr=False)]
    reasoning: Annotated[str, Field(repr=False)] = ""
    cut: bool = False


class StoredRequest(BaseModel):
    """A request whose answer a session holds."""

    model_config = _LOOSE
    digest: str
    at: Annotated[int, Field(ge=0)]
    time: str
    told: dict[str, Any]


class StoredBranch(BaseModel):
    """One branch of a conversation that is not open."""

    model_config = _LOOSE
    at: Annotated[int, Field(ge=0)]
    number: Annotated[int, Field(ge=1)]
    messages: Annotated[list[StoredMessage], Field(min_length=1)]
    branches: list[StoredBranch] = []


class StoredSession(BaseModel):
    """One session in the file, in either form."""

    model_config = _LOOSE
    name: Annotated[str, Field(repr=False)] = ""
    created: str | None = None
    updated: str | None = None
    window: Annotated[int, Field(ge=0)] = 0
    requests: dict[str, StoredRequest] = {}
    branches: list[StoredBranch] = []
    pinned: bool = False
    folder: Annotated[str, Field(repr=False)] = ""
    settings: Annotated[dict[str, Any], Field(repr=False)] = {}
    messages: list[StoredMessage] = []
    history: Annotated[list[str], Field(exclude=True, repr=False)] = []

    @field_validator("history")
    @classmethod
    def _has_speakers(cls, lines: list[str]) -> list[str]:
        for number, line in enumerate(lines):
            if not line.startswith(("Human:", "AI:")):
                raise ValueError(f'entry {number} should begin with "Human:" or "AI:"')
        return lines


def parse_number(digits: str) -> int | None:
    """Return the session number that `digits` write; None where they write none."""
    return int(digits) if _NUMBER.fullmatch(digits) and int(digits) < 2**63 else None


def key_of(entry: str) -> SessionKey | None:
    """Return the owner and number of an entry of the file; None for the older form's "Active"."""
    owner, slash, digits = entry.rpartition("/")
    number = parse_number(digits)
    return None if number is None or bool(owner) != bool(slash) else SessionKey(owner or MASTER, number)


def check_sessions(data: JsonObject, n_messages: int | None = None) -> None:
    """Raise SchemaError, naming the entry, where `data` does not hold sessions.

    `n_messages` is the number of each one's messages, where `data` does not hold all of them.
    """
    for entry, session in data.items():
        if key_of(entry) is None:
            if entry != "Active":
                raise SchemaError((entry,), f'"{entry}" is no session: a session\'s name is a number, or KEY ID/NUMBER')
            continue
        if not isinstance(session, dict):
            raise SchemaError((entry,), f'session "{entry}" should be an object: {{ … }}')
        try:
            checked = StoredSession.model_validate(session)
            if checked.branches:
                count = len(checked.history) + len(checked.messages) if n_messages is None else n_messages
                check_tree(count, [branch.model_dump() for branch in checked.branches])
        except ValidationError as error:
            fault = explain(error)
            raise SchemaError((entry, *fault.path), f'session "{entry}": {fault.message}') from None
        except ValueError as error:
            raise SchemaError((entry, "branches"), f'session "{entry}": {error}') from None
