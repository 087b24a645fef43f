from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import pytest

from services.backend import Prompt
from services.errors import PromptTooLong
from services.prompts.fit import Exchange, PromptFitter, TemplateForm, fill_template

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
        fitted = PromptFitter(TemplateForm("{chat_history} {input}"), all_of(words), n_ctx, max_tokens).fit(WINDOW, "w")
        return len(fitted.tokens), fitted.max_tokens

    assert fit(100) == (17, 4)
    assert fit(100, 16_000) == (17, 83)
    assert fit(20) == (13, 4)
    assert fit(12) == (9, 3)
    assert fit(4) == (1, 3)
    assert fit(2) == (1, 1)


def test_a_prompt_that_cannot_fit_is_refused_with_both_counts() -> None:
    with pytest.raises(PromptTooLong, match=r"10 tokens.*holds 10"):
        PromptFitter(TemplateForm("{input}"), all_of(words), 10).fit(WINDOW, "w " * 10)
    assert PromptFitter(TemplateForm("{input}"), all_of(words), 10, max_tokens=5).fit(WINDOW, "w " * 9).max_tokens == 1


def all_of(tokenize: Callable[[Prompt], list[int]]) -> Callable[[Sequence[Prompt]], list[list[int]]]:
    return lambda prompts: [tokenize(prompt) for prompt in prompts]


def letters(prompt: Prompt) -> list[int]:
    """A tokenizer for which each letter is a token, but for two of a kind, which are one."""
    return [ord(pair[0]) for pair in re.findall(r"(.)\1?", prompt.text, re.DOTALL)]


def test_the_next_prompts_beginning_is_known_before_its_words() -> None:
    filled = PromptFitter(TemplateForm("S\n{chat_history}\nHuman: {input}\nAI:"), all_of(letters), 1000)
    assert bytes(filled.head()) == b"S\nHuman: "
    before = filled.beginning(WINDOW[:1], "w")
    assert bytes(before) == b"S\nHuman: q0\nAI: a0\nHuman: "
    fitted = filled.fit(WINDOW[:1], "hello")
    assert fitted.tokens[: len(before)] == before
    # The letters of the template are the same, whether the first of them came before the history or after it.
    assert fitted.n_head == len(filled.head())
    assert filled.fit([Exchange("?", "!")], "x").n_head == len(b"S\nHuman: ")


def test_the_beginning_has_the_window_that_will_fit() -> None:
    filled = PromptFitter(TemplateForm("{chat_history} {input}"), all_of(letters), 60, max_tokens=10)
    fitted = filled.fit(WINDOW, "word")
    assert len(fitted.tokens) < len(letters(filled.form.fill(WINDOW, "word")))
    before = filled.beginning(WINDOW, "word")
    assert fitted.tokens[: len(before)] == before
    assert len(before) == len(fitted.tokens) - len("word")


def test_nothing_after_the_words_belongs_to_the_beginning() -> None:
    filled = PromptFitter(TemplateForm("Answer this: {input} {chat_history}"), all_of(letters), 99)
    assert bytes(filled.beginning(WINDOW, "w")) == b"Answer this: "
