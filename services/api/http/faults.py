"""The engine's errors about the form of an answer, in the request's words: the field and the tool that are at fault."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from services.errors import InvalidRequest, PromptTooLong

# What the engine calls the form of an answer, whatever field of the request asks for it.
CONSTRAINTS = ("response_format", "json_schema", "regex", "gbnf", "lark", "grammar", "constraint")
# The most forms that an error names.
_MOST_NAMES = 4
# What stands before the keyword that cannot be kept, which is named by a JSON pointer (RFC 6901) and a colon.
_WORDS = re.compile(r"^.*? cannot be kept to: ", re.DOTALL)


@dataclass(frozen=True)
class Form:
    """A form that the answer is held to: the request's field, and the tool whose arguments have this schema."""

    field: str
    tool: str = ""
    schema: Any = None

    def has(self, pointer: str) -> bool:
        """Return whether the schema has a value at a JSON pointer, which begins with "/"."""
        value = self.schema
        for part in pointer.split("/")[1:]:
            name = part.replace("~1", "/").replace("~0", "~")
            if isinstance(value, dict) and name in value:
                value = value[name]
            elif isinstance(value, list) and name.isdecimal() and int(name) < len(value):
                value = value[int(name)]
            else:
                return False
        return True


@contextmanager
def as_of_request(prompt: str, forms: Sequence[Form]) -> Iterator[None]:
    """Raise errors with the request's own field names; `prompt` and `forms` are the fields that may be at fault."""
    try:
        yield
    except PromptTooLong as error:
        raise InvalidRequest(error.message, param=prompt, code=error.code) from error
    except InvalidRequest as error:
        raise of_form(error, forms) from error


def of_form(error: InvalidRequest, forms: Sequence[Form]) -> InvalidRequest:
    """Return an error about the form of an answer as the client knows it; any other as it is.

    `forms` are those of the request. The one whose schema has the keyword to which the error points is named; where that is
    not certain, the first one's field is.
    """
    if error.param == "tools" and forms:
        # In the older form of a chat they are called functions.
        return InvalidRequest(error.message, param=forms[-1].field, code=error.code)
    if error.param not in CONSTRAINTS or not forms:
        return error
    likely = _at_fault(error.message, forms)
    form, message, code = likely[0], error.message, error.code
    if len(likely) > 1:
        names = [f'the tool "{each.tool}"' if each.tool else each.field for each in likely[:_MOST_NAMES]]
        message += f" (this is about {' or '.join(names)})"
    elif form.schema is not None:
        # What the engine calls a grammar is made of the schema.
        schema = f'the schema of tool "{form.tool}"' if form.tool else "the JSON schema"
        message, code = f"{schema} cannot be kept to: {_WORDS.sub('', message)}", "bad_schema"
    return InvalidRequest(message, param=form.field, code=code)


def _at_fault(message: str, forms: Sequence[Form]) -> Sequence[Form]:
    """Return the forms that may be the one which an error is about."""
    if named := [form for form in forms if form.tool and f'"{form.tool}"' in message]:
        return named
    pointers = _pointers(message)
    return [form for form in forms if any(map(form.has, pointers))] or forms


def _pointers(message: str) -> list[str]:
    """Return what may be the JSON pointer in an error's words: names in it may hold colons."""
    _, sign, rest = message.partition("#/")
    return [f"/{rest[: colon.start()]}" for colon in re.finditer(":", rest)] if sign else []
