"""Requests in Redis: orders, marks, choices, and a worker that goes on with another's answer."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from services.backend.codec import to_json
from services.backend.types import GenerationRequest, LoadSettings, Mark, Prompt, Sampling, Thoughts
from services.cluster.node.generation import StreamGeneration
from services.cluster.orders import Order
from services.cluster.redis_client import RedisClient
from services.cluster.registry import Registry
from services.cluster.settings import ClusterSettings
from services.cluster.streams import Streams
from services.cluster.worker.work import TaskRunner
from services.engine.pool import EnginePool
from services.models.files import ModelFiles
from tests.support.scripted_model import write_marked_model

SAID = ("<|think|>", "Let me", " ponder", "<|stop|>", "It is\xa0", "<tool>", "twelve")
CONTROLS, MARKS = ("<|think|>", "<|stop|>"), ("<tool>",)
THOUGHTS = Thoughts("<|think|>", "<|stop|>")


class Node:
    """An API node that has sent requests; see `Sender`."""

    is_closed = False

    def __init__(self, streams: Streams) -> None:
        self.streams = streams

    def order(self, id_: str, order: Order) -> int:
        return self.streams.order(id_, order)

    def note_begun(self, generation: StreamGeneration) -> None:
        pass

    def note_read(self, generation: StreamGeneration) -> None:
        pass


@pytest.fixture
def client(redis_url: str) -> RedisClient:
    return RedisClient(ClusterSettings("", redis_url, prefix=uuid.uuid4().hex))


@pytest.fixture
def streams(client: RedisClient) -> Streams:
    return Streams(client)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("models")
    write_marked_model(path / "scripted.gguf", SAID, CONTROLS, MARKS)
    return path


@pytest.fixture(scope="module")
def pool() -> Iterator[EnginePool]:
    made = EnginePool()
    yield made
    made.close()


@pytest.fixture
def worker(client: RedisClient, folder: Path, pool: EnginePool) -> TaskRunner:
    return TaskRunner("w2", client, Registry(client), pool, ModelFiles(folder))


def settings(folder: Path) -> LoadSettings:
    return LoadSettings(Path("scripted.gguf"), 1024, n_parallel=1)


def ids(pool: EnginePool, folder: Path, text: str) -> tuple[int, ...]:
    with pool.lease(replace(settings(folder), file=folder / "scripted.gguf")) as model:
        return tuple(model.tokenize(Prompt(text)))


def test_an_order_to_end_thoughts_waits_for_the_worker(streams: Streams) -> None:
    streams.open("r", "node")
    assert streams.order("r", Order.STOP_THINKING) == 0
    assert streams.begin("r", "w1").order == Order.STOP_THINKING
    assert streams.write("r", 1, 1, []) == Order.STOP_THINKING
    streams.order("r", Order.STOP)
    # An order to stop is more.
    streams.order("r", Order.STOP_THINKING)
    assert streams.write("r", 1, 1, []) == Order.STOP
    streams.order("r", Order.CANCEL)
    streams.order("r", Order.STOP_THINKING)
    assert streams.write("r", 1, 1, []) == Order.CANCEL
    streams.open("other", "node")
    streams.order("other", Order.STOP)
    assert streams.begin("other", "w1").order == Order.CANCEL


def read(streams: Streams, id_: str, request: GenerationRequest) -> tuple[list[str], StreamGeneration]:
    generation = StreamGeneration(Node(streams), id_, request)
    pieces: list[str] = []
    for piece in generation.chunks(lambda: None):
        # Text that came together is one chunk, so that only the borders of marks are certain.
        if pieces and not isinstance(piece, Mark) and not isinstance(pieces[-1], Mark):
            pieces[-1] += piece
        elif piece:
            pieces.append(piece)
    assert generation.n_choices == len(generation.choices)
    return pieces, generation


def asked(pool: EnginePool, folder: Path, **fields: Any) -> GenerationRequest:
    prompt = ids(pool, folder, "Hello")
    return replace(GenerationRequest(prompt, 60, Sampling(temperature=0, n_top=1), marks=True), **fields)


def test_marks_and_choices_come_through(streams: Streams, worker: TaskRunner, pool: EnginePool, folder: Path) -> None:
    request = asked(pool, folder, thoughts=THOUGHTS, stop=("twelve o'clock",))
    streams.open("r", "node")
    worker.generate("r", to_json(settings(folder)), to_json(request))
    pieces, generation = read(streams, "r", request)
    assert "".join(pieces) == "".join(SAID)
    assert [piece for piece in pieces if isinstance(piece, Mark)] == ["<|think|>", "<|stop|>", "<tool>"]
    assert generation.finish
    assert (generation.finish.reason, generation.finish.reasoning_tokens) == ("stop", 3)
    # Also those of the text that comes last, at the end.
    assert b"".join(choice.piece for choice in generation.choices).decode() == "".join(SAID)
    assert len(generation.tokens) == len(SAID)


def test_thoughts_that_were_ended_before_a_worker_began(
    streams: Streams, worker: TaskRunner, pool: EnginePool, folder: Path
) -> None:
    request = asked(pool, folder, thoughts=replace(THOUGHTS, closing="!<|stop|>"))
    streams.open("r", "node")
    StreamGeneration(Node(streams), "r", request).stop_thinking()
    worker.generate("r", to_json(settings(folder)), to_json(request))
    assert "".join(read(streams, "r", request)[0]) == "<|think|>!<|stop|>It is\xa0<tool>twelve"


@pytest.mark.parametrize("marks", [True, False])
@pytest.mark.parametrize("n_events", range(1, len(SAID)))
def test_another_worker_goes_on_where_the_first_was(
    streams: Streams, worker: TaskRunner, pool: EnginePool, folder: Path, n_events: int, marks: bool
) -> None:
    request = asked(pool, folder, marks=marks, thoughts=THOUGHTS, stop=("ponders",))
    streams.open("whole", "node")
    worker.generate("whole", to_json(settings(folder)), to_json(request))
    whole, _ = read(streams, "whole", request)
    events = [event for _, _, event in streams.read("whole", "0", 100) if "text" in event][:n_events]
    streams.open("r", "node")
    begun = streams.begin("r", "w1")
    # The first worker's tokens may be ahead of its text.
    streams.write("r", begun.attempt, begun.written, events)
    worker.generate("r", to_json(settings(folder)), to_json(request))
    pieces, generation = read(streams, "r", request)
    assert pieces == whole
    assert [type(piece) for piece in pieces] == [type(piece) for piece in whole]
    assert b"".join(choice.piece for choice in generation.choices).decode() == "".join(SAID)
