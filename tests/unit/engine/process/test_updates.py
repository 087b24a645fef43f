"""Updates of generations cross to the server as they are, and damaged ones are refused."""

from __future__ import annotations

import math
import queue
import socket
import subprocess
import sys
import threading

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.backend.types import Finish, GenerationRequest, Mark, Sampling, Spent, TokenChoice
from services.engine.loop.sequence import Sequence
from services.engine.process import outgoing
from services.engine.process.connection import EngineConnection
from services.engine.process.socket import MessageSocket, frame, framed
from services.engine.process.updates import Update, decode, encode, is_updates
from services.errors import EngineFailure, Unavailable

TEXTS = st.text(st.characters(exclude_categories=()), max_size=12)
IDS = st.integers(-(2**31), 2**31 - 1)
LOGPROBS = st.floats(allow_nan=False)
COUNTS = st.integers(0, 2**31)
CHOICES = st.builds(
    TokenChoice,
    st.binary(max_size=9),
    LOGPROBS,
    st.lists(st.tuples(st.binary(max_size=9), LOGPROBS), max_size=4).map(tuple),
    st.lists(IDS, max_size=5).map(tuple),
)
UPDATES = st.builds(
    Update,
    st.integers(0, 2**32 - 1),
    st.lists(IDS, max_size=5).map(tuple),
    st.lists(CHOICES, max_size=4),
    st.lists(CHOICES, max_size=3),
    st.lists(st.tuples(TEXTS | TEXTS.map(Mark), COUNTS), max_size=5),
    st.none() | st.builds(Finish, st.sampled_from(["stop", "length", "cancelled"]), COUNTS, COUNTS, COUNTS),
    st.none() | st.builds(Spent, COUNTS, COUNTS, COUNTS, st.floats(0, 1e9)),
    st.none() | st.integers(0, 99),
)


@settings(max_examples=150, deadline=None)
@given(st.lists(UPDATES, max_size=4))
def test_updates_come_over_as_they_are(updates: list[Update]) -> None:
    data = encode(updates)
    assert is_updates(data)
    assert decode(data) == updates
    marks = [[type(text) for text, _ in update.pieces] for update in decode(data)]
    assert marks == [[type(text) for text, _ in update.pieces] for update in updates]


def test_impossible_tokens_and_errors_come_over() -> None:
    choice = TokenChoice(b"\xff\x00", -math.inf, ((b"", -math.inf),), (3, 4))
    error = Unavailable("later \ud800", param="n", code="too_busy", retry_after=3)
    [found] = decode(encode([Update(1, choices=[choice], end=error, left=Spent(1))]))
    assert (found.choices, found.left) == ([choice], Spent(1))
    assert isinstance(found.end, Unavailable)
    assert (found.end.message, found.end.param, found.end.code, found.end.retry_after) == (
        "later \ud800",
        "n",
        "too_busy",
        3,
    )


@settings(max_examples=300, deadline=None)
@given(st.lists(UPDATES, min_size=1, max_size=2), st.data())
def test_damage_is_refused_or_read_as_updates(updates: list[Update], data: st.DataObject) -> None:
    whole = bytearray(encode(updates))
    for _ in range(data.draw(st.integers(1, 3))):
        whole[data.draw(st.integers(1, len(whole) - 1))] = data.draw(st.integers(0, 255))
    cut = bytes(whole[: data.draw(st.integers(1, len(whole)))])
    try:
        found = decode(cut)
    except ValueError:
        return
    assert all(isinstance(update, Update) for update in found)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=120))
def test_any_bytes_are_refused_or_read_as_updates(data: bytes) -> None:
    try:
        decode(b"\x01" + data)
    except ValueError:
        return


@pytest.mark.parametrize(
    "data", [b"\x01\xff\xff", b"\x02", b"[]", b"{", b"", encode([Update(0, end=EngineFailure(""))])[:-1]]
)
def test_a_process_that_sends_damaged_messages_is_ended(data: bytes) -> None:
    ours, theirs = socket.socketpair()
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        connection = EngineConnection(process, MessageSocket(ours), 0)
        theirs.sendall(frame({"ready": True}) + framed(data))
        connection._receive()
        assert connection.is_over
        assert process.poll() is not None
    theirs.close()


def test_the_sender_takes_all_updates_that_have_come() -> None:
    outbox, updates = outgoing.Outbox(), [Update(number) for number in range(5)]
    for update in updates[:3]:
        outbox.put(update, is_urgent=False)
    assert outbox.take() == updates[:3]
    for update in updates[3:]:
        outbox.put(update, is_urgent=False)
    assert outbox.take() == updates[3:]


def test_only_urgent_updates_are_sent_soon_after_others(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "PAUSE", 3600.0)
    outbox, updates = outgoing.Outbox(), [Update(number) for number in range(4)]
    outbox.put(updates[0], is_urgent=False)
    assert outbox.take() == updates[:1]
    taken: queue.SimpleQueue[list[Update]] = queue.SimpleQueue()
    threading.Thread(target=lambda: taken.put(outbox.take()), daemon=True).start()
    outbox.put(updates[1], is_urgent=False)
    with pytest.raises(queue.Empty):
        taken.get(timeout=0.2)
    outbox.put(updates[2], is_urgent=True)
    assert taken.get(timeout=30) == updates[1:3]


def test_the_first_words_are_sent_at_once_though_a_blank_came_before(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "PAUSE", 3600.0)
    outbox = outgoing.Outbox()
    generation = outgoing.OutgoingGeneration(Sequence(GenerationRequest((1,), 99, Sampling())), lambda: None, 7, outbox)
    for number, text in enumerate(["\n", "Hello", ","]):
        generation.tokens.append(number)
        generation.put(text)
        generation.flush()
        [update] = outbox.take()
        assert (update.number, update.pieces) == (7, [(text, 0)])


def test_text_that_waits_is_sent_when_its_time_has_come(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outgoing, "PAUSE", 0.01)
    outbox = outgoing.Outbox()
    for number in range(5):
        outbox.put(Update(number), is_urgent=False)
        assert outbox.take() == [Update(number)]
