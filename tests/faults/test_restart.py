"""What a person finds again after the server was stopped, over HTTP."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from tests.support.serving import Server


def ask(server: Server, prompt: str, **fields: Any) -> dict[str, Any]:
    reply = server.post("/answer", {"prompt": prompt, **fields})
    assert reply.status_code == 200, reply.text
    result: dict[str, Any] = reply.json()
    return result


def test_a_sessions_next_prompt_goes_on_with_what_was_computed_before_the_stop(serve: Callable[..., Server]) -> None:
    server = serve()
    for n in range(3):
        ask(server, f"What is {n} plus 7?", session_id=1)
        ask(server, "This is not to be kept.")
    time.sleep(1)
    assert server.stop() == 0
    [file] = (server.data / "states").glob("*.state")
    assert b'"session":"1"' in file.read_bytes()
    server.start()
    usage = ask(server, "Count to 5.", session_id=1)["usage"]
    # All but the new words, which the server could not know.
    assert usage["cached_tokens"] > usage["prompt_tokens"] - 15
    assert server.delete("/answer/1").status_code == 200
    assert not list((server.data / "states").iterdir())


def test_thinking_ahead_can_be_turned_off(serve: Callable[..., Server]) -> None:
    server = serve("--think-ahead", "off", "--cache-disk", "0")
    cached = []
    for n in range(8):
        usage = ask(server, f"What is {n} plus 7?", session_id=1, memory_k=2)["usage"]
        cached.append(usage["cached_tokens"] / usage["prompt_tokens"])
        time.sleep(0.3)
    # The window has slid, so that little but the template is as it was.
    assert max(cached[-3:]) < 0.5
    assert server.stop() == 0
    assert not (server.data / "states").exists()


def test_after_the_window_has_slid_only_the_new_words_are_left_to_read(serve: Callable[..., Server]) -> None:
    server = serve()
    for n in range(8):
        usage = ask(server, f"What is {n} plus 7?", session_id=1, memory_k=2)["usage"]
        if n:
            assert usage["cached_tokens"] > usage["prompt_tokens"] - 15
        time.sleep(0.7)
