from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor, as_completed

import pytest

from services.answers.admission import Admission, Slot
from services.answers.turns import Turns
from services.errors import ClientDisconnected, Unavailable


def never() -> None:
    pass


def gone() -> None:
    raise ClientDisconnected("left")


def enter(admission: Admission, account: str, count: int) -> list[Slot]:
    return [admission.enter(account, never) for _ in range(count)]


def test_one_account_may_have_all_slots_and_no_more() -> None:
    admission = Admission(3, 2)
    slots = enter(admission, "a", 3)
    with pytest.raises(Unavailable) as refused:
        admission.enter("a", never)
    assert (refused.value.code, refused.value.retry_after) == ("too_busy", 2)
    slots[0].leave()
    admission.enter("a", never)


def test_the_newest_request_that_has_not_begun_gives_way() -> None:
    admission = Admission(3, 2)
    slots = enter(admission, "a", 3)
    slots[2].begin()
    with ThreadPoolExecutor() as pool:
        came = pool.submit(admission.enter, "b", never)
        while not slots[1].must_leave:
            time.sleep(0.01)
        slots[0].check()
        slots[2].check()
        with pytest.raises(Unavailable, match="given way"):
            slots[1].check()
        slots[1].leave()
        assert came.result().account == "b"
    assert not slots[0].must_leave


def test_nobody_gives_way_to_one_who_then_has_as_many() -> None:
    admission = Admission(2, 2)
    [first] = enter(admission, "a", 1)
    [second] = enter(admission, "b", 1)
    with ThreadPoolExecutor() as pool:
        came = pool.submit(admission.enter, "c", never)
        time.sleep(0.3)
        assert [first.must_leave, second.must_leave, came.done()] == [False, False, False]
        first.leave()
        assert came.result().account == "c"


def test_the_next_slot_goes_to_whoever_has_fewest_and_who_leaves_waits_no_longer() -> None:
    admission = Admission(3, 3)
    slots = [*enter(admission, "a", 2), *enter(admission, "b", 1)]
    for slot in slots:
        slot.begin()
    with ThreadPoolExecutor() as pool:
        again = pool.submit(admission.enter, "b", never)
        time.sleep(0.05)
        new = pool.submit(admission.enter, "c", never)
        time.sleep(0.05)
        with pytest.raises(ClientDisconnected):
            admission.enter("d", gone)
        slots[0].leave()
        assert new.result().account == "c"
        assert not again.done()
        slots[1].leave()
        again.result()


def test_only_so_many_wait() -> None:
    admission = Admission(2, 1)
    slots = enter(admission, "a", 2)
    for slot in slots:
        slot.begin()
    with ThreadPoolExecutor() as pool:
        came = pool.submit(admission.enter, "b", never)
        while admission.n_open < 3:
            time.sleep(0.01)
        with pytest.raises(Unavailable):
            admission.enter("c", never)
        slots[0].leave()
        came.result()


def test_one_account_does_not_fill_the_line() -> None:
    admission = Admission(2, 2)
    slots = enter(admission, "worker", 2)
    for slot in slots:
        slot.begin()
    with ThreadPoolExecutor() as pool:
        first, second = pool.submit(admission.enter, "bad", never), pool.submit(admission.enter, "bad", never)
        while admission.n_open < 4:
            time.sleep(0.01)
        honest = pool.submit(admission.enter, "honest", never)
        refused = next(each for each in as_completed([first, second], timeout=5) if each.done())
        with pytest.raises(Unavailable, match="given way"):
            refused.result()
        with pytest.raises(Unavailable, match="under way"):
            # It would take the place of one who has no more than itself then.
            admission.enter("other", never)
        for slot in slots:
            slot.leave()
        assert {honest.result().account, (second if refused is first else first).result().account} == {"honest", "bad"}


def test_a_request_of_many_answers_is_one_slot_until_its_last_has_ended() -> None:
    admission = Admission(4, 1)
    slot = admission.enter("a", never, 3)
    for _ in range(2):
        slot.join()
    slot.leave()
    slot.leave()
    assert admission.n_open == 1
    with pytest.raises(Unavailable):
        # There is room for one answer more.
        admission.enter("a", never, 2)
    admission.enter("b", never, 2)
    slot.leave()
    assert admission.n_open == 1


def test_no_account_has_all_threads() -> None:
    admission = Admission(2, 1)
    for _ in range(2):
        admission.arrive("a")
    with pytest.raises(Unavailable):
        admission.arrive("a")
    admission.arrive("b")
    admission.depart("a")
    admission.arrive("a")


def test_heavy_work_goes_on_in_turns() -> None:
    turns, order = Turns(), []

    def work(account: str, steps: int) -> None:
        with turns.turn(account, never) as pause:
            for _ in range(steps):
                order.append(account)
                time.sleep(0.11)
                pause()

    threads = [threading.Thread(target=work, args=("a", 6)) for _ in range(2)]
    for thread in threads:
        thread.start()
    time.sleep(0.05)
    work("b", 2)
    assert order.count("a") <= 4, "b has not waited for all of it"
    for thread in threads:
        thread.join()
    assert order.count("a") == 12


def test_what_can_be_left_undone_waits_for_nobody_and_keeps_nobody_waiting() -> None:
    turns = Turns()
    with turns.turn("a", never), pytest.raises(Unavailable), turns.spare("b", never):
        pass
    with ThreadPoolExecutor() as pool:
        with turns.spare("b", never) as pause:
            pause()
            other = pool.submit(turns.turn("a", never).__enter__)
            while not turns._waiting:
                time.sleep(0.01)
            with pytest.raises(Unavailable):
                pause()
        other.result(timeout=5)


def test_who_leaves_gives_the_turn_up() -> None:
    turns = Turns()
    with turns.turn("a", never), pytest.raises(ClientDisconnected), turns.turn("b", gone):
        raise AssertionError
    with pytest.raises(ClientDisconnected), turns.turn("a", never) as pause:
        pause()
        raise ClientDisconnected("left")
    with turns.turn("b", never) as pause:
        pass
    # It is over: no turn is taken any more.
    pause()
    with turns.turn("c", never):
        pass
