from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from itertools import pairwise

import pytest

from services.backend.types import ChatFormat, Prompt
from services.errors import BadModelFile, ClientDisconnected, PromptTooLong
from services.prompts.chat import ChatForm
from services.prompts.chat_template import chat_template
from services.prompts.fit import PromptFitter
from services.prompts.form import Exchange
from services.prompts.template import TemplateForm, fill_template

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
    with pytest.raises(PromptTooLong, match=r"is 10 tokens.*has 10 tokens"):
        PromptFitter(TemplateForm("{input}"), all_of(words), 10).fit(WINDOW, "w " * 10)
    assert PromptFitter(TemplateForm("{input}"), all_of(words), 10, max_tokens=5).fit(WINDOW, "w " * 9).max_tokens == 1
    # Without an answer it may fill the context.
    assert len(PromptFitter(TemplateForm("{input}"), all_of(words), 10, max_tokens=0).fit(WINDOW, "w " * 10).tokens) == 10


def refused(_prompts: Sequence[Prompt]) -> list[list[int]]:
    raise AssertionError("it is tokenized")


def test_what_is_certainly_too_long_is_not_tokenized() -> None:
    """No token stands for more than 4 bytes that are no white space."""
    with pytest.raises(PromptTooLong, match=r"is 10 tokens.*has at least 11 tokens"):
        PromptFitter(TemplateForm("{input}"), refused, 10, longest_token=4).fit((), "wwww" * 11)
    fitted = PromptFitter(TemplateForm("{input}"), all_of(words), 10, longest_token=4).fit((), " wwww " * 9 + " " * 99)
    assert len(fitted.tokens) == 9
    form = chat_form("{% for m in messages %}{{ raise_exception('it is written') }}{% endfor %}", "wwww" * 11)
    with pytest.raises(PromptTooLong):
        PromptFitter(form, refused, 10, longest_token=4).fit((), "wwww" * 11)


def test_a_template_gives_way_while_it_is_written() -> None:
    form = chat_form("{% for m in messages %}{% for n in range(9999) %}{% endfor %}{% endfor %}", "hi")

    def leave() -> None:
        raise ClientDisconnected("left")

    with pytest.raises(ClientDisconnected):
        PromptFitter(form, all_of(words), 1000).pausing(leave).fit((), "hi")


def chat_form(template: str, words: str) -> ChatForm:
    return ChatForm(chat_template(ChatFormat(template, "", "", ())), ({"role": "user", "content": words},))


def all_of(tokenize: Callable[[Prompt], list[int]]) -> Callable[[Sequence[Prompt]], list[list[int]]]:
    return lambda prompts: [tokenize(prompt) for prompt in prompts]


def letters(prompt: Prompt) -> list[int]:
    """A tokenizer for which each letter is a token, but for two of a kind, which are one."""
    return [ord(pair[0]) for pair in re.findall(r"(.)\1?", prompt.text, re.DOTALL)]


def test_the_next_prompts_beginning_is_known_before_its_words() -> None:
    filled = PromptFitter(TemplateForm("S\n{chat_history}\nHuman: {input}\nAI:"), all_of(letters), 1000)
    assert bytes(filled.head()) == b"S\nHuman: "
    before = filled.ahead(WINDOW[:1], "w")[1]
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
    before = filled.ahead(WINDOW, "word")[1]
    assert fitted.tokens[: len(before)] == before
    assert len(before) == len(fitted.tokens) - len("word")


def test_nothing_after_the_words_belongs_to_the_beginning() -> None:
    filled = PromptFitter(TemplateForm("Answer this: {input} {chat_history}"), all_of(letters), 99)
    assert bytes(filled.ahead(WINDOW, "w")[1]) == b"Answer this: "


CHATML = (
    "{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
)
HI = ({"role": "user", "content": "hi"},)


def chat(n_ctx: int, max_tokens: int = 10, template: str = CHATML, system: str = "") -> PromptFitter:
    """A chat whose tokenizer has a token for each character."""
    form = ChatForm(chat_template(ChatFormat(template, "", "", ())), HI, system=system)
    return PromptFitter(form, all_of(lambda prompt: [ord(letter) for letter in prompt.text]), n_ctx, max_tokens)


def test_a_chat_is_messages_and_what_the_owner_wrote_is_shared() -> None:
    fitted = chat(1000, system="S").fit(WINDOW[:1], "more")
    text = "<system>S<user>q0<assistant>a0<user>more<assistant>"
    assert bytes(fitted.tokens).decode() == text
    assert fitted.n_head == len("<system>S<user>")
    assert bytes(chat(1000, system="S").head()) == b"<system>S<user>"


def test_a_full_window_slides_far_and_then_stays() -> None:
    talk = [Exchange(f"question {n:03}", f"answer {n:03}") for n in range(200)]
    fitter, start, starts = chat(2000), 0, []
    for n in range(1, 200):
        fitted = fitter.fit(talk[:n], "the next words", start)
        assert len(fitted.tokens) <= 1990
        next_start, beginning = fitter.ahead(talk[:n], "the next words", fitted.start)
        # What is read ahead is what the next prompt begins with.
        assert fitter.fit(talk[:n], "other words", next_start).tokens[: len(beginning)] == beginning
        start = next_start
        starts.append(start)
    slides = [(old, new) for old, new in pairwise(starts) if old != new]
    assert starts == sorted(starts)
    assert 5 < len(slides) < 15
    # Each time 40 % of the room comes free: about twenty exchanges of 40 tokens.
    assert all(15 < new - old < 25 for old, new in slides)


def test_after_an_edit_far_back_the_window_takes_earlier_exchanges_in_again() -> None:
    talk = [Exchange(f"question {n:03}", f"answer {n:03}") for n in range(200)]
    assert chat(2000).fit(talk[:42], "words", start=40).start < 20
    assert chat(2000).fit(talk[:80], "words", start=40).start == 40
    assert chat(2000).fit(talk[:3], "words", start=40).start == 0


def test_only_what_can_be_in_the_window_is_written() -> None:
    asked = []

    class Counting(ChatForm):
        def fill(self, window: Sequence[Exchange], words: str) -> Prompt:
            asked.append(len(window))
            return super().fill(window, words)

    short = [Exchange("q", "a")] * 50_000
    form = Counting(chat_template(ChatFormat(CHATML, "", "", ())), HI)
    fitted = PromptFitter(form, all_of(lambda prompt: [0] * len(prompt.text)), 2000).fit(short, "hi")
    assert 0.5 * 2000 < len(fitted.tokens) < 0.6 * 2000
    assert max(asked) < 200
    # A conversation that fits is written once.
    asked.clear()
    PromptFitter(form, all_of(lambda prompt: [0] * len(prompt.text)), 2000).fit(short[:20], "hi")
    assert asked == [20]


def test_what_a_template_takes_too_long_for_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.prompts.meter.RUN_SECONDS", 0.1)
    monkeypatch.setattr("services.prompts.meter.MESSAGE_SECONDS", 0)
    template = (
        CHATML + "{% for i in range(9000 if messages | length > 31 else 1) %}{{ range(9000) | list | length }}{% endfor %}"
    )
    talk = [Exchange("q", "a")] * 40
    fitted = chat(2000, template=template).fit(talk, "words")
    assert 20 < fitted.start < 40
    only = (*HI, *({"role": "user", "content": "x"},) * 40)
    with pytest.raises(BadModelFile, match="takes too long"):
        chat_template(ChatFormat(template, "", "", ())).render(only)


@pytest.mark.parametrize("share", [0.3, 0.55, 0.65, 0.8, 0.9])
def test_a_long_text_is_still_there_for_the_question_about_it(share: float) -> None:
    fitter, text = chat(2000), "x" * int(share * 1990)
    fitted = fitter.fit([], text)
    start, _ = fitter.ahead([Exchange(text, "ok")], text, fitted.start)
    assert start == 0
    assert fitter.fit([Exchange(text, "ok")], "And?", start).start == 0
    talk = [*[Exchange("question", "answer")] * 40, Exchange(text, "ok")]
    start, _ = fitter.ahead(talk, text, fitter.fit(talk[:-1], text).start)
    fitted = fitter.fit(talk, "And?", start)
    assert fitted.start <= 40
    assert text.encode() in bytes(fitted.tokens)
