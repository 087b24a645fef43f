"""Marks, thoughts and choices through the engine's process."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.backend.protocols import Model
from services.backend.types import GenerationRequest, LoadSettings, Mark, Prompt, Sampling, Thoughts
from services.engine.process.client import EngineProcess
from services.engine.process.connection import EngineOptions
from services.errors import InvalidRequest
from tests.support.scripted_model import write_marked_model

SAID = ("<|think|>", "Let me", " ponder", "<|stop|>", "It is\xa0", "twelve")
CONTROLS = ("<|think|>", "<|stop|>")
THOUGHTS = Thoughts("<|think|>", "<|stop|>")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Model]:
    folder = tmp_path_factory.mktemp("process")
    file = write_marked_model(folder / "scripted.gguf", SAID, CONTROLS)
    engine = EngineProcess.open(EngineOptions(folder / "states"), folder / "hearth.sqlite")
    with engine.lease(LoadSettings(file, 1024, n_parallel=1)) as leased:
        yield leased
    engine.close()


def request(model: Model, **fields: object) -> GenerationRequest:
    sampling = Sampling(temperature=0, n_top=1)
    tokens = tuple(model.tokenize(Prompt("Hello")))
    return replace(GenerationRequest(tokens, 60, sampling, marks=True), **fields)  # type: ignore[arg-type]


def test_marks_and_choices_come_as_they_were_made(model: Model) -> None:
    [generation] = model.submit_all([request(model, thoughts=THOUGHTS)])
    pieces, n = [], 0
    for piece in generation.chunks(lambda: None):
        chosen = b"".join(choice.piece for choice in generation.choices[n : generation.n_choices])
        n = generation.n_choices
        assert piece.encode() == chosen
        pieces.append(piece)
    assert "".join(pieces) == "".join(SAID)
    assert [piece for piece in pieces if isinstance(piece, Mark)] == ["<|think|>", "<|stop|>"]
    assert generation.finish
    assert (generation.finish.reason, generation.finish.reasoning_tokens) == ("stop", 3)


def test_the_prompts_choices_come_too(model: Model) -> None:
    [generation] = model.submit_all([request(model, max_tokens=0, prompt_logprobs=True)])
    assert list(generation.chunks(lambda: None)) == []
    assert len(generation.prompt_choices) == len(model.tokenize(Prompt("Hello"))) - 1


def test_thoughts_are_stopped_from_the_other_process(model: Model) -> None:
    # A model that does not end its thought, and begins it again and again.
    closing = " Enough.<|stop|>"
    asked = request(model, thoughts=replace(THOUGHTS, is_open=True, closing=closing), max_tokens=900)
    asked = replace(asked, sampling=replace(asked.sampling, ignore_eos=True, logit_bias=_not_said(model)))
    [generation] = model.submit_all([asked])
    generation.stop_thinking()
    text = ""
    for piece in generation.chunks(lambda: None):
        text += piece
        if "<|stop|>" in text:
            generation.stop()
    assert " Enough.<|stop|>" in text
    assert generation.finish
    assert len(model.tokenize(Prompt(closing))) <= generation.finish.reasoning_tokens < 900


def test_what_ends_a_thought_or_an_answer_comes_over(model: Model) -> None:
    thoughts = replace(THOUGHTS, is_open=True, breaks=("<|stop|>It", " ponder<|st"))
    [stop] = model.tokenize(Prompt("<|stop|>"))
    endings: list[tuple[dict[str, Any], str, int]] = [
        ({"stop": ("is",)}, "<|think|>Let me ponder<|stop|>It ", 3),
        ({"stop": ("is",), "keeps_stop": True}, "<|think|>Let me ponder<|stop|>It is", 3),
        ({"stop_tokens": (stop,)}, "<|think|>Let me ponder", 4),
        ({"stop_tokens": (stop,), "keeps_stop": True}, "<|think|>Let me ponder<|stop|>", 4),
    ]
    for changes, text, n_thoughts in endings:
        [generation] = model.submit_all([request(model, thoughts=replace(thoughts, ends="<|end|>"), **changes)])
        assert "".join(generation.chunks(lambda: None)) == text
        assert generation.finish
        assert (generation.finish.reason, generation.finish.reasoning_tokens) == ("stop", n_thoughts)
    refusals: list[tuple[dict[str, Any], str]] = [
        ({"stop_tokens": (10**7,)}, "stop_token_ids"),
        ({"sampling": Sampling(samplers=("top_a",))}, "samplers"),
        ({"sampling": Sampling(banned=("",))}, "bad_words"),
    ]
    for changes, param in refusals:
        with pytest.raises(InvalidRequest) as refused:
            model.submit_all([request(model, **changes)])
        assert refused.value.param == param


def _not_said(model: Model) -> tuple[tuple[int, float], ...]:
    """Biases by which the model does not end its thoughts by itself."""
    [stop] = model.tokenize(Prompt("<|stop|>"))
    return ((stop, -100.0),)
