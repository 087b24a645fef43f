"""What every backend promises, of the engine and of the fake one that stands for it in other tests."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from services.backend.protocols import Backend, Model
from services.backend.types import Finish, GenerationRequest, LoadSettings, Prompt, Sampling
from services.engine.pool import EnginePool
from services.errors import InvalidRequest, Unavailable
from tests.support.fake_backend import FakeBackend
from tests.support.tiny import GUIDE

PROMPT = "You are the guide of this server.\n\n\nHuman: Count to 9.\nAI:"
ONE_SLOT = LoadSettings(GUIDE, 1024, n_parallel=1, n_threads=1)


def never() -> None:
    pass


@pytest.fixture(scope="module", params=[EnginePool, FakeBackend])
def backend(request: pytest.FixtureRequest) -> Iterator[Backend]:
    made = request.param()
    yield made
    made.close()


@contextmanager
def leased(backend: Backend) -> Iterator[Model]:
    with backend.lease(ONE_SLOT) as model:
        yield model


def request(model: Model, text: str = PROMPT, max_tokens: int = 40, **fields: object) -> GenerationRequest:
    sampling = Sampling(temperature=0)
    return GenerationRequest(tuple(model.tokenize(Prompt(text))), max_tokens, sampling, **fields)  # type: ignore[arg-type]


def answer(model: Model, asked: GenerationRequest) -> tuple[str, Finish]:
    [generation] = model.submit_all([asked])
    text = "".join(generation.chunks(never))
    assert generation.finish
    # The token that ends an answer is said, and is none of its text.
    assert generation.finish.completion_tokens - len(generation.tokens) in (0, 1)
    assert generation.spent.completion_tokens == generation.finish.completion_tokens
    assert generation.spent.prompt_tokens == len(asked.tokens) == generation.finish.prompt_tokens
    return text, generation.finish


def test_tokens_are_the_text(backend: Backend) -> None:
    with leased(backend) as model:
        for text in (PROMPT, " été 🙂\n\n  x"):
            assert b"".join(model.pieces(model.tokenize(Prompt(text)))) == text.encode()
        with pytest.raises(InvalidRequest) as refused:
            model.pieces([10**6])
        assert refused.value.code == "no_such_token"


def test_an_answer_ends_as_it_is_told(backend: Backend) -> None:
    with leased(backend) as model:
        text, finish = answer(model, request(model))
        assert (text.strip(), finish.reason) == ("1, 2, 3, 4, 5, 6, 7, 8, 9.", "stop")
        assert {"queued_ms", "prompt_ms", "first_token_ms", "generation_ms", "total_ms"} == finish.timings.keys()
        text, finish = answer(model, request(model, stop=(", 4", "9")))
        assert (text.strip(), finish.reason) == ("1, 2, 3", "stop")
        _, finish = answer(model, request(model, max_tokens=3))
        assert (finish.reason, finish.completion_tokens) == ("length", 3)


def test_what_is_computed_is_its_owners(backend: Backend) -> None:
    with leased(backend) as model:
        words = "Human: My secret word is marzipan.\nAI:"
        cached = [answer(model, request(model, words, owner=owner))[1].cached_tokens for owner in ("ana", "bob", "bob")]
    assert cached[:2] == [0, 0]
    assert cached[2] > 0


def test_one_waits_for_the_other_and_each_may_be_broken_off(backend: Backend) -> None:
    with leased(backend) as model:
        first, second, third = model.submit_all([request(model) for _ in range(3)])
        chunks = first.chunks(never)
        assert next(chunks)
        assert (first.queue_position, second.queue_position, third.queue_position) == (0, 1, 2)
        second.stop()
        assert list(second.chunks(never)) == []
        assert second.finish
        assert (second.finish.reason, second.finish.completion_tokens) == ("cancelled", 0)
        first.cancel()
        first.cancel()
        assert "".join(third.chunks(never)).strip() == "1, 2, 3, 4, 5, 6, 7, 8, 9."
        with pytest.raises(InvalidRequest, match="no tokens"):
            model.submit_all([GenerationRequest((), 5, Sampling())])


def test_a_model_on_lease_stays_in_memory(backend: Backend) -> None:
    with leased(backend):
        assert backend.loaded() == [GUIDE]
        with pytest.raises(Unavailable) as refused:
            backend.unload(GUIDE)
        assert refused.value.code == "model_in_use"
    assert backend.unload(GUIDE)
    assert not backend.unload(GUIDE)
    assert backend.loaded() == []
    assert backend.health() == "ready"
