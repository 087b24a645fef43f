"""From the bodies of the Responses API to the requests of the answers' service."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from services.answers.request import AnswerRequest, ThinkingWish, sampling_of
from services.api.openai.responses.items import Item, messages_of, read_items
from services.api.openai.responses.schemas import CreateResponse, Responding
from services.api.openai.responses.tools import callable_tools
from services.api.openai.sampling_fields import UNLIMITED
from services.errors import InvalidRequest
from services.prompts.chat import last_user, words_of
from services.prompts.form import Exchange
from services.sessions.responses import ResponseTable, StoredResponse, chain_of, keep, pending_of

# The length of a response's id behind its prefix, and the number of its first item of input.
_DIGITS, _FIRST_INPUT = 32, 0x8000


@dataclass(frozen=True)
class Before:
    """The stored responses from which a request goes on, the first one first, and the items of its own input."""

    chain: Sequence[StoredResponse]
    items: Sequence[Item]

    @property
    def previous(self) -> str:
        """The id of the last one; "" for none."""
        return self.chain[-1].id if self.chain else ""

    @property
    def n_left_out(self) -> int:
        """The number of first turns that the last prompt left out."""
        return self.chain[-1].left_out if self.chain else 0

    @property
    def files(self) -> tuple[str, ...]:
        """The ids of the files that the request's own items name."""
        return _files_of(self.items)

    @property
    def earlier_files(self) -> tuple[str, ...]:
        """The ids of the files that the items of stored responses name."""
        return _files_of(self._stored_items())

    def messages(self) -> list[dict[str, Any]]:
        """Return everything as the messages that chat templates take."""
        return messages_of([*self._stored_items(), *self.items])

    def _stored_items(self) -> list[Item]:
        return [item for each in self.chain for item in read_items([*each.items, *each.output])]


def before_of(body: Responding, table: ResponseTable, owner: str) -> Before:
    """Return what a request goes on from. Raises InvalidRequest where something is not stored that it refers to."""
    if body.session_id is None:
        chain = chain_of(table, owner, body.previous_response_id or "")
    else:
        chain = pending_of(table, owner, str(body.session_id))
    return Before(chain, list(_resolved(_items(body), table, owner)))


def response_request(body: CreateResponse, before: Before) -> AnswerRequest:
    """Return the request for a response's answer. Raises InvalidRequest."""
    messages = _messages(body, before)
    words = words_of(messages)
    session = body.session_id
    if session is not None:
        _check_session(before, messages, words)
    choice, tools = callable_tools(body.own_tools, body.tool_choice)
    history, rest = _turns(messages) if body.truncation == "auto" and session is None else ((), messages)
    return AnswerRequest(
        words,
        model=body.model,
        session_id=session,
        memory_k=body.memory_k if session is not None else 0,
        max_tokens=UNLIMITED if body.max_output_tokens is None else body.max_output_tokens,
        stop=None if body.stop is None else tuple(body.stop),
        sampling=sampling_of(body),
        messages=tuple(rest),
        history=history,
        history_start=before.n_left_out,
        slides=body.truncation != "disabled",
        files=before.files,
        earlier_files=before.earlier_files,
        collections=body.collections,
        most_passages=body.most_passages,
        tools=tuple(tools),
        tool_choice=choice,
        parallel_tool_calls=body.parallel_tool_calls is not False,
        thinking=_thinking(body),
        template_kwargs=body.chat_template_kwargs or {},
        constraint=body.constraint,
        n_top=body.n_top,
    )


def counted_request(body: Responding, before: Before) -> AnswerRequest:
    """Return a request whose prompt is counted, and not answered."""
    messages = _messages(body, before)
    choice, tools = callable_tools(body.own_tools, body.tool_choice)
    return AnswerRequest(
        words_of(messages),
        model=body.model,
        session_id=body.session_id,
        memory_k=None if body.session_id is not None else 0,
        max_tokens=0,
        messages=tuple(messages),
        files=before.files,
        earlier_files=before.earlier_files,
        collections=body.collections,
        most_passages=body.most_passages,
        tools=tuple(tools),
        tool_choice=choice,
        thinking=_thinking(body),
        template_kwargs=body.chat_template_kwargs or {},
    )


def item_id(prefix: str, response_id: str, n: int) -> str:
    """Return the id of a response's item `n`, by which `response_of` finds it."""
    return f"{prefix}_{response_id.removeprefix('resp_')}{n:04x}"


def response_of(item: str) -> str:
    """Return the id of the response that has the item of this id."""
    return f"resp_{item.partition('_')[2][:_DIGITS]}"


def with_ids(items: Iterable[Item], response_id: str) -> list[dict[str, Any]]:
    """Return the items of a request's input as they are stored: each has an id by which it is found."""
    # Behind those of the output, of which there are fewer.
    ids = (item_id("item", response_id, _FIRST_INPUT + n) for n in itertools.count())
    return [{**item.stored(), "id": id_} for item, id_ in zip(items, ids, strict=False)]


def _messages(body: Responding, before: Before) -> list[dict[str, Any]]:
    instructions = [{"role": "system", "content": body.instructions}] if body.instructions else []
    messages = [*instructions, *before.messages()]
    if not messages:
        raise InvalidRequest("input: there is no text in it", param="input")
    return messages


def _items(body: Responding) -> list[Item]:
    if isinstance(body.input, str):
        return [Item(type="message", role="user", content=body.input)] if body.input else []
    return body.input or []


def _resolved(items: Iterable[Item], table: ResponseTable, owner: str) -> Iterable[Item]:
    """Yield items, each reference as the stored item that it names. Raises InvalidRequest where that is not stored."""
    known: dict[str, StoredResponse | None] = {}
    for n, item in enumerate(items):
        if item.kind != "item_reference":
            yield item
            continue
        id_ = response_of(str(item.id))
        if id_ not in known:
            known[id_] = table.get(owner, id_)
        found = known[id_]
        stored: list[Mapping[str, Any]] = [*found.items, *found.output] if found else []
        named = next((each for each in stored if each.get("id") == item.id), None)
        if named is None:
            what = f'input.{n}.id: there is no stored item "{item.id}"'
            raise InvalidRequest(what, param=f"input.{n}.id", code="item_not_found")
        yield from read_items([named])
    keep(table, [each for each in known.values() if each])


def _check_session(before: Before, messages: list[dict[str, Any]], words: str) -> None:
    """Raise InvalidRequest for what a session would not keep."""
    said = [item.role for item in before.items if item.kind == "message"]
    if said not in ([], ["user"]):
        what = "input: a conversation takes one message of the user at a time; instructions hold a system prompt"
        raise InvalidRequest(what, param="input")
    if not any(message["role"] == "user" for message in messages) or not words.strip():
        what = "input: a conversation goes on with what its user says, and there is no message of the user"
        raise InvalidRequest(what, param="input")


def _turns(messages: list[dict[str, Any]]) -> tuple[tuple[Exchange, ...], list[dict[str, Any]]]:
    """Split messages into earlier turns, each from a message of the user on, and those that every prompt holds.

    The latter are the system messages at the beginning, and the last turn.
    """
    n_system = next((n for n, each in enumerate(messages) if each["role"] != "system"), len(messages))
    last = last_user(messages)
    if last is None or last == n_system:
        return (), messages
    begins = [n for n in range(n_system, last) if messages[n]["role"] == "user" or n == n_system]
    turns = [messages[start:end] for start, end in zip(begins, [*begins[1:], last], strict=True)]
    return tuple(map(_exchange_of, turns)), [*messages[:n_system], *messages[last:]]


def _exchange_of(messages: list[dict[str, Any]]) -> Exchange:
    rest = "".join(str(each["content"]) for each in messages[1:])
    return Exchange(str(messages[0]["content"]), rest, messages=tuple(messages))


def _thinking(body: Responding) -> ThinkingWish:
    # Clients send an effort whatever the model: one without thoughts spends none.
    effort = body.reasoning.effort if body.reasoning else None
    enabled = None if effort is None else effort != "none"
    return ThinkingWish(enabled, None if effort == "none" else effort, None, "reasoning.effort", is_optional=True)


def _files_of(items: Iterable[Item]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(id_ for item in items for id_ in item.files))
