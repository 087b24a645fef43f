"""Langformers' own client against a real server."""

from __future__ import annotations

import threading

import pytest

from tests.api.test_langformers import EXACT, Caller, StreamProcessor
from tests.support.serving import Server


@pytest.fixture
def caller(server: Server) -> Caller:
    return Caller(server)


def test_its_client_reads_the_stream(caller: Caller, server: Server) -> None:
    assert "Paris" in caller.ask("What is the capital of France?")
    whole = caller.client.process(f"{server.url}/api/generate", {"prompt": "Hello", **EXACT}, stream=False)
    assert whole
    assert isinstance(whole, str)


def test_its_client_is_told_of_a_wrong_key(server: Server) -> None:
    client = StreamProcessor(headers={"Authorization": "wrong"})
    with pytest.raises(Exception, match="401"):
        client.process(f"{server.url}/api/generate", {"prompt": "Hello"})


def test_many_callers_keep_apart(server: Server) -> None:
    callers = [Caller(server) for _ in range(4)]
    names = ["Ana", "Bob", "Eva", "Max"]
    answers: dict[str, str] = {}

    def talk(caller: Caller, name: str) -> None:
        caller.ask(f"My name is {name}.")
        answers[name] = caller.ask("What is my name?")

    threads = [threading.Thread(target=talk, args=pair) for pair in zip(callers, names, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(name in answers[name] for name in names)
