"""The cases of llama.cpp's tests/test-chat.cpp, read from its source: what a model writes, and what it should be read as.

The file's tests are calls in a row, `tst.test(OUTPUT).tools({…}).expect(…).run();`, between declarations of the values that
they use. `chat_cases()` runs the declarations and loops as far as they are needed, and reads each row into a `ChatCase`.
"""

from __future__ import annotations

import json
from collections import ChainMap
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from functools import cache
from typing import Any

from tests.support.cpp_text import Token, tokens_of
from tests.support.real_models import chat_tests

_ROOT = "test_template_output_peg_parsers"
_OPEN, _CLOSED = {"(": ")", "{": "}", "[": "]"}, {")", "}", "]"}
Env = ChainMap[str, Any]


@dataclass(frozen=True)
class ChatCase:
    """One output of a model and its expected reading.

    `line` is where the case stands, `template` the stem of its template's file. `continues` is "content" or "reasoning" if
    the prompt ends with the beginning of that, as the last of `messages` has it; `calls` are names, arguments and ids.
    """

    line: int
    template: str
    output: str
    tools: tuple[dict[str, Any], ...] = ()
    reasoning_format: str = "none"
    enable_thinking: bool = True
    parallel: bool = False
    schema: str = ""
    tool_choice: str = "auto"
    messages: tuple[dict[str, Any], ...] = ({"role": "user", "content": "Hey there!"},)
    add_generation_prompt: bool = True
    continues: str = ""
    is_partial: bool = False
    content: str = ""
    reasoning: str = ""
    calls: tuple[tuple[str, str, str], ...] = ()

    def __str__(self) -> str:
        return f"{self.template}:{self.line}"


@dataclass
class Extraction:
    """The cases of the file, the lines of `.run()` in its source, and why the cases of other lines could not be read."""

    cases: list[ChatCase] = field(default_factory=list)
    runs: set[int] = field(default_factory=set)
    unread: dict[int, str] = field(default_factory=dict)


@cache
def chat_cases() -> Extraction:
    """Return what test-chat.cpp holds."""
    [path] = [path for path in chat_tests() if path.name == "test-chat.cpp"]
    return extract(path.read_text(encoding="utf-8"))


def extract(source: str) -> Extraction:
    """Return the cases of C++ source of that form."""
    walker = _Walker(tokens_of(source))
    walker.run_all()
    return walker.found


@dataclass(frozen=True)
class _Tester:
    template: str


@dataclass(frozen=True)
class _Function:
    params: list[str]
    begin: int
    end: int


class _Unread(Exception):
    """An expression that this module does not evaluate."""


class _Walker:
    """Walks through the statements of the file, in the order in which they would run."""

    def __init__(self, tokens: list[Token]) -> None:
        self.found = Extraction()
        self._tokens = tokens
        self._functions: dict[str, _Function] = {}

    def run_all(self) -> None:
        env: Env = ChainMap({})
        at = 0
        while at < len(self._tokens):
            at = self._top_level(at, env)
        root = self._functions[_ROOT]
        values = [token.value for token in self._tokens]
        for name in (_ROOT, *self._called(root)):
            each = self._functions[name]
            runs = (at for at in range(each.begin, each.end) if values[at : at + 3] == ["run", "(", ")"])
            self.found.runs |= {self._tokens[at].line for at in runs}
        self._walk(root.begin, root.end, env.new_child({"detailed_debug": False}))

    def _called(self, root: _Function) -> Iterator[str]:
        names = {self._tokens[at].value for at in range(root.begin, root.end)}
        return (name for name in self._functions if name in names and name.startswith("test_"))

    def _top_level(self, at: int, env: Env) -> int:
        """Note a function, or run a declaration; return where the next begins."""
        first = self._tokens[at].value
        end = at
        while self._tokens[end].value not in (";", "{"):
            end = self._past(end) if self._tokens[end].value in _OPEN else end + 1
        if self._tokens[end].value == ";":
            self._statement(at, end, env)
            return end + 1
        past = self._past(end)
        if first in ("struct", "class", "enum", "namespace"):
            return past + (self._tokens[past].value == ";")
        if self._tokens[end - 1].value == ")" and len(_split(self._tokens[at:end], "=")) == 1:
            self._note_function(at, end, past)
            return past
        end = self._end_of_statement(at, len(self._tokens))
        self._statement(at, end, env)
        return end + 1

    def _note_function(self, at: int, brace: int, past: int) -> None:
        opening = next(n for n in range(at, brace) if self._tokens[n].value == "(")
        parts = _split(self._tokens[opening + 1 : self._past(opening) - 1], ",")
        params = [next((t.value for t in reversed(part) if t.kind == "name"), "") for part in parts]
        self._functions[self._tokens[opening - 1].value] = _Function(params, brace + 1, past - 1)

    def _walk(self, at: int, end: int, env: Env) -> None:
        while at < end:
            value = self._tokens[at].value
            if value == "{":
                past = self._past(at)
                self._walk(at + 1, past - 1, env.new_child())
                at = past
            elif value == "for":
                at = self._loop(at, env)
            elif value in ("if", "catch", "while"):
                at = self._past(at + 1)
            elif value in ("else", "try"):
                at += 1
            else:
                stop = self._end_of_statement(at, end)
                self._statement(at, stop, env)
                at = stop + 1

    def _loop(self, at: int, env: Env) -> int:
        """Run a loop over a list as often as it says, any other not at all; return where it ends."""
        header = self._tokens[at + 2 : self._past(at + 1) - 1]
        body = self._past(at + 1)
        past = self._past(body)
        parts = _split(header, ":")
        if len(parts) == 2 and parts[1] and parts[1][0].value == "{":
            for value in _Expression(parts[1], env).whole():
                self._walk(body + 1, past - 1, env.new_child({parts[0][-1].value: value}))
        return past

    def _statement(self, at: int, end: int, env: Env) -> None:
        tokens = self._tokens[at:end]
        if len(tokens) > 3 and [t.value for t in tokens[1:4]] == [".", "test", "("]:
            self._case(tokens, env)
        elif len(parts := _split(tokens, "=")) > 1:
            self._assign(parts[0], tokens[len(parts[0]) + 1 :], env)
        elif len(tokens) == 2 and tokens[0].value == "common_chat_msg":
            env[tokens[1].value] = {}
        elif len(tokens) > 2 and tokens[0].value in self._functions and tokens[1].value == "(":
            self._call(tokens, env)
        else:
            self._declare(tokens, env)

    def _declare(self, tokens: list[Token], env: Env) -> None:
        """Run `TYPE NAME{VALUES}` for the types that cases use."""
        values = [token.value for token in tokens]
        if "{" in values and ("common_chat_tool" in values or "common_chat_msg" in values) and "<" not in values:
            brace = values.index("{")
            items = _tried(tokens[brace:], env)
            if isinstance(items, list) and brace and tokens[brace - 1].kind == "name":
                env[values[brace - 1]] = _message_of(items) if "common_chat_msg" in values else items

    def _assign(self, left: list[Token], right: list[Token], env: Env) -> None:
        names = [token.value for token in left if token.kind == "name"]
        if len(names) == 2 and left[-2].value == "." and isinstance(env.get(names[0]), dict):
            env[names[0]] = {**env[names[0]], names[1]: _tried(right, env)}
        elif names:
            env[names[-1]] = _tried(right, env)

    def _call(self, tokens: list[Token], env: Env) -> None:
        function = self._functions[tokens[0].value]
        arguments = [_tried(part, env) for part in _split(tokens[2:-1], ",")]
        bound = dict(zip(function.params, arguments, strict=False))
        self._walk(function.begin, function.end, env.new_child(bound))

    def _case(self, tokens: list[Token], env: Env) -> None:
        line = next(t.line for t, dot in zip(tokens[1:], tokens, strict=False) if (dot.value, t.value) == (".", "run"))
        try:
            tester = env.get(tokens[0].value)
            if not isinstance(tester, _Tester):
                raise _Unread(f"{tokens[0].value} is no tester")
            self.found.cases.append(_read_case(ChatCase(line, tester.template, ""), tokens[1:], env))
        except (_Unread, ValueError, KeyError, TypeError, IndexError) as error:
            self.found.unread[line] = repr(error)

    def _past(self, at: int) -> int:
        """Return the index behind the bracket that closes the one at `at`."""
        depth = 0
        for n in range(at, len(self._tokens)):
            token = self._tokens[n]
            if token.kind == "sign":
                depth += (token.value in _OPEN) - (token.value in _CLOSED)
            if depth == 0:
                return n + 1
        raise _Unread(f"line {self._tokens[at].line}: the bracket is not closed")

    def _end_of_statement(self, at: int, end: int) -> int:
        while at < end and self._tokens[at].value != ";":
            at = self._past(at) if self._tokens[at].kind == "sign" and self._tokens[at].value in _OPEN else at + 1
        return at


def _read_case(case: ChatCase, tokens: list[Token], env: Env) -> ChatCase:
    """Return the case that a row of calls describes; `tokens` begin with the dot before `test`."""
    while tokens:
        closing = _closing(tokens, 2)
        arguments = [_Expression(part, env).whole() for part in _split(tokens[3:closing], ",")]
        case = _SETTERS[tokens[1].value](case, *arguments)
        tokens = tokens[closing + 1 :]
    return case


def _expect(case: ChatCase, message: dict[str, Any]) -> ChatCase:
    calls = tuple(tuple(call) for call in message.get("tool_calls", ()))
    content, reasoning = message.get("content", ""), message.get("reasoning_content", "")
    return replace(case, content=content, reasoning=reasoning, calls=calls)


def _calls(items: list[Any]) -> tuple[tuple[str, str, str], ...]:
    return tuple((name, arguments, given or "") for name, arguments, given in items)


def _tool(values: list[str]) -> dict[str, Any]:
    name, description, parameters = values
    function = {"name": name, "description": description, "parameters": json.loads(parameters)}
    return {"type": "function", "function": function}


def _openai_message(message: dict[str, Any]) -> dict[str, Any]:
    """Return a message as OpenAI's API writes it, without the fields that are empty."""
    calls = [
        {"id": given, "type": "function", "function": {"name": name, "arguments": arguments}}
        for name, arguments, given in message.get("tool_calls", ())
    ]
    plain = {key: value for key, value in message.items() if key != "tool_calls" and value}
    return {"content": "", **plain, **({"tool_calls": calls} if calls else {})}


_SETTERS: dict[str, Callable[..., ChatCase]] = {
    "test": lambda case, output: replace(case, output=output),
    "reasoning_format": lambda case, name: replace(
        case, reasoning_format=name.removeprefix("COMMON_REASONING_FORMAT_").lower()
    ),
    "tools": lambda case, tools: replace(case, tools=tuple(_tool(tool) for tool in tools)),
    "enable_thinking": lambda case, value: replace(case, enable_thinking=value),
    "parallel_tool_calls": lambda case, value: replace(case, parallel=value),
    "add_generation_prompt": lambda case, value: replace(case, add_generation_prompt=value),
    "continue_final_message": lambda case, name: replace(
        case, continues=name.removeprefix("COMMON_CHAT_CONTINUATION_").lower()
    ),
    "json_schema": lambda case, schema: replace(case, schema=schema),
    "is_partial": lambda case, value: replace(case, is_partial=value),
    "expect_reconstruction": lambda case, *_: case,
    "expect": _expect,
    "expect_content": lambda case, text: replace(case, content=text),
    "expect_reasoning": lambda case, text: replace(case, reasoning=text),
    "expect_tool_calls": lambda case, items: replace(case, calls=_calls(items)),
    "tool_choice": lambda case, name: replace(case, tool_choice=name.removeprefix("COMMON_CHAT_TOOL_CHOICE_").lower()),
    "messages": lambda case, messages: replace(case, messages=tuple(_openai_message(m) for m in messages)),
    "run": lambda case: case,
}


def _assistant(content: str, thoughts: str = "", name: str = "", arguments: str = "", call_id: str = "") -> dict[str, Any]:
    calls = [(name, arguments, call_id)] if name or call_id else []
    return {"role": "assistant", "content": content, "reasoning_content": thoughts, "tool_calls": calls}


def _message_of(fields: list[Any]) -> dict[str, Any]:
    role, content = fields[:2]
    return {"role": role, "content": content}


def _with_calls(thoughts: str, content: str, calls: list[list[str]]) -> dict[str, Any]:
    return {**_assistant(content, thoughts), "tool_calls": [(name, arguments, "") for name, arguments in calls]}


# What the file's own helpers return, and the constructors that matter.
_KNOWN: dict[str, Callable[..., Any]] = {
    "simple_assist_msg": _assistant,
    "message_with_tool_calls": lambda name, arguments: _assistant("", "", name, arguments),
    "message_with_tool_calls_and_reasoning": lambda name, arguments, thoughts: _assistant("", thoughts, name, arguments),
    "message_with_reasoning_and_tool_call": lambda thoughts, name, arguments: _assistant("", thoughts, name, arguments),
    "message_with_content_and_tool_call": lambda content, name, arguments: _assistant(content, "", name, arguments),
    "message_with_reasoning_content_and_multiple_tool_calls": _with_calls,
    "peg_tester": lambda path, *_: _Tester(path.rsplit("/", 1)[-1].removesuffix(".jinja")),
    "std::string": lambda text: text,
}


def _tried(tokens: list[Token], env: Env) -> Any:
    """Return an expression's value, None if this module does not evaluate it."""
    try:
        return _Expression(tokens, env).whole()
    except (_Unread, TypeError, ValueError, IndexError):
        return None


class _Expression:
    """Evaluates literals, names, sums of texts, lists in braces, and calls of `_KNOWN`."""

    def __init__(self, tokens: list[Token], env: Env) -> None:
        self._tokens = tokens
        self._env = env
        self._at = 0

    def whole(self) -> Any:
        value = self._sum()
        if self._at < len(self._tokens):
            raise _Unread(f"line {self._tokens[self._at].line}: {self._tokens[self._at].value!r}")
        return value

    def _peek(self) -> str:
        return self._tokens[self._at].value if self._at < len(self._tokens) else ""

    def _sum(self) -> Any:
        value = self._term()
        while self._peek() == "+" and self._tokens[self._at].kind == "sign":
            self._at += 1
            value = value + self._term()
        return value

    def _term(self) -> Any:
        token = self._tokens[self._at]
        self._at += 1
        if token.kind == "text":
            text = token.value
            while self._at < len(self._tokens) and self._tokens[self._at].kind == "text":
                text += self._tokens[self._at].value
                self._at += 1
            return text
        if token.value == "{":
            return self._list("}")
        if token.kind == "name":
            return self._name(token)
        raise _Unread(f"line {token.line}: {token.value!r}")

    def _name(self, token: Token) -> Any:
        name = token.value
        while self._peek() == ":" or self._peek() == "::":
            self._at += 1
            name += "::" + self._peek()
            self._at += 1
        if name in ("true", "false"):
            return name == "true"
        if self._peek() == "(" and name in _KNOWN:
            self._at += 1
            return _KNOWN[name](*self._list(")"))
        if name.startswith("COMMON_"):
            return name
        value = self._env.get(name)
        if value is None:
            raise _Unread(f"line {token.line}: {name} has no value here")
        return value

    def _list(self, closing: str) -> list[Any]:
        items = []
        while self._peek() != closing:
            items.append(self._sum())
            if self._peek() == ",":
                self._at += 1
        self._at += 1
        return items


def _closing(tokens: list[Token], at: int) -> int:
    depth = 0
    for n in range(at, len(tokens)):
        if tokens[n].kind == "sign":
            depth += (tokens[n].value in _OPEN) - (tokens[n].value in _CLOSED)
        if depth == 0:
            return n
    raise _Unread(f"line {tokens[at].line}: the bracket is not closed")


def _split(tokens: list[Token], sign: str) -> list[list[Token]]:
    """Return the parts between the signs that stand in no brackets; no part if there are no tokens."""
    parts: list[list[Token]] = [[]]
    depth = 0
    for token in tokens:
        if token.kind == "sign":
            depth += (token.value in _OPEN) - (token.value in _CLOSED)
            if token.value == sign and depth == 0:
                parts.append([])
                continue
        parts[-1].append(token)
    return parts if tokens else []
