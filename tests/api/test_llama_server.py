"""/props and /apply-template, as llama-server's clients read them."""

from __future__ import annotations

from typing import Any

import pytest

from tests.api.test_openai_tools import MARKS, TEMPLATE, prompt_of
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.openai_api import FRANCE, WEATHER, chat


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend(template=TEMPLATE, specials=MARKS)


@pytest.fixture
def client(client: Client) -> Client:
    client.edit_config("Guide", template=None, temperature=0.3)
    return client


def test_props(client: Client) -> None:
    props = client.get("/props").json()
    settings = props["default_generation_settings"]
    assert settings["n_ctx"] > 0
    assert settings["params"]["temperature"] == 0.3
    assert (props["chat_template"], props["model_alias"], props["model_path"]) == (TEMPLATE, "Guide", "guide.gguf")
    assert props["total_slots"] > 0
    assert client.get("/props", params={"model": "nope"}).status_code == 404


def test_a_chat_as_the_model_reads_it(client: Client, backend: FakeBackend) -> None:
    body: dict[str, Any] = {"messages": [{"role": "user", "content": FRANCE}], "tools": [WEATHER], "enable_thinking": False}
    written = client.post("/apply-template", body).json()["prompt"]
    assert "<tools>" in written
    assert written.endswith("<think>\n\n</think>\n\n")
    chat(client, FRANCE, tools=[WEATHER], enable_thinking=False)
    assert prompt_of(backend) == written
    assert client.post("/apply-template", {"messages": []}).status_code == 400
