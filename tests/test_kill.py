"""`kill -9` at random moments under load. HEARTH_KILLS says how often; 8 in the suite, 200 for a long run."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from collections.abc import Callable

import requests

from tests.serving import Server

KILLS = int(os.environ.get("HEARTH_KILLS", "8"))
CALLERS = 3


class Caller(threading.Thread):
    """Asks on a session of its own until the server is gone, and notes what was answered."""

    def __init__(self, server: Server, number: int, first: int) -> None:
        super().__init__()
        self.server, self.number, self.sent = server, number, first
        self.answered: list[tuple[str, str]] = []
        self.problem = ""

    def run(self) -> None:
        while not self.problem:
            self.sent += 1
            prompt = f"My number is {self.sent}."
            body = {"prompt": prompt, "session_id": self.number, "stream": self.sent % 2 == 0}
            try:
                reply = self.server.post("/answer", body)
            except requests.RequestException:
                return
            if reply.status_code != 200:
                self.problem = reply.text
            elif not body["stream"]:
                self.answered.append((prompt, reply.json()["result"]))
            elif "data: [DONE]" in reply.text:
                self.answered.append((prompt, json.loads(reply.text.split("data: ")[-2])["result"]))


def test_no_answered_exchange_is_lost_or_doubled_and_no_file_broken(serve: Callable[..., Server]) -> None:
    server, rng = serve(), random.Random(int(os.environ.get("HEARTH_SEED", "0")))
    answered: list[list[tuple[str, str]]] = [[] for _ in range(CALLERS)]
    sent = [0] * CALLERS
    for kills in range(1, KILLS + 1):
        callers = [Caller(server, number, sent[number]) for number in range(CALLERS)]
        for caller in callers:
            caller.start()
        # On a busy machine the first answer may take a while; without any, a kill shows nothing.
        while not any(caller.answered for caller in callers) and any(caller.is_alive() for caller in callers):
            time.sleep(0.01)
        time.sleep(rng.uniform(0, 1))
        server.kill()
        for caller in callers:
            caller.join()
            assert not caller.problem
            answered[caller.number] += caller.answered
            sent[caller.number] = caller.sent
        for file in server.data.glob("*.json"):
            json.loads(file.read_text(encoding="utf-8"))
        server.start()
        for number in range(CALLERS):
            check(stored_exchanges(server, number), answered[number], kills)
    assert sum(map(len, answered)) >= KILLS


def check(stored: list[tuple[str, str]], answered: list[tuple[str, str]], kills: int) -> None:
    """What was answered is stored, once and in order; a kill may leave one more that was stored and not yet answered."""
    assert len(set(stored)) == len(stored)
    assert [exchange for exchange in stored if exchange in set(answered)] == answered
    assert len(stored) <= len(answered) + kills


def stored_exchanges(server: Server, number: int) -> list[tuple[str, str]]:
    reply = server.get(f"/answer/{number}")
    said = [message["content"] for message in reply.json().get("messages", [])]
    assert len(said) % 2 == 0
    return list(zip(said[::2], said[1::2], strict=True))
