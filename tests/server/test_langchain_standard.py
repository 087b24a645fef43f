"""LangChain's standard tests of chat models, with its clients of OpenAI, Ollama and Anthropic, against the real server."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from functools import reduce
from importlib import import_module
from operator import add
from typing import Any

import httpx
import pytest
from langchain_core.language_models import BaseChatModel
from langchain_core.messages import AIMessage
from langchain_tests.integration_tests import ChatModelIntegrationTests

from tests.server.conftest import Transports
from tests.support.families import QWEN, Call, Family, scripted_server
from tests.support.scripted import Scripts
from tests.support.serving import Server

# More tokens than any script has: a model that is forced out of its script, to call a tool, ends here.
MOST = 160
RIDDLE = "What has hands and no arms?"
JOKE = {"setup": "Why do the cats sleep by day?", "punchline": "They moonlight as hunters."}


def scripts_of(family: Family) -> Scripts:
    """What the tests ask for, by words of theirs."""

    def said(text: str) -> str:
        return family.write("", text, ())

    def called(name: str, **arguments: Any) -> str:
        return family.write("", "", [Call(name, arguments)])

    return {
        "": said("Good day! Whatever brings you here?"),
        "magic_function(3)": called("magic_function", input=3),
        "magic_function_no_args()": called("magic_function_no_args"),
        "a Pirate greeting": called("greeting_generator", answer_style="Pirate"),
        "你好啊集团": called("unicode_customer", customer_name="你好啊集团", description="Technology from China"),
        "こんにちは株式会社": called(
            "unicode_customer", customer_name="こんにちは株式会社", description="One more of Japan"
        ),
        "joke about cats": said(json.dumps(JOKE)),
        "San Francisco": called("get_weather", location="the bay of California"),
        RIDDLE: family.write("Riddles have hands or teeth.", "A clock it may well be.", ()),
        "It's sunny.": said("There is not a cloud in the sky."),
    }


@pytest.fixture(scope="module")
def scripted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = {name: (QWEN, scripts_of(QWEN)) for name in ("first", "second")}
    with scripted_server(tmp_path_factory.mktemp("standard"), models) as running:
        yield running


# LangChain's own warnings: of what OpenAI's package has parsed, and of schemas of pydantic's first version.
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings", "ignore:Received a Pydantic BaseModel V1 schema")
class Standard(ChatModelIntegrationTests):
    """The tests, but for pictures, sounds and recordings."""

    server: Server
    transports: Transports

    @pytest.fixture(autouse=True)
    def use_server(self, scripted: Server, transports: Transports) -> None:
        self.server, self.transports = scripted, transports

    @pytest.fixture
    def benchmark(self) -> None:
        """A recording's player; without recordings its one test is skipped."""

    @pytest.fixture
    def vcr(self) -> None:
        """See `benchmark`."""

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return "second"

    def invoke_with_reasoning_output(self, *, stream: bool = False) -> AIMessage:
        reply = self.ask_riddle(stream)
        assert reply.usage_metadata
        assert reply.usage_metadata["output_token_details"]["reasoning"] > 0
        return reply

    def invoke_with_cache_read_input(self, *, stream: bool = False) -> AIMessage:
        self.ask_riddle(stream)
        reply = self.ask_riddle(stream)
        assert reply.usage_metadata
        assert reply.usage_metadata["input_token_details"]["cache_read"] > 0
        return reply

    def ask_riddle(self, stream: bool) -> AIMessage:
        model = self.chat_model_class(**self.chat_model_params)
        # Shorter prompts are computed anew.
        words = 40 * "Think. " + RIDDLE
        chunks: list[Any] = list(model.stream(words)) if stream else [model.invoke(words)]
        reply: AIMessage = reduce(add, chunks)
        return reply


class TestChatOpenAI(Standard):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        # Imported here, since every process of pytest collects this file.
        from langchain_openai import ChatOpenAI

        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "first",
            "max_tokens": MOST,
            "base_url": f"{self.server.url}/v1",
            "api_key": self.server.key,
            "use_responses_api": False,
            "stream_usage": True,
            "http_client": httpx.Client(transport=self.transports.direct),
            "http_async_client": httpx.AsyncClient(transport=self.transports.awaited),
        }

    @property
    def supported_usage_metadata_details(self) -> dict[Any, list[Any]]:
        return {way: ["reasoning_output", "cache_read_input"] for way in ("invoke", "stream")}


class TestChatOllama(Standard):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        from langchain_ollama import ChatOllama

        return ChatOllama

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "model": "first",
            "base_url": self.server.url,
            "client_kwargs": {"headers": {"Authorization": f"Bearer {self.server.key}"}},
            "sync_client_kwargs": {"transport": self.transports.direct},
            "async_client_kwargs": {"transport": self.transports.awaited},
        }

    @property
    def has_tool_choice(self) -> bool:
        # The client drops it.
        return False


@pytest.mark.skipif(sys.version_info < (3, 11), reason="needs Python 3.11")
class TestChatAnthropic(Standard):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        found: type[BaseChatModel] = import_module("langchain_anthropic").ChatAnthropic
        return found

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": "first", "max_tokens": MOST, "base_url": self.server.url, "api_key": self.server.key}

    @property
    def supports_json_mode(self) -> bool:
        # Nor does the client.
        return False

    @property
    def supports_anthropic_inputs(self) -> bool:
        return True

    @property
    def supported_usage_metadata_details(self) -> dict[Any, list[Any]]:
        return {way: ["cache_read_input"] for way in ("invoke", "stream")}
