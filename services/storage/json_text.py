"""Strict JSON, and the positions of values in its text."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NoReturn

Path = Sequence[str | int]
# Levels of nesting at most: functions that walk through a value call themselves as often.
DEEPEST = 100

_DECODER = json.JSONDecoder()
_ENCODE = json.JSONEncoder(ensure_ascii=False).encode
_SPACE = re.compile(r"[ \t\r\n]*")
_TOKEN = re.compile(r'"(?:[^"\\]|\\.)*"|-?[A-Za-z]+|-?[0-9][0-9.eE+-]*')


def parse_json(text: str, object_pairs_hook: Callable[[list[tuple[str, Any]]], Any] | None = None) -> Any:
    """Parse as `json.loads`, as strict as RFC 8259: no NaN or Infinity, and no \\u escape that is half a character.

    Raises JSONDecodeError with the position, RecursionError where it is nested too deeply, and what the hook raises.
    """
    try:
        data = json.loads(text, object_pairs_hook=object_pairs_hook, parse_constant=_refuse_constant)
        if "\\ud" in text or "\\uD" in text:
            json.dumps(data, ensure_ascii=False).encode()
    except _NotANumber as error:
        raise json.JSONDecodeError(str(error), text, _first(text, _is_constant)) from None
    except UnicodeEncodeError:
        message = "A \\u escape is half a character (a lone surrogate)"
        raise json.JSONDecodeError(message, text, _first(text, _is_half)) from None
    except json.JSONDecodeError:
        raise
    except ValueError as error:
        if "integer string conversion" not in str(error):
            raise
        raise json.JSONDecodeError("A number has too many digits", text, _first(text, _is_long)) from None
    return data


def read_json_text(text: str) -> Any:
    """Parse a text of unknown origin, such as a model's; return None where it is no JSON, or nested too deeply."""
    try:
        data = parse_json(text)
        return None if is_deeper(data, DEEPEST) else data
    except (ValueError, RecursionError):
        return None


def is_deeper(data: Any, levels: int) -> bool:
    """Return whether lists and objects are nested more than so many levels deep."""
    level = [data]
    for _ in range(levels):
        inner = [each for each in level if isinstance(each, list | dict)]
        level = [each for one in inner for each in (one.values() if isinstance(one, dict) else one)]
        if not level:
            return False
    return any(isinstance(each, list | dict) for each in level)


def readable(data: dict[str, Any]) -> Iterator[str]:
    """Yield the text of an object for people, an entry a piece.

    Names of the two upper levels, and items of lists there, have a line each. Deeper values are one line, which the
    standard library encodes fast.
    """
    yield "{"
    for number, (name, value) in enumerate(data.items()):
        yield f"{',' * bool(number)}\n  {_ENCODE(name)}: {_fields(value)}"
    yield "\n}\n" if data else "}\n"


def _fields(value: Any) -> str:
    if not isinstance(value, dict) or not value:
        return _ENCODE(value)
    return "{" + ",".join(f"\n    {_ENCODE(name)}: {_items(item)}" for name, item in value.items()) + "\n  }"


def _items(value: Any) -> str:
    if not isinstance(value, list) or not value:
        return _ENCODE(value)
    return "[" + ",".join(f"\n      {_ENCODE(item)}" for item in value) + "\n    ]"


def position_of(text: str, path: Path) -> tuple[int, int]:
    """Return the line and column, from 1, of the value at `path` in a text that is JSON, as far as the path leads.

    Parts of the path that name no entry are passed over: a missing field, or the branch of a union.
    """
    key_at = value_at = _skip_space(text, 0)
    for part in path:
        for name, name_at, at in _entries(text, value_at):
            if name == part:
                key_at, value_at = name_at, at
                break
    return _line_and_column(text, key_at)


def position_of_second(text: str, name: str) -> tuple[int, int]:
    """Return the line and column at which an object has `name` for the second time, in a text that is JSON."""
    return _line_and_column(text, _second(text, _skip_space(text, 0), name) or 0)


def _second(text: str, at: int, name: str) -> int | None:
    seen = False
    for key, key_at, value_at in _entries(text, at):
        if key == name and seen:
            return key_at
        seen = seen or key == name
        if (found := _second(text, value_at, name)) is not None:
            return found
    return None


def _entries(text: str, at: int) -> Iterator[tuple[str | int, int, int]]:
    """Yield the entries of the object or array that begins at `at`: name or index, its position, and its value's."""
    if text[at] not in "{[":
        return
    is_object, number = text[at] == "{", 0
    at = _skip_space(text, at + 1)
    while text[at] not in "}]":
        name, name_at = number, at
        if is_object:
            name, at = _DECODER.raw_decode(text, at)
            at = _skip_space(text, _skip_space(text, at) + 1)
        yield name, name_at, at
        at = _skip_space(text, _DECODER.raw_decode(text, at)[1])
        if text[at] == ",":
            at = _skip_space(text, at + 1)
        number += 1


def _skip_space(text: str, at: int) -> int:
    found = _SPACE.match(text, at)
    return found.end() if found else at


def _line_and_column(text: str, at: int) -> tuple[int, int]:
    return text.count("\n", 0, at) + 1, at - text.rfind("\n", 0, at)


def _first(text: str, test: Callable[[str], bool]) -> int:
    """Return the position of the first token that passes the test."""
    return next((token.start() for token in _TOKEN.finditer(text) if test(token[0])), 0)


def _is_constant(token: str) -> bool:
    return token in ("NaN", "Infinity", "-Infinity")


def _is_long(token: str) -> bool:
    return token.lstrip("-").isdigit() and len(token) > 4000


def _is_half(token: str) -> bool:
    if not token.startswith('"'):
        return False
    try:
        json.loads(token).encode()
    except UnicodeEncodeError:
        return True
    return False


class _NotANumber(ValueError):
    pass


def _refuse_constant(name: str) -> NoReturn:
    raise _NotANumber(f"{name} is not a JSON number")
