"""Conversations as documents: Hearth's own export, and those of ChatGPT and Open WebUI, which are read too.

Hearth's document is `{"format": "hearth-sessions", "version": 1, "sessions": [a session as in data/sessions.json, without
"requests" and "window"]}`.

ChatGPT's `conversations.json` is a list of `{"title", "create_time", "update_time", "current_node", "mapping": {ID:
{"parent", "children", "message": {"author": {"role"}, "content": {"parts"}}}}}`. Open WebUI's export is a list of
`{"title", "created_at", "updated_at", "pinned", "chat": {"history": {"currentId", "messages": {ID: {"parentId",
"childrenIds", "role", "content"}}}}}`. Both are trees: what is not on the way to the current message becomes branches.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import Any

from services.sessions.branches import Branch, Tree
from services.sessions.history import stored_messages
from services.sessions.records import StoredSession, check_sessions
from services.sessions.table import BRANCHES, FOLDER, PINNED, SETTINGS, Message
from services.storage.json_file import SchemaError

FORMAT, VERSION = "hearth-sessions", 1
# Characters of a session's settings as JSON, of its folder's name, and of its own.
MOST_SETTINGS, LONGEST_FOLDER, LONGEST_NAME = 16_384, 100, 200
_FIELDS = ("name", "created", "updated", PINNED, FOLDER, SETTINGS, BRANCHES)
_TYPES = {"user": "human", "human": "human", "assistant": "ai", "ai": "ai", "system": "system"}
# Thoughts that Open WebUI writes into an answer.
_THOUGHTS, _END = '<details type="reasoning"', "</details>"


@dataclass(frozen=True)
class Skipped:
    """A conversation that was not taken in, and the reason."""

    name: str
    reason: str


def exported(session: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored session as exports have it."""
    return {**{name: session[name] for name in _FIELDS if session.get(name)}, "messages": stored_messages(session)}


def read_entry(entry: Any) -> dict[str, Any] | Skipped:
    """Return an entry of an export in one of the three forms as a session, or why it is skipped."""
    title = (entry.get("title") or entry.get("name")) if isinstance(entry, dict) else None
    name = title[:LONGEST_NAME] if isinstance(title, str) else ""
    try:
        session = _foreign(entry) if "mapping" in entry or "chat" in entry else dict(entry)
        check_sessions({"1": session})
        # Known fields alone.
        stored = StoredSession.model_validate(session).model_dump(exclude_defaults=True, exclude={"requests", "window"})
    except SchemaError as error:
        return Skipped(name, str(error).removeprefix('session "1": '))
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError, OSError):
        return Skipped(name, "it is not in the form of an export that can be read")
    except RecursionError:
        return Skipped(name, "it has too many branches within branches")
    if not stored.get("messages"):
        return Skipped(name, "it has no messages")
    if len(json.dumps(stored.get(SETTINGS, {}))) > MOST_SETTINGS:
        return Skipped(name, "its settings are too large")
    if folder := stored.get(FOLDER):
        stored[FOLDER] = folder[:LONGEST_FOLDER]
    return {**stored, "name": name, "created": _iso(stored.get("created")), "updated": _iso(stored.get("updated"))}


def _foreign(entry: Mapping[str, Any]) -> dict[str, Any]:
    if "mapping" in entry:
        nodes = {id_: _chatgpt_node(node) for id_, node in entry["mapping"].items()}
        messages, branches = _Nodes(nodes, entry.get("current_node")).tree()
        times = entry.get("create_time"), entry.get("update_time")
    else:
        history = entry["chat"]["history"]
        nodes = {id_: _webui_node(node) for id_, node in history["messages"].items()}
        messages, branches = _Nodes(nodes, history.get("currentId")).tree()
        times = entry.get("created_at"), entry.get("updated_at")
    created, updated = map(_time, times)
    about = {"name": str(entry.get("title") or "")[:LONGEST_NAME], "created": created, "updated": updated or created}
    return {**about, PINNED: entry.get("pinned") is True, BRANCHES: branches, "messages": messages}


@dataclass(frozen=True)
class _Node:
    """A node of a tree of messages; `type` is "" for one that no person reads."""

    parent: str | None
    children: list[str]
    type: str
    text: str


def _chatgpt_node(node: Mapping[str, Any]) -> _Node:
    message = node.get("message") or {}
    content = message.get("content") or {}
    parts = content.get("parts") or []
    text = "\n\n".join(part for part in parts if isinstance(part, str) and part)
    is_shown = content.get("content_type") in ("text", "multimodal_text") and message["author"]["role"] != "system"
    type_ = _TYPES.get(message["author"]["role"], "") if is_shown and text else ""
    return _Node(node.get("parent"), node["children"], type_, text)


def _webui_node(node: Mapping[str, Any]) -> _Node:
    text = _without_thoughts(node["content"])
    return _Node(node.get("parentId"), node["childrenIds"], _TYPES.get(node["role"], "") if text else "", text)


def _without_thoughts(text: str) -> str:
    kept, at = [], 0
    while (start := text.find(_THOUGHTS, at)) >= 0 and (end := text.find(_END, start)) >= 0:
        kept.append(text[at:start])
        at = end + len(_END)
    return "".join([*kept, text[at:]]).strip() if at else text


@dataclass(frozen=True)
class _Nodes:
    nodes: Mapping[str, _Node]
    current: str | None
    seen: set[str] = field(default_factory=set)
    """The nodes that have their place: a damaged export may name one twice."""

    def tree(self) -> Tree:
        """Return the messages on the way to the current one, and the branches beside it."""
        way: set[str] = set()
        id_ = self.current
        while id_ is not None and id_ not in way:
            way.add(id_)
            id_ = self.nodes[id_].parent
        roots = [id_ for id_, node in self.nodes.items() if node.parent is None or node.parent not in self.nodes]
        return self._line(roots, 0, way)

    def _line(self, begin: list[str], at: int, way: set[str]) -> Tree:
        """Return what begins with one of `begin`: that on the way, else the last. Its first message has the index `at`."""
        messages: list[Message] = []
        branches: list[Branch] = []
        shown = self._shown(begin)
        while shown:
            opened = next((each for each in shown if each in way), shown[-1])
            here = at + len(messages)
            for number, each in enumerate(shown, 1):
                if each != opened:
                    own, further = self._line_of(each, here, way)
                    more = {"branches": further} if further else {}
                    branches.append({"at": here, "number": number, "messages": own, **more})
            node = self.nodes[opened]
            messages.append({"type": node.type, "content": node.text})
            shown = self._shown(node.children)
        return messages, branches

    def _line_of(self, id_: str, at: int, way: set[str]) -> Tree:
        """Return the message of a node, whose index is `at`, and what follows it."""
        node = self.nodes[id_]
        messages, branches = self._line(node.children, at + 1, way)
        return [{"type": node.type, "content": node.text}, *messages], branches

    def _shown(self, ids: list[str]) -> list[str]:
        """Return the nodes of these that have a text, and for the others those behind them."""
        shown: list[str] = []
        waiting = list(reversed(ids))
        while waiting:
            id_ = waiting.pop()
            if id_ in self.seen or id_ not in self.nodes:
                continue
            self.seen.add(id_)
            node = self.nodes[id_]
            if node.type:
                shown.append(id_)
            else:
                waiting += reversed(node.children)
        return shown


def _time(value: Any) -> str | None:
    """Return a time, in seconds since 1970, as sessions have it; None if it is none."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    # Open WebUI has had times in milliseconds, microseconds and nanoseconds, too.
    for _ in range(3):
        value = value / 1000 if value > 1e11 else value
    if not 0 <= value <= 1e11:
        return None
    return datetime.fromtimestamp(value, timezone.utc).isoformat(timespec="seconds")


def _iso(value: Any) -> str | None:
    """Return a time of a session (ISO 8601); None if it is none."""
    try:
        return datetime.fromisoformat(value).isoformat(timespec="seconds") if value else None
    except (TypeError, ValueError):
        return None
