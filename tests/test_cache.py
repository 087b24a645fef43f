from __future__ import annotations

import pytest

from services.engine.cache import SlotCache


def test_the_longest_common_prefix_is_reused() -> None:
    cache = SlotCache(1)
    assert cache.take([1, 2, 3], "a") == (0, 0)
    cache.release(0, [1, 2, 3, 4])
    assert cache.take([1, 2, 3, 9], "a") == (0, 3)


def test_the_last_token_is_computed_again_for_its_logits() -> None:
    cache = SlotCache(1)
    cache.take([1], "a")
    cache.release(0, [1, 2, 3])
    assert cache.take([1, 2, 3], "a") == (0, 2)


def test_nothing_is_reused_between_owners() -> None:
    cache = SlotCache(1)
    cache.take([1], "a")
    cache.release(0, [1, 2, 3])
    assert cache.take([1, 2, 3, 4], "b") == (0, 0)


def test_the_slot_it_goes_on_from_is_taken_else_the_one_longest_unused() -> None:
    cache = SlotCache(3)
    for tokens in ([1, 1], [2, 2], [3, 3]):
        cache.take(tokens, "a")
    for number, tokens in enumerate(([1, 1], [2, 2], [3, 3])):
        cache.release(number, tokens)
    assert cache.take([2, 2, 5], "a") == (1, 2)
    assert cache.take([9, 9], "a") == (0, 0)
    assert cache.take([9, 9], "a") == (2, 0)
    with pytest.raises(LookupError):
        cache.take([1], "a")
    cache.clear()
    assert cache.take([2, 2], "a")[1] == 0


def test_a_conversation_is_not_overwritten_for_a_shared_beginning() -> None:
    cache = SlotCache(2)
    cache.take([1], "a")
    cache.release(0, [1, 2, 3, 4, 5, 6])
    assert cache.take([1, 2, 9], "a") == (1, 0)
    cache.release(1, [1, 2, 9])
    assert cache.take([1, 2, 3, 4, 5, 6, 7], "a") == (0, 6)
