"""Grammars in llama.cpp's form (GBNF; its grammars/README.md), written as llguidance's Lark.

llama.cpp's own parser has no limit on the time that a token takes. GBNF speaks of characters, and Lark of terminals, which
take as many characters as they can: so every part that is regular becomes one terminal.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from services.engine.llama.gbnf_borders import ANY, Borders, Node, characters_of, in_groups
from services.patterns.patterns import character_set

LONGEST = 2**18
_NAME = re.compile(r"[A-Za-z0-9_-]+")
_SPACE = re.compile(r"(?:[ \t]|#[^\r\n]*)*")
_SPACE_AND_LINES = re.compile(r"(?:[ \t\r\n]|#[^\r\n]*)*")
_TOKEN = re.compile(r"(!?)<(\[\d+\]|[^>]+)>")
_REPEAT = re.compile(r"[*+?]|\{[ \t]*(\d+)[ \t]*(,[ \t]*(\d*)[ \t]*)?\}")
_ESCAPE = re.compile(r"\\(?:x([0-9a-fA-F]{2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|([trn\\\"\[\]-]))")
_NOTHING = '""'
_CONTROLS = {"t": "\t", "r": "\r", "n": "\n"}


class GbnfError(ValueError):
    """A grammar that cannot be read; the message says why."""


def lark_of(source: str) -> str:
    """Return the Lark grammar for a GBNF grammar. Raises GbnfError."""
    if len(source) > LONGEST:
        raise GbnfError(f"it is larger than {LONGEST} characters")
    try:
        rules = _Parser(source).parse()
        return _Writer(rules).write()
    except RecursionError:
        raise GbnfError("it is nested too deeply") from None


class _Parser:
    def __init__(self, source: str) -> None:
        self._source = source
        self._at = 0

    def parse(self) -> dict[str, Node]:
        """Return the rules by name."""
        rules: dict[str, Node] = {}
        self._skip(True)
        while self._at < len(self._source):
            name = self._match(_NAME, "a rule's name")[0]
            self._skip(False)
            if not self._take("::="):
                raise self._error("expected ::=")
            self._skip(True)
            body = self._choices(False)
            if self._at < len(self._source) and self._source[self._at] not in "\r\n":
                raise self._error("expected the end of the line")
            # As in llama.cpp, the last rule of a name counts.
            rules[name] = body
            self._skip(True)
        self._check(rules)
        return rules

    def _check(self, rules: dict[str, Node]) -> None:
        if "root" not in rules:
            raise GbnfError("there is no rule root")
        for name, body in rules.items():
            for other in body.references():
                if other not in rules:
                    raise GbnfError(f"the rule {name} refers to {other}, which there is none of")

    def _choices(self, is_nested: bool) -> Node:
        choices = [self._sequence(is_nested)]
        while self._take("|"):
            self._skip(True)
            choices.append(self._sequence(is_nested))
        return choices[0] if len(choices) == 1 else Node("choice", parts=choices)

    def _sequence(self, is_nested: bool) -> Node:
        parts: list[Node] = []
        while (part := self._part(is_nested)) is not None:
            self._skip(is_nested)
            while match := _REPEAT.match(self._source, self._at):
                part = self._repeated(part, match)
                self._skip(is_nested)
            parts.append(part)
        return parts[0] if len(parts) == 1 else Node("sequence", parts=parts)

    def _part(self, is_nested: bool) -> Node | None:
        char = self._source[self._at : self._at + 1]
        if char == '"':
            return Node("text", self._literal())
        if char == "[":
            return self._set()
        if char == ".":
            self._at += 1
            return Node("set", "(?s:.)", characters=ANY)
        if char == "(":
            return self._group(is_nested)
        if char and char in "<!":
            return self._token()
        match = _NAME.match(self._source, self._at)
        if not match:
            return None
        self._at = match.end()
        return Node("rule", match[0])

    def _group(self, is_nested: bool) -> Node:
        self._at += 1
        self._skip(True)
        inner = self._choices(True)
        if not self._take(")"):
            raise self._error("expected )")
        return Node("sequence", parts=[inner])

    def _token(self) -> Node:
        match = self._match(_TOKEN, "a token in <>")
        if match[1] and not match[2].startswith("["):
            return Node("token", f"!<{match[2]}>")
        return Node("token", f"<[^{match[2][1:-1]}]>" if match[1] else f"<{match[2]}>")

    def _literal(self) -> str:
        self._at += 1
        text = ""
        while not self._take('"'):
            text += self._char()
        return text

    def _set(self) -> Node:
        self._at += 1
        is_negated = self._take("^")
        ranges: list[tuple[int, int]] = []
        while not self._take("]"):
            first = ord(self._char())
            is_range = self._source.startswith("-", self._at) and not self._source.startswith("-]", self._at)
            self._at += is_range
            ranges.append((first, ord(self._char()) if is_range else first))
        return Node("set", character_set(ranges, is_negated), characters=characters_of(ranges, is_negated))

    def _char(self) -> str:
        if self._at >= len(self._source):
            raise self._error("the grammar ends within quotes or brackets")
        if self._source[self._at] != "\\":
            self._at += 1
            return self._source[self._at - 1]
        match = self._match(_ESCAPE, "an escape (\\x, \\u, \\U, \\t, \\r, \\n, or of a mark)")
        if match[4]:
            return _CONTROLS.get(match[4], match[4])
        code = int(match[1] or match[2] or match[3], 16)
        if code > 0x10FFFF or 0xD800 <= code <= 0xDFFF:
            raise self._error("this is no character")
        return chr(code)

    def _repeated(self, part: Node, match: re.Match[str]) -> Node:
        self._at = match.end()
        repeat = match[0]
        if match[1]:
            most = match[1] if match[2] is None else match[3]
            if most and int(most) < int(match[1]):
                raise self._error("the bounds of a repetition are the wrong way round")
            repeat = f"{{{int(match[1])},{int(most) if most else ''}}}"
        return Node("sequence", parts=[part], repeat=repeat)

    def _skip(self, lines: bool) -> None:
        match = (_SPACE_AND_LINES if lines else _SPACE).match(self._source, self._at)
        self._at = match.end() if match else self._at

    def _take(self, text: str) -> bool:
        found = self._source.startswith(text, self._at)
        self._at += len(text) * found
        return found

    def _match(self, pattern: re.Pattern[str], wanted: str) -> re.Match[str]:
        match = pattern.match(self._source, self._at)
        if not match:
            raise self._error(f"expected {wanted}")
        self._at = match.end()
        return match

    def _error(self, reason: str) -> GbnfError:
        line = self._source.count("\n", 0, self._at) + 1
        return GbnfError(f"line {line}, at {self._source[self._at : self._at + 20]!r}: {reason}")


class _Writer:
    """Writes rules as Lark: those that are regular as terminals, T0, T1 …, and the others as rules, r0, r1 …

    Where a terminal might take characters that belong to what follows it, all are rules of single characters instead.
    """

    def __init__(self, rules: dict[str, Node]) -> None:
        self._rules = rules
        regular = _regular(rules)
        self._by_character = not Borders(rules, regular).are_clear
        self._regular = set() if self._by_character else regular
        self._names = {name: f"{'T' if name in self._regular else 'r'}{n}" for n, name in enumerate(rules)}
        self._terminals: list[str] = []

    def write(self) -> str:
        lines = [f"start: {self._names['root']}"]
        for name, body in self._rules.items():
            lines.append(f"{self._names[name]}: {self._terminal(body) if name in self._regular else self._rule(body)}")
        return "\n".join([*lines, *self._terminals, ""])

    def _rule(self, node: Node) -> str:
        if not self._by_character and node.is_regular(self._regular):
            return self._extracted([node])
        if node.kind == "text":
            return " ".join(json.dumps(char) for char in node.text) or '""'
        if node.kind == "set":
            return f"/{node.text}/"
        if node.kind == "rule":
            return self._names[node.text]
        if node.kind == "token":
            return node.text
        if node.kind == "choice":
            return f"({' | '.join(self._rule(part) for part in node.parts)})"
        return f"({' '.join(self._row(node.parts)) or _NOTHING}){node.repeat}"

    def _row(self, parts: Sequence[Node]) -> Iterator[str]:
        """Parts of a row; regular ones that follow each other are one terminal."""
        if self._by_character:
            yield from map(self._rule, parts)
            return
        for group in in_groups(parts, self._regular):
            yield self._extracted(group) if group[0].is_regular(self._regular) else self._rule(group[0])

    def _extracted(self, parts: Sequence[Node]) -> str:
        if len(parts) == 1 and parts[0].kind == "rule":
            return self._names[parts[0].text]
        name = f"X{len(self._terminals)}"
        self._terminals.append(f"{name}: {' '.join(map(self._terminal, parts))}")
        return name

    def _terminal(self, node: Node) -> str:
        if node.kind == "text":
            return json.dumps(node.text)
        if node.kind == "set":
            return f"/{node.text}/"
        if node.kind == "rule":
            return self._names[node.text]
        return (
            f"({(' | ' if node.kind == 'choice' else ' ').join(map(self._terminal, node.parts)) or _NOTHING}){node.repeat}"
        )


def _regular(rules: dict[str, Node]) -> set[str]:
    """The rules that do not come to themselves again and name no tokens."""
    found: set[str] = set()
    while True:
        more = {name for name, body in rules.items() if name not in found and body.is_regular(found)}
        if not more:
            return found
        found |= more
