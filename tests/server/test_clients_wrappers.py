"""Instructor, which makes objects of other clients' answers, unchanged, against the real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import import_module
from typing import Any

import openai
import pytest
from pydantic import BaseModel, field_validator

from tests.support.families import QWEN, Call, scripted_server
from tests.support.scripted import Scripts, marker
from tests.support.serving import Server

FEW, MANY = {"name": "Paris", "people": 17}, {"name": "Paris", "people": 2_100_000}
CORRECTED, PARTIAL = marker("corrected"), marker("partial")


class City(BaseModel):
    """A city."""

    name: str
    people: int

    @field_validator("people")
    @classmethod
    def is_large(cls, people: int) -> int:
        if people < 1000:
            raise ValueError(f"that is a village {CORRECTED}")
        return people


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """Models that answer with a village first, by a call or in JSON, and know better once they are corrected."""
    answers = {"": FEW, CORRECTED: MANY}
    calls: Scripts = {
        **{key: QWEN.write("", "", [Call("City", city)]) for key, city in answers.items()},
        PARTIAL: QWEN.write("", "", [Call("PartialCity", MANY)]),
    }
    texts: Scripts = {key: QWEN.write("", json.dumps(city), ()) for key, city in answers.items()}
    models = {"TOOLS": (QWEN, calls), "JSON": (QWEN, texts)}
    with scripted_server(tmp_path_factory.mktemp("instructor"), models) as running:
        yield running


def ask(words: str = "How many people live in Paris?") -> list[Any]:
    return [{"role": "user", "content": words}]


@pytest.mark.parametrize("mode", ["TOOLS", "JSON", "JSON_SCHEMA"])
def test_openais_client_is_corrected(server: Server, mode: str) -> None:
    instructor = import_module("instructor")
    model = mode.split("_")[0]
    with openai.OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0) as plain:
        client = instructor.from_openai(plain, mode=instructor.Mode[mode])
        with pytest.raises(import_module("instructor.core").InstructorRetryException, match="that is a village"):
            client.create(model=model, messages=ask(), response_model=City, max_retries=0)
        city, reply = client.create_with_completion(model=model, messages=ask(), response_model=City, max_retries=1)
        assert city.model_dump() == MANY
        assert reply.usage.prompt_tokens > 20
        told = ask(PARTIAL if mode == "TOOLS" else CORRECTED)
        *_, last = client.create_partial(model=model, messages=told, response_model=City)
        assert last.model_dump() == MANY


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11")
@pytest.mark.parametrize("mode", ["TOOLS", "JSON"])
def test_anthropics_client_is_corrected(server: Server, mode: str) -> None:
    instructor, anthropic = import_module("instructor"), import_module("anthropic")
    with anthropic.Anthropic(base_url=server.url, api_key=server.key, max_retries=0) as plain:
        client = instructor.from_anthropic(plain, mode=instructor.Mode[mode])
        city, reply = client.create_with_completion(
            model=mode, messages=ask(), response_model=City, max_retries=1, max_tokens=100
        )
        assert city.model_dump() == MANY
        assert reply.stop_reason == ("tool_use" if mode == "TOOLS" else "end_turn")
