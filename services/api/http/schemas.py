"""The bodies of requests and answers, and SpecTree, which checks the first and publishes both as OpenAPI."""

from __future__ import annotations

import json
from typing import Annotated, Any, TypeVar

from flask import Request, make_response
from pydantic import BaseModel, Field, RootModel, ValidationError
from spectree import Response, SecurityScheme, SpecTree
from spectree.models import InType, SecureType, SecuritySchemeData
from spectree.plugins.base import Context
from spectree.plugins.flask_plugin import FlaskPlugin

from services.answers.request import Question
from services.errors import InvalidRequest
from services.storage.json_text import DEEPEST, is_deeper, parse_json
from services.validation import Prompt as PromptText
from services.validation import Strict, explain


class AnswerBody(Question):
    """The body of POST /answer."""

    prompt: PromptText
    stream: bool = False
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A profile, or a file of the models folder. None: the selected profile."""
    system_prompt: str = ""
    """Where there is one, the conversation is written by a chat template instead of the profile's template."""


class TokenUsage(BaseModel):
    """Counts of tokens: read, taken from computed state among them, and written."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int


class AnswerResult(BaseModel):
    """A whole answer. `timings` are milliseconds; the messages counted are those of the session, with the new prompt."""

    result: str
    session_id: int | None
    model: str
    profile: str
    finish_reason: str
    usage: TokenUsage
    timings: dict[str, float]
    messages_in_prompt: int
    messages_left_out: int


class WrittenPrompt(BaseModel):
    """A prompt as the model reads it. `tokens` are its ids, `n_ctx` how many the context holds."""

    prompt: str
    tokens: list[int]
    stop: list[str]
    model: str
    profile: str
    n_ctx: int
    messages_in_prompt: int
    messages_left_out: int


class SessionNames(RootModel[dict[str, str]]):
    """Session number → name; for the master key also KEY ID/NUMBER → name."""


class SessionEntry(BaseModel):
    """A session, as it is listed; `messages` is how many it has."""

    session_id: int
    name: str
    created: str | None
    updated: str | None
    messages: int


class SessionList(BaseModel):
    """The caller's own sessions, the one that went on last first."""

    sessions: list[SessionEntry]


class Stopped(BaseModel):
    """Whether there was an answer to stop."""

    stopped: bool


class SessionName(Strict):
    """The body of PATCH /answer/ID."""

    name: Annotated[str, Field(min_length=1, max_length=200)]


class Message(BaseModel):
    """What one side said."""

    type: str
    content: str


class ConversationBody(BaseModel):
    """A session in full."""

    session_id: int
    name: str
    created: str | None
    updated: str | None
    messages: list[Message]


class Deleted(BaseModel):
    """It is gone."""

    deleted: bool


class ErrorDetail(BaseModel):
    """What went wrong; `param` names the field or header at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The one shape of every error."""

    message: str
    error: ErrorDetail


Body = TypeVar("Body", bound=BaseModel)
# What any request may get: no key, not with this key, not under this name, too often.
_USUAL_ERRORS = (401, 403, 421, 429)


def read_json(request: Request) -> Any:
    """The body as JSON, whatever its Content-Type says; {} for an empty one.

    Raises InvalidRequest for what is not JSON, NaN and Infinity included.
    """
    try:
        text = request.get_data().decode("utf-8")
        data = parse_json(text) if text.strip() else {}
        if is_deeper(data, DEEPEST):
            raise InvalidRequest(f"the body is nested more than {DEEPEST} levels deep", code="malformed_json")
        return data
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise InvalidRequest(f"the body is not JSON: {error.msg} ({where})", code="malformed_json") from None
    except UnicodeDecodeError:
        raise InvalidRequest("the body is not JSON: it is not UTF-8 text", code="malformed_json") from None
    except RecursionError:
        raise InvalidRequest(
            "the body is not JSON that can be read: it is nested too deeply", code="malformed_json"
        ) from None


class StrictFlask(FlaskPlugin):
    """SpecTree's Flask plugin, but for two things: a bad body raises our error, and replies pass as they are.

    The original takes malformed JSON for an empty object, and reads replies to check them, streams included.
    """

    def request_validation(self, request: Any, query: Any, json: Any, form: Any, headers: Any, cookies: Any) -> None:
        """Check the body against the resource's model. Raises InvalidRequest."""
        request.context = Context(None, validated(json, read_json(request)) if json else None, None, None, None)

    def validate_response(self, resp: Any, *_: Any) -> Any:
        """Make a response of what the resource returned."""
        return make_response(resp), None


def validated(model: type[Body], data: Any) -> Body:
    """The body that `data` is, which should be an object. Raises InvalidRequest, naming the field at fault."""
    if not isinstance(data, dict):
        raise InvalidRequest("the body should be a JSON object: { … }", code="malformed_json")
    try:
        return model.model_validate(data)
    except ValidationError as error:
        known = [field.alias or name for name, field in model.model_fields.items()]
        fault = explain(error, known)
        # A family of endpoints may have an error of its own for bad bodies, as its clients know it.
        raise getattr(model, "misfit", InvalidRequest)(fault.message, param=fault.field) from None


spec = SpecTree(
    backend=StrictFlask,
    title="Hearth",
    naming_strategy=lambda model: str(model.__name__),
    nested_naming_strategy=lambda _parent, child: child,
    validation_error_status=400,
    validation_error_model=ErrorBody,
    security_schemes=[
        SecurityScheme(name="key", data=SecuritySchemeData(type=SecureType.HTTP, scheme="bearer")),
        SecurityScheme(
            name="x-api-key",
            data=SecuritySchemeData(type=SecureType.API_KEY, name="X-Api-Key", field_in=InType.HEADER),
        ),
    ],
    security=[{"key": []}, {"x-api-key": []}],
)


def replies(body: type[BaseModel], *errors: int, good: int = 200) -> Response:
    """The replies of a resource's method, for OpenAPI: `body`, and the shape of errors for these statuses and the usual."""
    statuses = sorted({*_USUAL_ERRORS, *errors})
    return Response(**{f"HTTP_{good}": body}, **{f"HTTP_{status}": ErrorBody for status in statuses})
