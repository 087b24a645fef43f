"""What a grammar cannot say of a JSON text: that no object has a name twice, and no array of unique items one twice."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from services.engine.llama.schemas.keywords import key_of
from services.engine.llama.schemas.unique import Domain, domain_of
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
        self.seen: dict[str, bytes] = {}
        """The names or items so far: values, and how they are written."""

    def copy(self) -> _Container:
        copied = object.__new__(_Container)
        for name in self.__slots__:
            setattr(copied, name, getattr(self, name))
        copied.seen = dict(self.seen)
        return copied


class JsonWatch:
    """Follows one JSON text. A text that the grammar allows is taken for granted here: only repetition is looked for."""

    def __init__(self, schema: dict[str, Any], table: TokenTable) -> None:
        self._places = _Places(schema)
        self._table = table
        self._open: list[_Container] = []
        self._next = self._places.root
        """The schemas that may hold for the next value."""
        self._is_string = False
        self._is_escaped = False

    def copy(self) -> JsonWatch:
        """Return a watch of the same text so far."""
        copied = object.__new__(JsonWatch)
        copied.__dict__.update(self.__dict__)
        copied._open = [each.copy() for each in self._open]
        return copied

    def accept(self, token: int) -> None:
        """Take a token of the text."""
        self._read(self._table.pieces[token])

    def forbid(self, allowed: npt.NDArray[np.bool_], tokens: npt.NDArray[np.int32] | None) -> None:
        """Set `allowed`, which is for `tokens` or for all tokens, to False where something would be repeated."""
        if not self._open:
            return
        if tokens is not None:
            for n in np.flatnonzero(allowed):
                allowed[n] = self._allows(int(tokens[n]))
            return
        for token in self._suspects(allowed):
            if allowed[token] and not self._allows(token):
                allowed[token] = False

    def _suspects(self, allowed: npt.NDArray[np.bool_]) -> Iterable[int]:
        """The tokens that might repeat something."""
        top = self._open[-1]
        if any(each.domain is not None for each in self._open) and not (self._is_string and not top.is_key):
            return [int(token) for token in np.flatnonzero(allowed)]
        if self._is_string and top.domain is not None and not top.domain.strings:
            return [int(token) for token in np.flatnonzero(allowed)]
        found = []
        if self._is_string and not self._is_escaped and (top.is_key or top.domain is not None):
            for text in top.seen.values():
                if text.startswith(top.part):
                    found += self._table.with_head(text[len(top.part) :].removesuffix(b'"'))
        else:
            # The names begin behind the next quotation mark; the table is made by the first call.
            self._table.with_head(b"")
        return found + self._table.doubles

    def _allows(self, token: int) -> bool:
        if token in self._table.ends:
            return True
        trial = object.__new__(JsonWatch)
        trial.__dict__.update(self.__dict__)
        if self._places.has_unique:
            trial._open = [each.copy() for each in self._open]
        else:
            trial._open = [*self._open[:-1], self._open[-1].copy()]
        return trial._read(self._table.pieces[token], is_trial=True)

    def _read(self, text: bytes, is_trial: bool = False) -> bool:
        """Take bytes of the text; return False if something is repeated."""
        at = 0
        while at < len(text):
            start, n_open = at, len(self._open)
            if self._is_string:
                at, is_new = self._read_string(text, at)
            else:
                is_new = self._read_mark(text[at : at + 1], is_trial)
                at += 1
            if not is_new:
                return False
            if self._places.has_unique:
                self._record(text[start:at], n_open)
        return self._may_continue()

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
        if top is None or not (top.is_key or top.domain is not None):
            return end, True
        top.part += text[at:end]
        if top.is_key and b"\\u" in top.part and _NEEDLESS.search(top.part):
            # Written in this way, a name would not be known as one that the schema has.
            return end, False
        return end, self._is_string or not top.is_key or self._end_name(top)

    def _end_name(self, top: _Container) -> bool:
        name = json.loads(b'"' + top.part)
        is_new = name not in top.seen
        top.seen[name] = top.part
        top.part = b""
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
        if is_trial and self._open:
            self._open[-1] = self._open[-1].copy()
        return is_new

    def _end_item(self, top: _Container) -> bool:
        if top.domain is None or not top.part:
            return True
        is_new = self._is_new(top)
        top.seen[_value(top.part)], top.part = top.part, b""
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
        begun, domain, used = top.part, top.domain, top.seen.values()
        if begun[0] in b"{[" and domain.containers:
            return True
        if begun.startswith(b'"') and domain.strings:
            return self._is_string or begun not in used
        if begun[0] in _DIGITS and domain.numbers:
            return begun not in (b"0", b"-0") or "0" not in top.seen
        return any(text.startswith(begun) and text not in used for text in domain.texts)


def _value(text: bytes) -> str:
    return key_of(json.loads(text))


class _Places:
    """The schemas that hold at each place of a JSON text."""

    def __init__(self, schema: dict[str, Any]) -> None:
        self._definitions: Mapping[str, Any] = schema["$defs"]
        self.has_unique = '"uniqueItems"' in json.dumps(schema)
        self.root = self._flat({"allOf": schema["allOf"]}) if self.has_unique else []

    def below(self, nodes: list[Any], name: str) -> list[Any]:
        """Return the schemas of an object's property."""
        found = []
        for node in nodes:
            properties = node.get("properties", {})
            if name in properties:
                found += self._flat(properties[name])
            else:
                for each in (*node.get("patternProperties", {}).values(), node.get("additionalProperties", True)):
                    found += self._flat(each)
        return found

    def items(self, nodes: list[Any]) -> list[Any]:
        """Return the schemas of an array's items."""
        found = []
        for node in nodes:
            for each in (*node.get("prefixItems", ()), node.get("items", True)):
                found += self._flat(each)
        return found

    def domain(self, nodes: list[Any]) -> Domain | None:
        """Return the items of an array in which no two may be equal; None if they may."""
        if not any("uniqueItems" in node for node in nodes):
            return None
        found = Domain()
        for node in nodes:
            if "uniqueItems" in node:
                for each in (*node.get("prefixItems", ()), node.get("items", True)):
                    found |= domain_of(each, self._definitions)
        return found

    def _flat(self, schema: Any) -> list[Any]:
        """The schemas that may hold where this one does, without references and choices."""
        found: list[Any] = []
        waiting, seen = [schema], set()
        while waiting:
            node = waiting.pop()
            if not isinstance(node, dict) or id(node) in seen:
                continue
            seen.add(id(node))
            found.append(node)
            if "$ref" in node:
                waiting.append(self._definitions[node["$ref"].rpartition("/")[2]])
            waiting += [*node.get("allOf", ()), *node.get("anyOf", ())]
        return found
