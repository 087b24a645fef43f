"""The base of /v1's bodies: fields that no model here declares are noted, so that they are refused or told by name."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, ModelWrapValidatorHandler, PrivateAttr, model_validator

from services.validation import Private

Model = TypeVar("Model", bound="Open")
Path = tuple[str | int, ...]


class Lenient(Private):
    """A model that converts nothing silently, and ignores unknown fields."""

    model_config = ConfigDict(strict=True, frozen=True, allow_inf_nan=False)


class Open(Lenient):
    """A lenient model that notes the fields which it does not declare."""

    _undeclared: dict[str, Any] = PrivateAttr(default_factory=dict)

    @model_validator(mode="wrap")
    @classmethod
    def _notes(cls: type[Model], data: Any, handler: ModelWrapValidatorHandler[Model]) -> Model:
        model = handler(data)
        if isinstance(data, dict):
            declared = {field.alias or name for name, field in cls.model_fields.items()}
            model._undeclared = {name: value for name, value in data.items() if name not in declared}
        return model


def undeclared(body: BaseModel) -> Iterator[tuple[Path, Any]]:
    """Yield the path and the value of each field in a body that its models do not declare, the nested ones included."""
    if isinstance(body, Open):
        yield from (((name,), value) for name, value in body._undeclared.items())
    for name, field in type(body).model_fields.items():
        yield from _within((field.alias or name,), getattr(body, name))


def _within(path: Path, value: Any) -> Iterator[tuple[Path, Any]]:
    if isinstance(value, BaseModel):
        yield from ((path + inner, each) for inner, each in undeclared(value))
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            if isinstance(item, BaseModel):
                yield from _within((*path, index), item)


def _whole(number: object) -> object:
    """Return a float that is whole as an integer: JavaScript, and Python's division, write 8 as 8.0."""
    return int(number) if isinstance(number, float) and number.is_integer() else number


Whole = BeforeValidator(_whole)
"""Takes 8.0 for 8 in a field of integers."""
