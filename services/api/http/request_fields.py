"""The fields of the bodies that other systems' clients send: honoured, accepted without effect, or refused by name."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from flask import make_response
from pydantic import BaseModel, model_validator

from services.api.http.open_body import Open, Path, undeclared
from services.errors import InvalidRequest

IGNORED = "X-Hearth-Ignored"
# The most names that a reply's header tells, and the most characters of one.
_MOST_NAMES, _LONGEST_NAME = 32, 128


@dataclass(frozen=True)
class RequestField:
    """A field that clients send. `about` says what it does, why it has no effect, or why it is refused.

    A nested field has a dotted name, in which a list's items have no index. A refused field may have one of the `harmless`
    values, which ask for nothing; null always is, and a negative number where `or_negative`.
    """

    name: str
    effect: Literal["honoured", "no effect", "refused"]
    about: str
    endpoints: tuple[str, ...]
    harmless: tuple[Any, ...] = ()
    or_negative: bool = False
    code: str = "unsupported_parameter"
    """The error's code where it is refused."""

    def allows(self, value: Any) -> bool:
        """Return whether the field may have this value."""
        if self.or_negative and isinstance(value, int | float) and value < 0:
            return True
        # 1 is no true, and 0 no false.
        return (
            self.effect != "refused"
            or value is None
            or any(value == each and isinstance(value, bool) == isinstance(each, bool) for each in self.harmless)
        )


@dataclass(frozen=True)
class FieldLists:
    """Makes lists of fields that are treated alike; `endpoints` are the ones that know them, where no others are named."""

    endpoints: tuple[str, ...]

    def honoured(self, endpoints: tuple[str, ...], **about: str) -> tuple[RequestField, ...]:
        """Return honoured fields, each with what it does."""
        return tuple(RequestField(name, "honoured", text, endpoints) for name, text in about.items())

    def idle(self, names: str, about: str, endpoints: tuple[str, ...] | None = None) -> tuple[RequestField, ...]:
        """Return fields without effect, whose names have spaces between."""
        return tuple(RequestField(name, "no effect", about, endpoints or self.endpoints) for name in names.split())

    def refused(
        self, names: str, about: str, *harmless: Any, endpoints: tuple[str, ...] | None = None
    ) -> tuple[RequestField, ...]:
        """Return refused fields, whose names have spaces between, with the values that they may have."""
        known = endpoints or self.endpoints
        return tuple(RequestField(name, "refused", about, known, harmless) for name in names.split())


def fields_of(fields: Iterable[RequestField], endpoint: str) -> dict[str, RequestField]:
    """Return those of the fields that an endpoint knows, by their dotted names."""
    return {field.name: field for field in fields if endpoint in field.endpoints}


class Listed(Open):
    """A body whose fields are listed. One that is not is passed over, and the reply's header names it."""

    listed: ClassVar[Mapping[str, RequestField]]
    """The fields by their dotted names."""

    @model_validator(mode="after")
    def _is_honoured(self) -> Listed:
        check_fields(self, self.listed)
        return self

    @property
    def ignored(self) -> list[str]:
        """The names of the fields that nobody knows, as a header may hold them."""
        return printable(ignored_fields(self, self.listed))


def check_fields(body: BaseModel, known: Mapping[str, RequestField]) -> None:
    """Raise InvalidRequest, naming the field, if the body has one that is refused."""
    for path, value in undeclared(body):
        field = known.get(_without_indices(path))
        if field and not field.allows(value):
            name = _dotted(path)
            raise InvalidRequest(f"{name} cannot be honoured: {field.about}", param=name, code=field.code)


def ignored_fields(body: BaseModel, known: Mapping[str, RequestField]) -> list[str]:
    """Return the dotted names of the fields in a body that nobody knows."""
    return [_dotted(path) for path, value in undeclared(body) if _without_indices(path) not in known and value is not None]


def printable(names: Collection[str]) -> list[str]:
    """Return names that clients chose as a header's value may hold them: no separators, ASCII alone, and not too many."""
    shown = ["".join(_characters(name))[:_LONGEST_NAME] for name in dict.fromkeys(names)]
    return shown if len(shown) <= _MOST_NAMES else [*shown[:_MOST_NAMES], f"and {len(shown) - _MOST_NAMES} more"]


def ignored_beside_tools(body: Listed, kinds: Mapping[int, str], unkept: Iterable[str] = ()) -> list[str]:
    """Return a body's `ignored` where tools are left out: their kinds by their places, instead of their fields.

    `unkept` are the fields of other tools that are shown to the model, and not kept to.
    """
    others = {f"tools.{n}.": kind for n, kind in kinds.items()}
    names = [name for name in ignored_fields(body, body.listed) if not name.startswith(tuple(others))]
    return printable([*names, *(f"{place}{kind}" for place, kind in others.items()), *unkept])


def telling_ignored(reply: Any, body: Listed) -> Any:
    """Return a resource's reply to a body, with the header if the body has such fields."""
    if not (names := body.ignored):
        return reply
    response = make_response(reply)
    response.headers[IGNORED] = ", ".join(names)
    return response


def _dotted(path: Path) -> str:
    return ".".join(map(str, path))


def _without_indices(path: Path) -> str:
    return ".".join(part for part in path if isinstance(part, str))


def _characters(name: str) -> Iterator[str]:
    for character in name:
        yield character if "!" <= character <= "~" and character != "," else "?"
