"""What an answer's next token may be, with a vocabulary of a few words and constraints that are lists of texts."""

from __future__ import annotations

import pytest

from services.backend.types import GenerationRequest, Sampling, Thoughts
from services.engine.llama.steering import Steering
from services.engine.llama.vocabulary import TokenText
from services.errors import InvalidRequest
from tests.support.word_steering import WORDS, Words, matcher, steering, write

THINK = Thoughts("<think>", "</think>")


def test_a_constraint_holds_from_the_first_token_to_its_end() -> None:
    steered = steering("yes", "no")
    assert write(steered, ["maybe", "e", "s", "a"]) in ("yes", "no")
    assert (steered.is_over, steered.is_cut) == (True, False)
    steered = steering("yes", "no")
    assert write(steered, ["y"]) == "y"
    assert steered.is_cut


def test_the_model_may_think_before_it() -> None:
    steered = steering("yes", "no", thoughts=THINK)
    assert write(steered, ["<think>", "maybe", "a", "</think>", "maybe"]).startswith("<think>maybea</think>")
    assert write(steering("yes", "no", thoughts=THINK), ["no"]) == "no"
    # Once the answer has begun, it may not.
    assert write(steering("yes", "no", thoughts=THINK), ["y", "<think>", "s"]) == "yes"


def test_a_thought_in_plain_text_and_a_constraint_that_begins_alike() -> None:
    plain = Thoughts("<thi", "</thi>")
    for wanted in (["<th", "i", "a", "</th", "i", ">", "yes"], ["<th", "x"]):
        steered = steering("yes", "<thx", thoughts=plain)
        assert write(steered, wanted) == "".join(wanted)
        assert steered.is_over


def test_a_token_beyond_the_end_of_a_thought_is_written_in_parts() -> None:
    thoughts = Thoughts("<think>", "</thi" + "nk>", is_open=True)
    steered = steering("yes", "no", thoughts=thoughts)
    assert write(steered, ["a", "</th", "i", "nk>ye", "no"]) == "a</think>no"
    assert steered.n_thought_tokens == 6
    # Nothing is cut where no constraint waits.
    assert write(steering(thoughts=thoughts), ["a", "</th", "i", "nk>ye", "no"]) == "a</think>yeno"


def test_a_budget_and_the_readers_wish_end_thoughts() -> None:
    closing = "end</think>\n"
    thoughts = Thoughts("<think>", "</think>", is_open=True, budget=2, closing=closing)
    steered = steering("yes", "no", thoughts=thoughts)
    assert write(steered, ["a", "b", "c", "d"])[:14] == "abend</think>\n"
    assert steered.n_thought_tokens == 4
    steered = steering(thoughts=Thoughts("<think>", "</think>", closing=closing))
    assert write(steered, ["a", "<think>", "b"]) == "a<think>b"
    steered.stop_thinking()
    assert write(steered, ["c", "<think>", "d"]) == "end</think>\nc<think>end</think>\nd"


def test_closing_goes_on_where_another_engine_has_begun_it() -> None:
    text = "end</think>\n"
    closing = Words().tag(text)
    for n in range(1, len(closing) + 1):
        steered = steering("yes", "no", thoughts=Thoughts("<think>", "</think>", is_open=True, closing=text))
        for at, token in enumerate((WORDS.index("a"), *closing[:n])):
            steered.resume(token, 100 - at)
        steered.stop_thinking()
        rest = write(steered, ["no"])
        assert "a" + "".join(WORDS[token] for token in closing[:n]) + rest == "aend</think>\nno"


def test_a_thought_leaves_room_for_the_constraint() -> None:
    thoughts = Thoughts("<think>", "</think>", is_open=True, closing="</think>")
    steered = steering("yes", "no", max_tokens=30, thoughts=thoughts)
    assert write(steered, [*"abcdefghijklmnop", "no"] * 2, 30).endswith(("</think>yes", "</think>no"))
    assert not steered.is_cut


def test_an_end_in_a_thought_closes_it() -> None:
    steered = steering("yes", "no", thoughts=Thoughts("<think>", "</think>", is_open=True))
    assert write(steered, ["a", "<|end|>", "no"]) == "a</think>no"


def test_half_a_character_is_written_first() -> None:
    class Halves(Words):
        def known(self, token: int) -> TokenText:
            halves = {"a": b"\xc3", "b": b"\xa9"}
            known = super().known(token)
            data = halves.get(WORDS[token], known.written)
            return TokenText(data, data, known.mark, known.ends_answer)

    thoughts = Thoughts("<think>", "</think>", is_open=True, budget=1)
    steered = Steering(GenerationRequest((1,), 100, Sampling(), thoughts=thoughts), Halves(), matcher)
    assert write(steered, ["a", "b", "c"]) == "ab</think>c"


@pytest.mark.parametrize(
    ("wanted", "written"),
    [
        (["a", "<call>", "maybe", "a"], "a<call>"),
        # Behind the end of the constraint's text the answer is free, until the next trigger.
        (["<call>", "no", "a", "b", "<call>", "yes", "c"], "<call>noab<call>yesc"),
        (["call:", "no", "a"], "call:noa"),
        (["ca", "ll:", "no"], None),
        (["c", "a", "ll:", "no", "z"], "call:noz"),
        # The token that ends the trigger goes on as the constraint wants, and else only as far as the trigger.
        (["c", "a", "ll:y", "e", "s"], "call:yes"),
        (["call:x", "no"], "call:no"),
        (["a", "<|end|>"], "a"),
    ],
)
def test_a_lazy_constraint_holds_from_a_trigger_to_its_end(wanted: list[str], written: str | None) -> None:
    if written is None:
        wanted = [letter for word in wanted for letter in word]
        written = "".join(wanted)
    steered = steering("yes", "no", triggers=("<call>", "call:"))
    text = write(steered, wanted)
    assert text.startswith(written)
    assert text.removeprefix(written) in ("", "yes", "no", "yesa", "noa", "y", "n")


def test_a_lazy_constraint_that_is_not_complete_is_cut() -> None:
    steered = steering("yes", "no", triggers=("<call>",))
    write(steered, ["a"])
    assert not steered.is_cut
    write(steered, ["<call>"])
    assert steered.is_cut
    write(steered, ["yes"])
    assert not steered.is_cut


def test_triggers_in_thoughts_are_thoughts() -> None:
    steered = steering("yes", "no", triggers=("<call>",), thoughts=THINK)
    assert write(steered, ["<think>", "<call>", "a", "</think>", "<call>", "no"]) == "<think><call>a</think><call>no"


def test_the_last_tokens_close_the_constraint() -> None:
    steered = steering("abcdefghijklmnopqrstuvwxyz0", "abcdz", max_tokens=20)
    assert write(steered, list("abcdefghijklmnopqrs"), 20) == "abcdz"
    assert (steered.is_over, steered.is_cut) == (True, True)
    # What the model would have written anyway is not cut.
    steered = steering("abcdefghijklmnopqrstuvwxyz0", "abcdz", max_tokens=20)
    assert write(steered, list("abcdz"), 20) == "abcdz"
    assert (steered.is_over, steered.is_cut) == (True, False)


def test_the_last_token_does_not_open_what_is_complete() -> None:
    steered = steering("12", "12345", max_tokens=3)
    assert write(steered, list("12345"), 3) == "12"
    assert write(steering("12", "123", "12345", max_tokens=3), list("12345"), 3) == "123"


def test_free_text_in_which_a_call_may_begin_is_not_closed() -> None:
    """A grammar that allows an empty text: nothing in it is closed by force, nor cut before the last token."""
    for said, is_cut in (("12", False), ("123", True)):
        steered = steering("", "1", "12", "12345", max_tokens=len(said))
        assert write(steered, list("12345"), len(said)) == said
        assert (steered.was_closed, steered.is_cut) == (False, is_cut)


def test_tokens_of_another_engine_have_to_fit() -> None:
    steered = steering("yes", "no")
    steered.resume(WORDS.index("y"), 100)
    with pytest.raises(InvalidRequest, match="resume_tokens"):
        steered.resume(WORDS.index("a"), 99)


@pytest.mark.parametrize(
    ("max_tokens", "written", "is_cut"), [(5, "maybe", False), (9, "maybe", False), (4, "yes", True), (2, "ma", True)]
)
def test_a_choice_is_the_models_own_if_there_is_room_for_it(max_tokens: int, written: str, is_cut: bool) -> None:
    steered = steering("yes", "maybe", max_tokens=max_tokens)
    assert write(steered, "maybe", max_tokens) == written
    assert (steered.is_cut, steered.was_closed) == (is_cut, written == "yes")


def test_a_token_is_written_only_if_the_text_can_be_completed_behind_it() -> None:
    steered = steering("a", "abcd", "ab", max_tokens=3)
    assert write(steered, "abcd", 3) == "ab"
    assert not steered.is_cut


def test_few_tokens_leave_no_room_for_a_thought() -> None:
    steered = steering("yes", "no", thoughts=Thoughts("<think>", "</think>", closing="</think>"), max_tokens=6)
    assert steered.due(6) is None
    assert not steered.allows(WORDS.index("<think>"))


def test_another_engine_knows_a_choice_from_a_forced_end() -> None:
    for wanted, most in (("yes", 8), ("maybe", 4)):
        first, other = (steering("yes", "maybe", max_tokens=most) for _ in range(2))
        for n, letter in enumerate(write(first, wanted, most)):
            other.resume(WORDS.index(letter), most - n)
        assert first.was_closed == other.was_closed == other.is_cut == (wanted == "maybe")
