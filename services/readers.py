"""The readers of what a key lends, such as a collection: other keys by their ids, or everybody."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Literal

from pydantic import Field

from services.errors import NotFound
from services.validation import at_most

EVERYBODY: Literal["everybody"] = "everybody"
Readers = list[str] | Literal["everybody"]
# As requests give them.
AnyReaders = Annotated[list[Annotated[str, Field(min_length=1, max_length=64)]], at_most(1000)] | Literal["everybody"]


def check_readers(readers: Readers, earlier: Readers, is_usable: Callable[[str], bool]) -> None:
    """Raise NotFound for a new reader that is no usable key's id; an earlier one may have ended since."""
    known = set(earlier) if isinstance(earlier, list) else set()
    for id_ in readers if isinstance(readers, list) else ():
        if id_ not in known and not is_usable(id_):
            raise NotFound(f'readers: there is no key with the id "{id_}"', param="readers", code="key_not_found")
