"""What a grammar cannot say of a JSON text: that no object has a name twice, and no array of unique items one twice."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
from typing_extensions import Self, override

from services.engine.llama.json_places import Places
from services.engine.llama.json_strings import begins_escape, canonical, may_become
from services.engine.llama.matcher import Watch
from services.engine.llama.schemas.keywords import key_of
from services.engine.llama.schemas.unique import Domain
from services.engine.llama.token_table import TokenTable

# Bytes in front of the next one that may end a string; white space between parts of a JSON text.
_PLAIN = re.compile(rb'[^"\\]*')
# An escape of a character that can be written as it is, or as far as it may become one.
_NEEDLESS = re.compile(rb"(?<!\\)(?:\\\\)*\\u(?:[^0]|0[^0]|00[^017]|007[^fF])")
_SPACE = b" \t\n\r"
_DIGITS = b"-0123456789"


class _Container:
    """An object or array that is being written."""

    __slots__ = ("domain", "is_array", "is_key", "nodes", "part", "seen")

    def __init__(self, is_array: bool, nodes: list[Any], domain: Domain | None) -> None:
        self.is_array = is_array
        self.nodes = nodes
        """The schemas that may hold for it."""
        self.domain = domain
        """The items of an array in which no two may be equal; None: any may."""
        self.is_key = not is_array
        """True in an object where a name comes next, or is being written."""
        self.part = b""
        """The name or the item that is being written, as far as it is."""
        self.seen: Mapping[str, bytes] = {}
        """The names or items so far: values, and how they are written (names without their first quotation mark).

        It is replaced, never changed: copies share it.
        """

    def copy(self) -> _Container:
        copied = object.__new__(_Container)
        copied.is_array, copied.nodes, copied.domain = self.is_array, self.nodes, self.domain
        copied.is_key, copied.part, copied.seen = self.is_key, self.part, self.seen
        return copied

    def end_part(self, value: str) -> None:
        """Add the name or item that is written, whose value is `value`, and begin the next."""
        self.seen = {**self.seen, value: canonical(self.part)}
        self.part = b""


class JsonWatch(Watch):
    """Follows one JSON text. A text that the grammar allows is taken for granted here: only repetition is looked for."""

    def __init__(self, schema: dict[str, Any], table: TokenTable) -> None:
        self._places = Places(schema)
        self._table = table
        self._open: list[_Container] = []
        self._next = self._places.root
        """The schemas that may hold for the next value."""
        self._is_string = False
        self._is_escaped = False
        self.is_over = False
        """True if the text is over: an object, an array or a string that is the whole of it. Numbers end unnoticed."""

    @override
    def copy(self) -> Self:
        """Return a watch of the same text so far."""
        copied = self._alike()
        copied._open = [each.copy() for each in self._open]
        return copied

    @override
    def accept(self, token: int) -> None:
        self.read(self._table.pieces[token])

    @override
    def forbid(self, allowed: npt.NDArray[np.bool_], tokens: npt.NDArray[np.int32] | None) -> None:
        if tokens is not None:
            for n in np.flatnonzero(allowed):
                allowed[n] = self.allows(int(tokens[n]))
            return
        for token in self.suspects(allowed).tolist():
            if not self.allows(token):
                allowed[token] = False

    def suspects(self, allowed: npt.NDArray[np.bool_]) -> npt.NDArray[np.int32]:
        """Return the tokens that might repeat something, among those that the grammar allows."""
        table = self._table
        top = self._open[-1] if self._open else None
        found: list[npt.NDArray[Any]] = [table.compounds]
        if top is not None and any(each.domain is not None for each in self._open):
            if top.domain is not None and not top.domain.strings:
                return np.flatnonzero(allowed).astype(np.int32)
            # Behind a string the item that holds it may end.
            found.append(table.beyond if self._is_string else np.flatnonzero(allowed & table.not_opening))
        if top is not None and self._is_string and (top.is_key or top.domain is not None):
            found += self._ends_of_strings(top)
        if self._places.has_patterns:
            found.append(self._escapes(top, allowed))
        tokens = np.concatenate(found).astype(np.int32)
        return tokens[allowed[tokens]]

    def _escapes(self, top: _Container | None, allowed: npt.NDArray[np.bool_]) -> npt.NDArray[Any]:
        r"""The tokens that may write an escape by \u in a name, or go on with one: see `_read_string`."""
        if top is None or not self._is_string or not top.is_key:
            return self._table.escapes
        if self._is_escaped:
            return self._table.escape_ends
        return np.flatnonzero(allowed) if begins_escape(top.part) else self._table.escapes

    def _ends_of_strings(self, top: _Container) -> list[npt.NDArray[np.int32]]:
        """The tokens that might end the string that is being written as one that is there already."""
        table, part = self._table, canonical(top.part)
        if self._is_escaped or begins_escape(top.part):
            return [table.hexes]
        if top.is_key and b"\\u" in top.part:
            return [table.quoting]
        heads = (text[len(part) :].removesuffix(b'"') for text in top.seen.values() if text.startswith(part))
        return [table.escaped, *(table.with_head(head) for head in heads)]

    def allows(self, token: int) -> bool:
        """Return whether a token that the grammar allows repeats nothing."""
        if token in self._table.end_set:
            return True
        return self.trial().read(self._table.pieces[token], is_trial=True) is not None

    def trial(self) -> JsonWatch:
        """Return a watch of the same text for one reading (`is_trial`), which shares what that leaves as it is."""
        trial = self._alike()
        if self._places.has_unique:
            trial._open = [each.copy() for each in self._open]
        elif self._open:
            trial._open = [*self._open[:-1], self._open[-1].copy()]
        return trial

    def read(self, text: bytes, is_trial: bool = False) -> int | None:
        """Take bytes of the text; return how many belong to it, None if something is repeated."""
        at = 0
        while at < len(text) and not self.is_over:
            start, n_open = at, len(self._open)
            if self._is_string:
                at, is_new = self._read_string(text, at)
            else:
                is_new = self._read_mark(text[at : at + 1], is_trial)
                at += 1
            if not is_new:
                return None
            if self._places.has_unique:
                self._record(text[start:at], n_open)
        return at if self._may_continue() else None

    def _alike(self) -> Self:
        copied = object.__new__(type(self))
        copied.__dict__.update(self.__dict__)
        return copied

    def _record(self, text: bytes, n_open: int) -> None:
        """Add text to the items of arrays that are containers themselves; `n_open` were open before it."""
        n_within = min(n_open, len(self._open) if len(self._open) != n_open else n_open - 1)
        for container in self._open[:n_within]:
            if container.domain is not None:
                container.part += text

    def _read_string(self, text: bytes, at: int) -> tuple[int, bool]:
        top = self._open[-1] if self._open else None
        if self._is_escaped:
            end, self._is_escaped = at + 1, False
        else:
            match = _PLAIN.match(text, at)
            end = match.end() if match else at
            if end < len(text):
                self._is_escaped, self._is_string = text[end] == 0x5C, text[end] != 0x22
                end += 1
        if top is None:
            self.is_over = not self._is_string
        if top is None or not (top.is_key or top.domain is not None):
            return end, True
        top.part += text[at:end]
        if top.is_key and self._places.has_patterns and b"\\u" in top.part and _NEEDLESS.search(top.part):
            # The grammar would not know it for a name that a pattern is for.
            return end, False
        return end, self._is_string or not top.is_key or self._end_name(top)

    def _end_name(self, top: _Container) -> bool:
        name = json.loads(b'"' + top.part)
        # The grammar knows the names that the schema has only as they are written there.
        is_hidden = b"\\u" in top.part and name in self._places.names
        is_new = name not in top.seen and not is_hidden
        top.end_part(name)
        self._next = self._places.below(top.nodes, name) if self._places.has_unique else []
        return is_new

    def _read_mark(self, char: bytes, is_trial: bool) -> bool:
        """Take a byte outside of strings."""
        if char in b"}]":
            return self._close(is_trial)
        top = self._open[-1] if self._open else None
        if char == b"," and top is not None:
            top.is_key = not top.is_array
            if top.is_array:
                is_new = self._end_item(top)
                self._next = self._places.items(top.nodes) if self._places.has_unique else []
                return is_new and not self._is_exhausted(top)
            return True
        if char == b":" and top is not None:
            top.is_key = False
            return True
        if char in b"{[":
            self._begin(char == b"[")
            return True
        if char in _SPACE:
            # White space ends a number.
            return top is None or top.domain is None or not top.part or self._is_new(top)
        self._is_string = char == b'"'
        if top is not None and top.domain is not None:
            top.part += char
        return True

    def _begin(self, is_array: bool) -> None:
        nodes = self._next
        domain = self._places.domain(nodes) if is_array and self._places.has_unique else None
        self._open.append(_Container(is_array, nodes, domain))
        if is_array and self._places.has_unique:
            self._next = self._places.items(nodes)

    def _close(self, is_trial: bool) -> bool:
        if not self._open:
            return True
        is_new = self._end_item(self._open.pop())
        self.is_over = not self._open
        if is_trial and self._open:
            self._open[-1] = self._open[-1].copy()
        return is_new

    def _end_item(self, top: _Container) -> bool:
        if top.domain is None or not top.part:
            return True
        value = _value(top.part)
        is_new = value not in top.seen
        top.end_part(value)
        return is_new

    def _is_new(self, top: _Container) -> bool:
        return _value(top.part) not in top.seen

    def _is_exhausted(self, top: _Container) -> bool:
        """Return whether an array that may list all its items has every one of them."""
        domain = top.domain
        return domain is not None and domain.is_listed and len(top.seen) >= len(domain.texts)

    def _may_continue(self) -> bool:
        """Return whether the item that is being written may become one that is not there yet."""
        top = self._open[-1] if self._open else None
        if top is None or top.domain is None or not top.part:
            return True
        begun, domain = top.part, top.domain
        if begun[0] in b"{[" and domain.containers:
            return True
        if begun.startswith(b'"') and not self._is_string:
            return self._is_new(top)
        if begun.startswith(b'"') and domain.strings:
            return True
        if begun[0] in _DIGITS and domain.numbers:
            return begun not in (b"0", b"-0") or "0" not in top.seen
        used = top.seen.values()
        return any(text not in used and may_become(begun, text) for text in domain.texts)


def _value(text: bytes) -> str:
    return key_of(json.loads(text))
