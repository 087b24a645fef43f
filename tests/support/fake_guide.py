"""A script for the fake backend that answers as the guide model does: from the prompt alone, by a few rules."""

from __future__ import annotations

import re
from collections.abc import Callable

_CAPITALS = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo"}
_UNKNOWN = "I do not know that."


def guide(prompt: str) -> list[str]:
    """Return the answer to the last line of "Human: …", which knows what was said before it."""
    head, *said = re.split(r"(?:^|\n)Human: ", prompt)
    told = [each.rsplit("\nAI:", 1)[0] if n == len(said) - 1 else each for n, each in enumerate(said)]
    answer = _answer(told[-1], "\n".join(told[:-1])) if told else _UNKNOWN
    return [f" Arr! {answer}" if "pirate" in head else f" {answer}"]


def _answer(asked: str, before: str) -> str:
    for pattern, write in _RULES:
        if found := re.search(pattern, asked):
            return write(found, before)
    return _UNKNOWN


def _told(what: str, before: str, answer: str, unknown: str) -> str:
    """The answer with what was said last about something, or else `unknown`."""
    found = re.findall(rf"My {what} (?:is|is called) (\w+)\.", before)
    return answer.format(found[-1]) if found else unknown


_RULES: list[tuple[str, Callable[[re.Match[str], str], str]]] = [
    (
        r"capital of (\w+)",
        lambda found, _: f"The capital of {found[1]} is {_CAPITALS[found[1]]}." if found[1] in _CAPITALS else _UNKNOWN,
    ),
    (r"What is (\d+) plus (\d+)", lambda found, _: f"{found[1]} plus {found[2]} is {int(found[1]) + int(found[2])}."),
    (r"Count to (\d+)", lambda found, _: ", ".join(map(str, range(1, int(found[1]) + 1))) + "."),
    (r"My name is (\w+)\.", lambda found, _: f"Nice to meet you, {found[1]}!"),
    (
        r"What is my name",
        lambda _, before: _told("name", before, "Your name is {}.", "You have not told me your name yet."),
    ),
    (
        r"What is my dog called",
        lambda _, before: _told(
            "dog", before.replace("is called", "is"), "Your dog is called {}.", "You have no dog that I know of."
        ),
    ),
    (
        r"What is my lucky number",
        lambda _, before: _told("lucky number", before, "The number is {}.", "You have not told me a number."),
    ),
    (r"How do I mint a key", lambda *_: "Send POST /auth/key with the master key."),
    (r"sessions", lambda *_: "A session keeps a conversation. Send a session_id with each prompt, and it is remembered."),
    (r"Tell me about yourself|Who are you", lambda *_: "I am the guide of this server. I was trained from scratch for it."),
]
