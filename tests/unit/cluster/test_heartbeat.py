from __future__ import annotations

import logging
import threading

import pytest
import redis

from services.cluster.heartbeat import Heartbeat
from tests.support.serving import wait_for


def test_it_beats_until_it_is_stopped() -> None:
    beats = 0

    def beat() -> None:
        nonlocal beats
        beats += 1

    heartbeat = Heartbeat("test heartbeat", 0.005, beat)
    assert beats == 0, "nothing begins before the start"
    heartbeat.start()
    wait_for(lambda: beats >= 3)
    heartbeat.stop()
    wait_for(lambda: "test heartbeat" not in [thread.name for thread in threading.enumerate()])


def test_it_goes_on_after_a_failure_which_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    away = redis.ConnectionError("away")
    outcomes: list[Exception | None] = [away, away, None, ValueError("wrong"), None]

    def beat() -> None:
        if outcomes and (error := outcomes.pop(0)):
            raise error

    heartbeat = Heartbeat("claims", 0.005, beat)
    with caplog.at_level(logging.WARNING):
        heartbeat.start()
        wait_for(lambda: not outcomes)
    heartbeat.stop()
    assert [record.getMessage() for record in caplog.records] == [
        "claims: cannot be renewed while Redis is away: away",
        "claims: failed",
    ]
