"""An answer that one engine has begun and another goes on with: no word is missing, none comes twice."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.backend.types import Constraint, GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.loop.engine import Engine
from services.errors import InvalidRequest
from tests.support.tiny import GUIDE

PROMPT = "You are the guide of this server.\n\n\nHuman: {}\nAI:"
FIELDS = {"name": {"type": "string"}, "old": {"type": "integer"}}
# An answer is cut behind every so many tokens.
CUT_EVERY = 7
SCHEMA = json.dumps({"type": "object", "properties": FIELDS, "required": ["name", "old"]})


@pytest.fixture(scope="module")
def engine() -> Iterator[Engine]:
    # One slot: what stands beside it changes the last digits of what is computed.
    made = Engine.open(LoadSettings(GUIDE, 2048, n_parallel=1, n_threads=1))
    yield made
    made.close()


def events_of(engine: Engine, request: GenerationRequest) -> tuple[list[tuple[str, int]], list[int], str]:
    """Each piece of text with how many tokens there were by then at most; the tokens; and why it ended."""
    generation = engine.submit(request)
    pieces = []
    for piece in generation.chunks(lambda: None):
        if piece:
            pieces.append((piece, len(generation.tokens)))
    assert generation.finish
    return pieces, list(generation.tokens), generation.finish.reason


@pytest.mark.parametrize(
    ("question", "fields"),
    [
        ("How do I mint a key?", {}),
        ("What can you do?", {"stop": ("answer", " and ")}),
        ("Say: Grüße, 你好 🙂", {"sampling": Sampling(temperature=0.9, seed=7)}),
        ("Who are you?", {"sampling": Sampling(temperature=1.3, seed=11, repeat_penalty=1.2, presence_penalty=0.3)}),
        ("Who are you?", {"sampling": Sampling(temperature=0, constraint=Constraint("json_schema", SCHEMA))}),
        ("Who are you?", {"sampling": Sampling(temperature=1.2, seed=5, constraint=Constraint("regex", "[a-z ]{20,40}!"))}),
        ("Who are you?", {"sampling": Sampling(temperature=1.2, seed=3, xtc_probability=0.5, xtc_threshold=0.05)}),
        ("Who are you?", {"sampling": Sampling(temperature=1.5, seed=4, dry_multiplier=2.0, dry_allowed_length=1)}),
        ("Who are you?", {"sampling": Sampling(temperature=1.5, seed=9, typical_p=0.7, top_n_sigma=2.0, top_k=-1)}),
        (
            "Count to 9.",
            {"sampling": Sampling(temperature=0.5, seed=2, min_tokens=50, repeat_last_n=-1, repeat_penalty=1.1)},
        ),
        ("Count to 9.", {"sampling": Sampling(temperature=0, ignore_eos=True)}),
        ("Count to 9.", {"max_tokens": 7}),
    ],
)
def test_it_goes_on_where_the_other_was(engine: Engine, question: str, fields: dict[str, Any]) -> None:
    tokens = tuple(engine.tokenize(Prompt(PROMPT.format(question))))
    fields = {"max_tokens": 60, "sampling": Sampling(temperature=0), **fields}
    request = GenerationRequest(tokens, **fields)
    pieces, chosen, reason = events_of(engine, request)
    whole = "".join(piece for piece, _ in pieces)
    # Each case is cut at other tokens. The text that was told may be behind its tokens, and at the end before them.
    for n_given in (*range(1 + len(question) % CUT_EVERY, len(chosen), CUT_EVERY), len(chosen)):
        for delivered in {0, 3, 4 * n_given} & set(range(len(whole) + 1)):
            rest, _, ended = events_of(engine, replace(request, resume_tokens=tuple(chosen[:n_given]), delivered=delivered))
            assert whole[:delivered] + "".join(piece for piece, _ in rest) == whole, (n_given, delivered)
            assert ended == reason


def test_what_was_said_to_the_end_ends_at_once(engine: Engine) -> None:
    tokens = tuple(engine.tokenize(Prompt(PROMPT.format("Count to 9."))))
    request = GenerationRequest(tokens, 5, Sampling(temperature=0))
    pieces, chosen, _ = events_of(engine, request)
    whole = "".join(piece for piece, _ in pieces)
    generation = engine.submit(replace(request, resume_tokens=tuple(chosen), delivered=len(whole)))
    assert "".join(generation.chunks(lambda: None)) == ""
    assert generation.finish
    assert (generation.finish.reason, generation.finish.completion_tokens) == ("length", 5)


def test_what_the_grammar_never_said_is_refused(engine: Engine) -> None:
    tokens = tuple(engine.tokenize(Prompt(PROMPT.format("Who are you?"))))
    request = GenerationRequest(
        tokens,
        20,
        Sampling(constraint=Constraint("json_schema", SCHEMA)),
        resume_tokens=tuple(engine.tokenize(Prompt("Hello"))),
    )
    with pytest.raises(InvalidRequest, match="resume_tokens"):
        engine.submit(request)
