from __future__ import annotations

import pytest

from services.backend import Prompt
from services.errors import PromptTooLong
from services.prompts import Exchange, fill_template, fit_prompt

WINDOW = [Exchange(f"q{n}", f"a{n}") for n in range(4)]


def words(prompt: Prompt) -> list[int]:
    """A tokenizer for which a word is a token."""
    return list(range(len(prompt.text.split())))


def test_the_places_are_filled() -> None:
    prompt = fill_template("S\n{chat_history}\nHuman: {input}\nAI:", WINDOW[:2], "hello")
    assert prompt.text == "S\nHuman: q0\nAI: a0\nHuman: q1\nAI: a1\nHuman: hello\nAI:"
    assert [prompt.text[a:b] for a, b in prompt.typed] == ["Human: q0\nAI: a0\nHuman: q1\nAI: a1", "hello"]


@pytest.mark.parametrize("typed", ["{input}", "{chat_history}", "{0.__class__}", "{{", "}", "{input!r}", "%s", "\\1", "{"])
def test_what_a_person_writes_arrives_as_typed(typed: str) -> None:
    prompt = fill_template("{chat_history}|{input}", [Exchange(typed, typed)], typed)
    assert prompt.text == f"Human: {typed}\nAI: {typed}|{typed}"


def test_other_braces_are_literal_and_the_history_optional() -> None:
    assert fill_template('{"a": {x}} {{input}} {input}', WINDOW, "P").text == '{"a": {x}} {P} P'


def test_older_exchanges_make_room() -> None:
    def fit(n_ctx: int, max_tokens: int = 4) -> tuple[int, int]:
        fitted = fit_prompt("{chat_history} {input}", WINDOW, "w", tokenize=words, n_ctx=n_ctx, max_tokens=max_tokens)
        return len(fitted.tokens), fitted.max_tokens

    assert fit(100) == (17, 4)
    assert fit(100, 16_000) == (17, 83)
    assert fit(20) == (13, 4)
    assert fit(12) == (9, 3)
    assert fit(4) == (1, 3)
    assert fit(2) == (1, 1)


def test_a_prompt_that_cannot_fit_is_refused_with_both_counts() -> None:
    with pytest.raises(PromptTooLong, match=r"10 tokens.*holds 10"):
        fit_prompt("{input}", WINDOW, "w " * 10, tokenize=words, n_ctx=10, max_tokens=1)
    assert fit_prompt("{input}", WINDOW, "w " * 9, tokenize=words, n_ctx=10, max_tokens=5).max_tokens == 1
