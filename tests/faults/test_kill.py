"""`kill -9` at random moments under load. HEARTH_KILLS says how often; 8 in the suite, 200 for a long run.

Every request has a name (Idempotency-Key), and what was under way at the kill is sent again after it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import threading
import time
from collections.abc import Callable

import pytest
import requests

from tests.support.serving import Server

log = logging.getLogger(__name__)
KILLS = int(os.environ.get("HEARTH_KILLS", "8"))
CALLERS = 3


class Caller(threading.Thread):
    """Asks on a session of its own until the server is gone, and notes what was answered."""

    def __init__(self, server: Server, number: int, first: int) -> None:
        super().__init__()
        self.server, self.number, self.sent = server, number, first
        self.answered: list[tuple[str, str]] = []
        self.problem = ""
        self.is_whole = True
        """Whether the last request that was sent was answered."""

    def run(self) -> None:
        while not self.problem and self.is_whole:
            self.sent += 1
            self.send()

    def send(self) -> None:
        """Send the request whose turn it is, for the first time or again."""
        prompt, name = f"My number is {self.sent}.", f"{self.number} {self.sent}"
        body = {"prompt": prompt, "session_id": self.number, "stream": self.sent % 2 == 0}
        self.is_whole = False
        try:
            reply = self.server.post("/answer", body, headers={"Idempotency-Key": name})
        except requests.RequestException:
            return
        if reply.status_code != 200:
            self.problem = reply.text
            return
        self.is_whole = not body["stream"] or "data: [DONE]" in reply.text
        if self.is_whole:
            result = json.loads(reply.text.split("data: ")[-2])["result"] if body["stream"] else reply.json()["result"]
            self.answered.append((prompt, result))


@pytest.mark.timeout(300 + 60 * KILLS)
def test_no_answered_exchange_is_lost_or_doubled_and_no_file_broken(serve: Callable[..., Server]) -> None:
    server, rng = serve(), random.Random(int(os.environ.get("HEARTH_SEED", "0")))
    answered: list[list[tuple[str, str]]] = [[] for _ in range(CALLERS)]
    sent, n_replayed = [0] * CALLERS, 0
    for kills in range(1, KILLS + 1):
        callers = [Caller(server, number, sent[number]) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        # On a busy machine the first answer may take a while; without any, a kill shows nothing.
        while not any(caller.answered for caller in callers) and any(caller.is_alive() for caller in callers):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        if kills % 2:
            # Right after a record, when the exchange is stored and the reply is not.
            wait_for_record(server)
        server.kill()
        for caller in callers:
            caller.join()
            assert not caller.problem
        for file in server.data.glob("*.json"):
            json.loads(file.read_text(encoding="utf-8"))
        server.start()
        for caller in callers:
            before = stored_exchanges(server, caller.number)
            is_stored = len(before) > len(answered[caller.number]) + len(caller.answered)
            n_replayed += is_stored and not caller.is_whole
            if not caller.is_whole:
                caller.send()
            assert not caller.problem
            assert caller.is_whole
            answered[caller.number] += caller.answered
            sent[caller.number] = caller.sent
            # Each is stored once, in order, as it was answered: nothing lost, nothing twice.
            after = stored_exchanges(server, caller.number)
            assert after == answered[caller.number], f"kill {kills}"
            assert not is_stored or after == before
        if kills % 10 == 0:
            log.info("%d kills, %d answers, %d of them stored and not yet answered", kills, sum(sent), n_replayed)
    assert sum(map(len, answered)) >= KILLS


def wait_for_record(server: Server) -> None:
    """Return as soon as the journal has grown."""
    journal, deadline = server.data / "sessions.journal", time.monotonic() + 10
    size = journal.stat().st_size if journal.exists() else 0
    while time.monotonic() < deadline:
        try:
            now = journal.stat().st_size
        except FileNotFoundError:
            now = 0
        if now > size:
            return
        size = now
        time.sleep(0.0001)


def stored_exchanges(server: Server, number: int) -> list[tuple[str, str]]:
    reply = server.get(f"/answer/{number}")
    said = [message["content"] for message in reply.json().get("messages", [])]
    assert len(said) % 2 == 0
    return list(zip(said[::2], said[1::2], strict=True))
