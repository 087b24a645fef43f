"""A caller takes all that has come: text in one chunk, marks apart, and the end or an error behind the text."""

from __future__ import annotations

import threading
import time

import pytest
from typing_extensions import override

from services.backend.delivery import Delivery
from services.backend.types import Finish, Mark, TokenChoice
from services.errors import EngineFailure

END = Finish("stop", 1, 0, 1)


class Delivered(Delivery):
    """A delivery that cannot be stopped."""

    @override
    def stop(self) -> None: ...

    @override
    def stop_thinking(self) -> None: ...

    @override
    def cancel(self) -> None: ...


def choose(delivery: Delivered, count: int) -> None:
    delivery.choices += [TokenChoice(b"x", 0.0)] * count


def test_text_that_has_come_is_one_chunk() -> None:
    delivery = Delivered()
    for text in ("one ", "two ", "three"):
        choose(delivery, 1)
        delivery.put(text)
    choose(delivery, 1)
    delivery.put(END)
    chunks = delivery.chunks(lambda: None)
    assert (next(chunks), delivery.n_choices, delivery.finish) == ("one two three", 3, None)
    assert list(chunks) == []
    assert (delivery.n_choices, delivery.finish) == (4, END)


def test_marks_stay_apart_and_choices_belong_to_their_chunk() -> None:
    delivery = Delivered()
    choose(delivery, 9)
    delivery.put_all([("a", 1), ("b", 2), (Mark("<c>"), 4), ("d", 5)])
    delivery.put_all([("e", 6), (Mark("<f>"), 7), (Mark("<g>"), 8), (END, 9)])
    found = [(chunk, isinstance(chunk, Mark), delivery.n_choices) for chunk in delivery.chunks(lambda: None)]
    assert found == [("ab", False, 2), ("<c>", True, 4), ("de", False, 6), ("<f>", True, 7), ("<g>", True, 8)]
    assert delivery.n_choices == 9


def test_an_error_comes_behind_the_text_before_it() -> None:
    delivery = Delivered()
    delivery.put("some ")
    delivery.put("text")
    delivery.put(EngineFailure("broken"))
    chunks = delivery.chunks(lambda: None)
    assert next(chunks) == "some text"
    with pytest.raises(EngineFailure):
        next(chunks)


def test_the_first_text_is_not_held_back_for_more() -> None:
    delivery, has_come = Delivered(), threading.Event()

    def put() -> None:
        for text in ("first", "second"):
            delivery.put(text)
            # The next one comes once this one is read.
            assert has_come.wait(20)
            has_come.clear()
        delivery.put(END)

    threading.Thread(target=put, daemon=True).start()
    chunks = []
    for chunk in filter(None, delivery.chunks(lambda: None)):
        chunks.append(chunk)
        has_come.set()
    assert chunks == ["first", "second"]


def test_the_caller_is_polled_by_time_and_not_by_token() -> None:
    delivery, n_polls = Delivered(), 0

    def poll() -> None:
        nonlocal n_polls
        n_polls += 1

    began = time.monotonic()
    chunks = delivery.chunks(poll)
    for _ in range(2000):
        delivery.put("a")
        assert next(chunks) == "a"
    assert 1 <= n_polls <= 1 + (time.monotonic() - began) / 0.1

    def give_up() -> None:
        raise TimeoutError

    with pytest.raises(TimeoutError):
        # However fast text comes.
        for _ in Delivered().chunks(give_up):
            pass
