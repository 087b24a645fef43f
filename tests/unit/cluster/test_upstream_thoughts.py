"""Thoughts of an upstream server's model: it tells text alone, and a thought is closed in a second request."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from services.backend.types import GenerationRequest, Sampling, Thoughts
from services.cluster.worker.upstream import UpstreamBackend, UpstreamGeneration


class Pieces(UpstreamBackend):
    """An upstream that says these pieces, to each request from where the last one was left."""

    def __init__(self, *pieces: str) -> None:
        self.n_requests = 0
        self._pieces = iter(pieces)

    @contextmanager
    def stream(self, model: str, request: GenerationRequest) -> Iterator[Iterator[dict[str, Any]]]:
        self.n_requests += 1
        yield ({"choices": [{"text": piece}]} for piece in self._pieces)


@pytest.mark.parametrize(
    ("pieces", "text", "n_requests"),
    [
        (("a", "b", "c", "d"), "ab So.</think>cd", 2),
        (("a", "<call>", "c", "d"), "a<call>cd", 1),
        (("a<c", "all>", "c", "d"), "a<call>cd", 1),
        (("a", "</think>", "c", "d"), "a</think>cd", 1),
    ],
)
def test_a_call_needs_no_closed_thought(pieces: tuple[str, ...], text: str, n_requests: int) -> None:
    thoughts = Thoughts("<think>", "</think>", is_open=True, budget=2, closing=" So.</think>", breaks=("<call>",))
    upstream = Pieces(*pieces)
    generation = UpstreamGeneration(upstream, "m", GenerationRequest((65,), 20, Sampling(), thoughts=thoughts))
    generation.start()
    assert "".join(generation.chunks(lambda: None)) == text
    assert upstream.n_requests == n_requests
