"""LoRA adapters: a profile names them, and the model answers as if they had been trained into it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from tests.support.serving import Server
from tests.support.tiny import GUIDE, write_adapter


@pytest.fixture
def adapted(serve: Callable[..., Server], tmp_path: Path) -> Server:
    """A server with the guide, an adapter for it, and one for a wider model."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(GUIDE, folder)
    write_adapter(folder / "odd.gguf")
    write_adapter(folder / "wide.gguf", extra=64)
    return serve(models=folder)


def _ask(server: Server) -> str:
    return str(server.ask("What can you do?", temperature=0, memory_k=0, max_tokens=24)["result"])


def test_an_adapter_changes_the_answers_by_its_scale(adapted: Server) -> None:
    plain = _ask(adapted)
    adapted.edit_config(lora=[{"file": "odd.gguf", "scale": 60}])
    changed = _ask(adapted)
    assert changed != plain
    adapted.edit_config(lora=[{"file": "odd.gguf", "scale": 0}])
    assert _ask(adapted) == plain
    adapted.edit_config(lora=[{"file": "odd.gguf", "scale": 60}])
    assert _ask(adapted) == changed


def test_two_adapters_add_up(adapted: Server) -> None:
    plain = _ask(adapted)
    both = [{"file": "odd.gguf", "scale": 60}, {"file": "odd.gguf", "scale": -60}]
    adapted.edit_config(lora=both)
    assert _ask(adapted) == plain


def test_adapters_are_no_models(adapted: Server) -> None:
    listed = adapted.get("/models").json()
    assert listed["details"]["odd.gguf"]["adapter"] is True
    assert listed["details"]["guide.gguf"]["adapter"] is False
    assert "odd.gguf" not in [model["id"] for model in adapted.get("/v1/models").json()["data"]]
    reply = adapted.post("/models/model", {"model": "odd.gguf", "model_config": "Guide"})
    assert (reply.status_code, reply.json()["message"]) == (422, "odd.gguf is a LoRA adapter, and no model")


@pytest.mark.parametrize(
    ("lora", "says"),
    [
        ([{"file": "wide.gguf"}], "llama.cpp cannot apply the adapter wide.gguf to guide.gguf"),
        ([{"file": "guide.gguf"}], "guide.gguf is a model, and no LoRA adapter"),
        ([{"file": "gone.gguf"}], "there is no file gone.gguf in the models folder"),
    ],
)
def test_an_adapter_that_does_not_fit_is_named(adapted: Server, lora: Any, says: str) -> None:
    adapted.edit_config(lora=lora)
    reply = adapted.post("/answer", {"prompt": "Hello"})
    assert reply.status_code == 503
    assert says in reply.json()["message"]
    adapted.edit_config(lora=[])
    assert _ask(adapted)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"kind": "prefix"}, "of another kind than LoRA"),
        ({"alpha": "a lot"}, "adapter.lora.alpha is no fraction"),
        ({"dtype": np.int32}, "an adapter with weights of type I32"),
    ],
)
def test_what_llama_cpp_takes_for_granted_is_checked(adapted: Server, change: Any, says: str) -> None:
    write_adapter(adapted.models / "bad.gguf", **change)
    adapted.edit_config(lora=[{"file": "bad.gguf"}])
    reply = adapted.post("/answer", {"prompt": "Hello"})
    assert reply.status_code == 503
    assert says in reply.json()["message"]


def test_a_state_of_another_adapter_is_not_used(serve: Callable[..., Server], adapted: Server) -> None:
    prompt = "What can you do? " * 20
    adapted.ask(prompt, session_id=1, temperature=0)
    adapted.edit_config(lora=[{"file": "odd.gguf", "scale": 60}])
    assert adapted.ask("And what else?", session_id=1, temperature=0)["usage"]["cached_tokens"] == 0


def test_a_wrong_entry_is_named(adapted: Server) -> None:
    path = adapted.data / "config.json"
    adapted.edit_config(lora=[{"file": "odd.gguf", "strength": 1}])
    assert "lora.0.strength: there is no such field" in adapted.get("/models").json()["config_problem"]
    assert json.loads(path.read_text())["Guide"]["lora"]
