"""A stream tells how much of a long prompt is read, to who asks for it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from services.api.http.reading_progress import ReadingProgress
from tests.support.serving import ENDLESS, Server, Stream

LONG = "one two three " * 900


def progress_of(server: Server, **fields: Any) -> tuple[list[dict[str, Any]], list[Any]]:
    """The events of progress of an answer to a long prompt, and its other events."""
    body = {"prompt": LONG, "model": "Random", "max_tokens": 2, "memory_k": 0, "stream": True, **fields}
    events = Stream(server.post("/answer", body, stream=True)).rest()
    told = [event for event in events if "progress" in event]
    assert events[: len(told)] == told, "they come before the first text"
    return [event["progress"] for event in told], events[len(told) :]


def check(told: list[dict[str, Any]], prompt_tokens: int) -> None:
    assert len(told) > 1
    reads = [each["read"] for each in told]
    assert reads == sorted(set(reads))
    assert {each["of"] for each in told} == {prompt_tokens}
    assert 0 < reads[0] < reads[-1] < prompt_tokens
    assert told[0]["seconds_left"] is None
    assert all(each["seconds_left"] > 0 for each in told[1:])


def test_a_long_prompts_reading_is_told_to_who_asks(serve: Callable[..., Server], models: Path) -> None:
    server = serve(models=models)
    server.edit_config("Random", **ENDLESS)
    server.stop()
    # So long for each step, as with a larger model.
    server.pause = 0.2
    server.start()
    told, rest = progress_of(server, progress=True)
    check(told, rest[-2]["usage"]["prompt_tokens"])
    assert progress_of(server, prompt=f"Again: {LONG}")[0] == []
    assert progress_of(server, prompt="Short.", progress=True)[0] == []
    reply = server.post("/answer", {"prompt": "Hi", "progress": True})
    assert (reply.status_code, reply.json()["error"]["param"]) == (400, "progress")


def test_the_time_left_is_that_of_what_was_read_since_the_first_step() -> None:
    now = [10.0]
    progress = ReadingProgress(lambda: now[0])
    assert progress.told(512, 2048) == {"read": 512, "of": 2048, "seconds_left": None}
    now[0] = 12.0
    assert progress.told(512, 2048) is None
    assert progress.told(1024, 2048) == {"read": 1024, "of": 2048, "seconds_left": 4.0}
