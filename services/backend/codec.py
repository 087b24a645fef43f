"""The backend's values as JSON, for another process; JSON that comes from one is validated."""

from __future__ import annotations

from typing import Any, TypeVar

from pydantic import TypeAdapter

from services import errors
from services.backend.types import TokenChoice
from services.errors import HearthError, Unavailable

T = TypeVar("T")
Message = dict[str, Any]

_adapters: dict[Any, TypeAdapter[Any]] = {}


def _adapter(kind: Any) -> TypeAdapter[Any]:
    if kind not in _adapters:
        _adapters[kind] = TypeAdapter(kind)
    return _adapters[kind]


def to_json(value: Any) -> Any:
    """Return one of the backend's values as JSON."""
    return _adapter(type(value)).dump_python(value, mode="json")


def from_json(kind: type[T], data: Any) -> T:
    """Return the value of class `kind` that `to_json` has written. Raises pydantic's ValidationError."""
    value: T = _adapter(kind).validate_python(data)
    return value


def choice_to_json(choice: TokenChoice) -> list[Any]:
    """Return a TokenChoice as JSON: bytes are hexadecimal."""
    top = [[piece.hex(), logprob] for piece, logprob in choice.top]
    return [choice.piece.hex(), choice.logprob, top, list(choice.ids)]


def choice_from_json(data: list[Any]) -> TokenChoice:
    """Return the TokenChoice that `choice_to_json` has written."""
    piece, logprob, top, ids = data
    likeliest = tuple((bytes.fromhex(each), value) for each, value in top)
    return TokenChoice(bytes.fromhex(piece), logprob, likeliest, tuple(ids))


def error_to_json(error: BaseException) -> Message:
    """Return an error as JSON; one that is no HearthError becomes an EngineFailure."""
    if not isinstance(error, HearthError):
        error = errors.EngineFailure(f"the engine failed: {error}")
    fields = {"kind": type(error).__name__, "message": error.message, "param": error.param, "code": error.code}
    return {**fields, "public": error.public, "retry_after": getattr(error, "retry_after", None)}


def error_from_json(data: Message) -> HearthError:
    """Return the error that `error_to_json` has written."""
    kind: type[HearthError] = getattr(errors, data["kind"], errors.EngineFailure)
    # The constructors of some kinds take other arguments than a message.
    error = kind.__new__(kind)
    HearthError.__init__(error, data["message"], param=data["param"], code=data["code"], public=data.get("public"))
    if isinstance(error, Unavailable):
        error.retry_after = data["retry_after"]
    return error
