"""The bodies of requests and replies, and SpecTree, which checks requests and publishes both as OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Annotated, Any, Literal, TypeVar

from flask import Request, make_response
from pydantic import BaseModel, ConfigDict, Field, RootModel, ValidationError, model_validator
from spectree import Response, SecurityScheme
from spectree.models import InType, SecureType, SecuritySchemeData
from spectree.plugins.base import Context
from spectree.plugins.flask_plugin import FlaskPlugin
from spectree.utils import get_model_key
from typing_extensions import override

from services.api.http.file_fields import FileFields
from services.api.http.prompt_fields import PromptFields, ThinkingFields
from services.api.http.spectree_internals import LazySpecTree
from services.errors import InvalidRequest
from services.storage.json_text import DEEPEST, is_deeper, parse_json
from services.validation import Keep, MaxTokens, MemoryK, Strict, explain
from services.validation import Prompt as PromptText


def _without_defaults(schema: dict[str, Any]) -> None:
    for parameter in schema["properties"].values():
        parameter.pop("default", None)


class Query(BaseModel):
    """The parameters of a path's query, all of them texts that may be left out. Those of other names are ignored."""

    model_config = ConfigDict(json_schema_extra=_without_defaults)


class AnswerBody(PromptFields):
    """The body of POST /answer."""

    prompt: PromptText = ""
    continue_: Annotated[bool | None, Field(alias="continue")] = None
    """True, without a prompt, if the session's last answer should be continued."""
    stream: bool | None = None
    progress: bool | None = None
    """True if the stream should tell how much of the prompt is read."""
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    """A profile, or a file of the models folder. None: the selected profile."""
    system_prompt: str | None = None
    """With a system prompt, the conversation is written by a chat template instead of the profile's template."""

    @model_validator(mode="after")
    def _has_words(self) -> AnswerBody:
        if not self.continue_:
            if "prompt" not in self.model_fields_set:
                raise ValueError("prompt: is missing")
        elif "prompt" in self.model_fields_set:
            raise ValueError("prompt: leave it out to continue the last answer")
        elif self.session_id is None:
            raise ValueError("session_id: is missing: the last answer of a session is continued")
        elif self.keep is not None:
            raise ValueError("keep: the last answer of a session is continued")
        return self


class PassageBody(BaseModel):
    """A passage: `start` and `end` are its place in the file's text, in characters, `score` is from 0 to 1."""

    file: str
    name: str
    page: int | None
    heading: str | None
    start: int
    end: int
    text: str
    score: float


class Citation(PassageBody):
    """A passage that an answer cites as [`number`]; not `cited`: it was in the prompt, and the answer cites none."""

    number: int
    cited: bool


class TokenUsage(BaseModel):
    """Counts of tokens: read, taken from computed state among them, written, and written as thoughts among these."""

    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    reasoning_tokens: int


class AnswerResult(BaseModel):
    """A whole answer. `timings` are milliseconds; the messages counted are those of the session, with the new prompt.

    `timings.draft_n` and `draft_n_accepted` count the tokens that were computed ahead, and those of them that came true.
    `reasoning` holds the model's thoughts, and is left out if there are none; so are `citations` if the request names no
    files.
    """

    result: str
    reasoning: str | None = None
    session_id: int | None
    model: str
    profile: str
    finish_reason: str
    usage: TokenUsage
    timings: dict[str, float]
    messages_in_prompt: int
    messages_left_out: int
    citations: list[Citation] | None = None


class WrittenPrompt(BaseModel):
    """A prompt as the model reads it. `tokens` are its ids, `n_ctx` is the size of the context in tokens."""

    prompt: str
    tokens: list[int]
    stop: list[str]
    model: str
    profile: str
    n_ctx: int
    messages_in_prompt: int
    messages_left_out: int


class DraftBody(ThinkingFields, FileFields):
    """The body of POST /answer/ID/draft: what a person has written so far, and those fields of POST /answer that shape the
    prompt."""

    prompt: str
    model: Annotated[str, Field(min_length=1, max_length=1024)] | None = None
    system_prompt: str | None = None
    memory_k: MemoryK | None = None
    keep: Keep | None = None
    max_tokens: MaxTokens | None = None


class Drafted(BaseModel):
    """The result of a draft: `drafted` is true if it is read ahead; if it is not, `reason` says why.

    `tokens` counts the beginning of the prompt, what was computed before included; `charged_tokens` are those of the words
    that the session's last draft did not have, for which the key is charged.
    """

    drafted: bool
    reason: str | None = None
    tokens: int = 0
    charged_tokens: int = 0


class SessionNames(RootModel[dict[str, str]]):
    """Session number → name; for the master key also KEY ID/NUMBER → name."""


class StopBody(Strict):
    """The body of POST /answer/ID/stop, which may be empty. "thinking" ends the thoughts alone: the model answers now."""

    what: Literal["answer", "thinking"] = "answer"


class Stopped(BaseModel):
    """The result of a stop: false where no answer was in flight."""

    stopped: bool


class Deleted(BaseModel):
    """The deletion is done."""

    deleted: bool


class ErrorDetail(BaseModel):
    """The reason of an error; `param` names the field or header at fault."""

    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    """The one shape of every error."""

    message: str
    error: ErrorDetail


Body = TypeVar("Body", bound=BaseModel)
# The errors of every endpoint: no key, not with this key, not under this host name, too often.
_USUAL_ERRORS = (401, 403, 421, 429)
_RETRY_AFTER = {
    "Retry-After": {
        "description": "Seconds after which it may be worth asking again.",
        "schema": {"type": "integer"},
    }
}


def read_json(request: Request) -> Any:
    """Parse the body as JSON, whatever its Content-Type says; {} for an empty body.

    Raises InvalidRequest for anything else than JSON, NaN and Infinity included.
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
    """SpecTree's Flask plugin, except that a bad body raises our own error, and that replies are not checked.

    The original takes malformed JSON for an empty object, and reads whole streams to check them.
    """

    def request_validation(self, request: Any, query: Any, json: Any, form: Any, headers: Any, cookies: Any) -> None:
        """Check the query and the body against the resource's models. Raises InvalidRequest."""
        asked = validated(query, request.args.to_dict()) if query else None
        request.context = Context(asked, validated(json, read_json(request)) if json else None, None, None, None)

    def validate_response(self, resp: Any, *_: Any) -> Any:
        """Make a response of the resource's return value."""
        return make_response(resp), None


def validated(model: type[Body], data: Any) -> Body:
    """Return `data` as a body of this model. Raises InvalidRequest, naming the field at fault.

    Of a model with a `member`, that tells of which of its members the body is, and the body is one of that.
    """
    if not isinstance(data, dict):
        raise InvalidRequest("the body should be a JSON object: { … }", code="malformed_json")
    if member := getattr(model, "member", None):
        model = member(data)
    try:
        return model.model_validate(data)
    except ValidationError as error:
        known = [field.alias or name for name, field in model.model_fields.items()]
        fault = explain(error, known)
        # A family of endpoints may have an error of its own for bad bodies, as its clients know it.
        raise getattr(model, "misfit", InvalidRequest)(fault.message, param=fault.field) from None


spec = LazySpecTree(
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


class Replies(Response):
    """SpecTree's description of a method's replies, and what that cannot describe: text, and Retry-After."""

    def __init__(self, text: str, **models: type[BaseModel] | None) -> None:
        super().__init__(**models)
        self._text = text

    @override
    def generate_spec(self, naming_strategy: Callable[[Any], str] = get_model_key) -> dict[str, Any]:
        responses = super().generate_spec(naming_strategy)
        if self._text:
            responses["200"].setdefault("content", {})[self._text] = {"schema": {"type": "string"}}
        if "503" in responses:
            responses["503"]["headers"] = _RETRY_AFTER
        return responses


def replies(
    body: type[BaseModel] | None, *errors: int, good: int = 200, text: str = "", error: type[BaseModel] = ErrorBody
) -> Replies:
    """Describe the replies of a resource's method: `body` with the status `good`, errors of these statuses and the usual.

    `text` is the media type of a reply in plain text, beside `body` or in its place; `error` is the body of errors.
    """
    statuses = sorted({*_USUAL_ERRORS, *errors})
    return Replies(text, **{f"HTTP_{good}": body}, **{f"HTTP_{status}": error for status in statuses})
