"""The turns of answers' steps and of texts that are embedded."""

from __future__ import annotations

import threading
import time

import pytest

from services.engine.compute_turns import ComputeTurns
from services.errors import ClientDisconnected


def test_no_step_runs_beside_a_piece_and_both_get_their_time() -> None:
    turns, running, seconds = ComputeTurns(), [0, 0], [0.0, 0.0]
    end = time.monotonic() + 1.0

    def work(kind: int, length: float) -> None:
        while time.monotonic() < end:
            with turns.step() if kind == 0 else turns.piece(lambda: None):
                running[kind] += 1
                assert not (running[0] and running[1])
                time.sleep(length)
                seconds[kind] += length
                running[kind] -= 1

    threads = [threading.Thread(target=work, args=(kind, length)) for kind, length in ((0, 0.004), (1, 0.03))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert seconds[0] > 0.3
    assert seconds[1] > 0.1


def test_pieces_alone_do_not_wait() -> None:
    turns = ComputeTurns()
    began = time.monotonic()
    for _ in range(100):
        with turns.piece(lambda: None):
            pass
    assert time.monotonic() - began < 1


def test_a_piece_that_waits_can_be_given_up() -> None:
    turns = ComputeTurns()

    def leave() -> None:
        raise ClientDisconnected("gone")

    with turns.piece(lambda: None), pytest.raises(ClientDisconnected), turns.piece(leave):
        pass
    with turns.step():
        pass
