"""Decoding speed of answers under a JSON schema, beside that of free ones."""

from __future__ import annotations

import json
from random import Random
from statistics import median
from typing import Any

from benchmarks.harness.clients import Reply, total_rate
from benchmarks.harness.servers import Server
from benchmarks.single.bench import Numbers

USERS = 8
WORDS = 60
ROUNDS = 3
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
    free = _at_once(server, rng, [reply.tokens for reply in held], number)
    if [reply.tokens for reply in held] != [reply.tokens for reply in free]:
        raise RuntimeError(f"{server.name}: a free answer has not as many tokens as were asked for")
    rates = total_rate(held), total_rate(free)
    return {
        "rate": rates[0],
        "free_rate": rates[1],
        "ratio": rates[0] / rates[1],
        "tokens": sum(reply.tokens for reply in held),
    }


def _at_once(
    server: Server, rng: Random, tokens: list[int], seed: int, schema: dict[str, Any] | None = None
) -> list[Reply]:
    """Return the answers to as many prompts sent at the same moment.

    Reading the prompts is the same with a schema and without one, so the rates begin with the first token.
    """
    fields: dict[str, Any] = {"ignore_eos": True} if schema is None else {"json_schema": schema}
    texts = [server.text(WORDS, rng) for _ in tokens]
    flights = [
        server.complete(text, most, temperature=1, seed=100 * seed + user, **fields)
        for user, (text, most) in enumerate(zip(texts, tokens, strict=True))
    ]
    return [flight.wait() for flight in flights]
