"""The format is chosen by the template's text, and no template makes the choice fail."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.backend.types import ChatFormat
from services.replies.formats import format_of
from tests.support.real_models import chat_templates
from tests.unit.replies.reading import chat_format, events_of

NAMES = {
    "Apertus-8B-Instruct": "apertus",
    "Apriel-1.6-15b-Thinker-fixed": "apriel",
    "Bielik-11B-v3.0-Instruct": "hermes",
    "Cohere2MoE": "command-r7b",
    "CohereForAI-c4ai-command-r-plus-tool_use": "command-r",
    "CohereForAI-c4ai-command-r7b-12-2024-tool_use": "command-r7b",
    "MiMo-VL": "hermes",
    "Mistral-Small-3.2-24B-Instruct-2506": "mistral",
    "NVIDIA-Nemotron-Nano-v2": "nemotron",
    "NousResearch-Hermes-2-Pro-Llama-3-8B-tool_use": "hermes",
    "NousResearch-Hermes-3-Llama-3.1-8B-tool_use": "hermes",
    "Qwen-QwQ-32B": "hermes",
    "Qwen-Qwen2.5-7B-Instruct": "hermes",
    "Qwen-Qwen3-0.6B": "hermes",
    "Reka-Edge": "hermes",
    "deepseek-ai-DeepSeek-R1-Distill-Llama-8B": "deepseek",
    "deepseek-ai-DeepSeek-R1-Distill-Qwen-32B": "deepseek",
    "deepseek-ai-DeepSeek-V3.1": "deepseek",
    "google-gemma-2-2b-it": "generic",
    "ibm-granite-granite-3.3-2B-Instruct": "granite",
    "ibm-granite-granite-4.0": "hermes",
    "ibm-granite-granite-4.1": "hermes",
    "llama-cpp-deepseek-r1": "deepseek",
    "llama-cpp-rwkv-world": "generic",
    "meta-llama-Llama-3.1-8B-Instruct": "llama",
    "meta-llama-Llama-3.2-3B-Instruct": "llama",
    "meta-llama-Llama-3.3-70B-Instruct": "llama",
    "microsoft-Phi-3.5-mini-instruct": "generic",
    "mistralai-Ministral-3-14B-Reasoning-2512": "mistral",
    "mistralai-Mistral-Nemo-Instruct-2407": "mistral",
    "openai-gpt-oss-120b": "harmony",
    "unsloth-Apriel-1.5": "apriel",
    "unsloth-mistral-Devstral-Small-2507": "mistral",
}


@pytest.mark.parametrize("template", sorted(NAMES))
def test_a_template_has_its_familys_format(template: str) -> None:
    assert format_of(chat_format(chat_templates()[template])).name == NAMES[template]


def test_the_template_for_tools_counts_too() -> None:
    assert format_of(ChatFormat("{{ messages }}", "", "", (), tool_template="<tool_call>")).name == "hermes"


@pytest.mark.parametrize(("template", "knows_tools"), [("{{ messages }}", False), ("{{ tools }}{{ tool_calls }}", True)])
def test_templates_that_write_tools_are_told_apart(template: str, knows_tools: bool) -> None:
    assert format_of(chat_format(template)).knows_tools == knows_tools


@given(
    st.lists(st.sampled_from([*sorted(chat_templates().values()), "<tool_call>", "{", "<think>"]), max_size=3), st.text()
)
def test_any_text_has_a_format_that_reads(parts: list[str], text: str) -> None:
    template = "".join(part[: len(part) // 2] + text for part in parts)
    found = format_of(chat_format(template, ["<think>", text]))
    assert hash(found) == hash(format_of(chat_format(template, ["<think>", text])))
    found.is_thinking(text)
    events_of(found, [template[-500:], text])
