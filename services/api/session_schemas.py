"""The bodies of requests and replies about sessions."""

from __future__ import annotations

import json
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field

from services.api.http.schemas import Query
from services.sessions.transfer import LONGEST_FOLDER, LONGEST_NAME, MOST_SETTINGS
from services.validation import Strict


class _SessionFacts(BaseModel):
    session_id: int
    name: str
    created: str | None
    updated: str | None
    pinned: bool
    folder: str


class SessionEntry(_SessionFacts):
    """A session in a list; `messages` is the number of its messages, `snippet` what a search has found in them."""

    messages: int
    snippet: str | None = None


class SessionList(BaseModel):
    """The caller's own sessions, the last used first."""

    sessions: list[SessionEntry]


class SessionsQuery(Query):
    """The query of GET /sessions."""

    q: Annotated[str, Field(description="Words that the session's name, or one of its messages, has.")] = ""


def _small(settings: dict[str, Any]) -> dict[str, Any]:
    if len(json.dumps(settings)) > MOST_SETTINGS:
        raise ValueError(f"should have at most {MOST_SETTINGS:,} characters as JSON")
    return settings


# Any JSON object, for clients.
Settings = Annotated[dict[str, Any], AfterValidator(_small)]


class SessionChange(Strict):
    """The body of PATCH /answer/ID: what is to be changed. `settings` is any JSON object, for clients."""

    name: Annotated[str, Field(min_length=1, max_length=LONGEST_NAME)] = ""
    pinned: bool = False
    folder: Annotated[str, Field(max_length=LONGEST_FOLDER)] = ""
    settings: Settings = {}


class BranchChoice(Strict):
    """The body of POST /answer/ID/branch: the branch of this number, of those that begin at message `at`."""

    at: Annotated[int, Field(ge=0)]
    number: Annotated[int, Field(ge=1)]


class MessageEdit(Strict):
    """The body of PATCH /answer/ID/messages/N."""

    content: Annotated[str, Field(min_length=1)]


class Message(BaseModel):
    """One message of a conversation; an answer of a model that thought has its `reasoning` too.

    `cut` is true for an answer that is not whole: its length was limited, or it was stopped.
    `branch` is the number of the open branch, and `branches` how many there are, where several begin at this message.
    """

    type: str
    content: str
    reasoning: str | None = None
    cut: bool | None = None
    branch: int | None = None
    branches: int | None = None


class ConversationBody(_SessionFacts):
    """A session in full. `window` is the number of its first exchanges that no longer fit into a prompt."""

    settings: dict[str, Any]
    window: int
    messages: list[Message]


class ExportBody(BaseModel):
    """All sessions of a key."""

    format: str
    version: int
    sessions: list[dict[str, Any]]


class ImportBody(Strict):
    """Hearth's export, or the conversations of ChatGPT's or Open WebUI's export as `sessions`."""

    sessions: list[Any]
    format: Literal["hearth-sessions"] = "hearth-sessions"
    version: Literal[1] = 1


class SkippedBody(BaseModel):
    """A conversation that was left out, and the reason."""

    name: str
    reason: str


class Imported(BaseModel):
    """The result of an import."""

    imported: int
    skipped: list[SkippedBody]
