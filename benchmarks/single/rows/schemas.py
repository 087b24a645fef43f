"""Decoding speed of answers under a JSON schema, beside that of free ones."""

from __future__ import annotations

import json
from random import Random
from statistics import median
from typing import Any

from benchmarks.harness.clients import Reply
from benchmarks.harness.servers import Server
from benchmarks.harness.words import make_text
from benchmarks.single.bench import Numbers

USERS = 8
WORDS = 60
ROUNDS = 5
# More than an answer under the schema has, so that none is cut or closed early.
MOST_TOKENS = 600
ITEMS = 3
SCHEMA: dict[str, Any] = {
    "type": "array",
    "items": {
        "type": "object",
        "properties": {
            "name": {"type": "string", "minLength": 20, "maxLength": 60},
            "count": {"type": "integer", "minimum": 0, "maximum": 1000},
            "kind": {"enum": ["small", "large", "unknown"]},
            "score": {"type": "number", "minimum": -1, "maximum": 1},
            "words": {"type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 2, "maxItems": 4},
        },
        "required": ["name", "count", "kind", "score", "words"],
        "additionalProperties": False,
    },
    "minItems": ITEMS,
    "maxItems": ITEMS,
}


def schema(server: Server, rng: Random) -> Numbers:
    """Eight users at once, in turn under the schema and free: tokens a second of each, and the first over the second.

    Each free answer has as many tokens as the one under the schema before it. A first round, which compiles the schema, is
    not counted.
    """
    _round(server, rng, 0)
    rounds = [_round(server, rng, 1 + number) for number in range(ROUNDS)]
    numbers = {key: median(each[key] for each in rounds) for key in ("rate", "free_rate", "ratio")}
    return {**numbers, "rounds": rounds}


def _round(server: Server, rng: Random, number: int) -> dict[str, float]:
    held = _at_once(server, rng, [MOST_TOKENS] * USERS, number, SCHEMA)
    for reply in held:
        if len(json.loads(reply.text)) != ITEMS:
            raise RuntimeError(f"{server.name}: {reply.text[:200]} does not fit the schema")
    free = _at_once(server, rng, [_tokens(reply) for reply in held], number)
    if [_tokens(reply) for reply in held] != [_tokens(reply) for reply in free]:
        raise RuntimeError(f"{server.name}: a free answer has not as many tokens as were asked for")
    rates = _rate(held), _rate(free)
    return {"rate": rates[0], "free_rate": rates[1], "ratio": rates[0] / rates[1], "tokens": sum(map(_tokens, held))}


def _at_once(
    server: Server, rng: Random, tokens: list[int], seed: int, schema: dict[str, Any] | None = None
) -> list[Reply]:
    """Return the answers to as many prompts sent at the same moment."""
    texts = [make_text(WORDS, rng) for _ in tokens]
    flights = [
        server.complete(text, most, 100 * seed + user, schema)
        for user, (text, most) in enumerate(zip(texts, tokens, strict=True))
    ]
    return [flight.wait() for flight in flights]


def _rate(replies: list[Reply]) -> float:
    """Return all answers' tokens over the seconds from the first token of any to the last of all.

    Without the prompts: reading them is the same with a schema and without one.
    """
    begun, ended = min(reply.arrivals[0] for reply in replies), max(reply.arrivals[-1] for reply in replies)
    return sum(map(_tokens, replies)) / (ended - begun)


def _tokens(reply: Reply) -> int:
    return int(reply.last["usage"]["completion_tokens"])
