"""llama-server's own tests, unchanged, against this server: those that concern what it has.

Their pytest is a process of its own, in which `utils` is tests/support/llama_server_utils.py.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support import llama_server_utils
from tests.support.real_models import FOLDER, server_tests
from tests.support.serving import ROOT, Server
from tests.support.tiny import guide_tokens, write_embedding_model, write_random_model

DOCS = ROOT / "docs" / "llama-server-tests.md"
# The key that they send.
KEY = "sk-this-is-the-secret-key"

WORDS = "what a certain model answers, or its numbers of tokens"
COMPLETION = "`/completion` is not there"
LLAMA_FIELDS = "`timings`, `prompt_progress` and `__verbose` are not in replies: a request for them is refused"
IMAGES = "images are refused, with status 400"
OPTIONS = "an option of llama-server's command line"
CORS = "no origin is let in unless `--cors-origins` names it"

# By files and names without `test_`.
RUN: dict[str, str] = {
    "basic": "server_start_simple server_props",
    "chat_completion": """
        chat_template_continue_final_message_mutual_exclusion completion_with_response_format completion_with_json_schema
        completion_with_grammar completion_with_invalid_grammar invalid_chat_completion_req logit_bias
        chat_completions_multiple_choices""",
    "compat_anthropic": """
        anthropic_messages_basic anthropic_messages_with_system anthropic_messages_multipart_content
        anthropic_messages_conversation anthropic_messages_streaming anthropic_count_tokens
        anthropic_count_tokens_with_system anthropic_count_tokens_no_max_tokens anthropic_tool_use_basic
        anthropic_tool_result anthropic_tool_result_with_text anthropic_tool_result_error anthropic_tool_streaming
        anthropic_stop_sequences anthropic_temperature anthropic_top_p anthropic_top_k anthropic_missing_messages
        anthropic_streaming_content_block_indices anthropic_thinking anthropic_metadata
        anthropic_vs_openai_different_response_format anthropic_thinking_history_in_count_tokens
        anthropic_thinking_history_in_template""",
    "compat_oai_responses": "responses_stream_with_openai_library",
    "ctx_shift": "ctx_shift_disabled_stream",
    "embedding": """
        embedding_single embedding_multiple embedding_multiple_with_fa embedding_mixed_input embedding_invalid_input
        embedding_pooling_mean embedding_pooling_mean_multiple embedding_openai_library_single
        embedding_openai_library_multiple same_prompt_give_same_result embedding_usage_single embedding_usage_multiple
        embedding_openai_library_base64""",
    "infill": "invalid_input_extra_req",
    "rerank": "invalid_rerank_req rerank_top_n rerank_tei_top_n",
    "security": "access_public_endpoint incorrect_api_key",
    "template": "reasoning date_inside_prompt add_generation_prompt",
    "tokenize": "tokenize_detokenize tokenize_with_bos tokenize_with_pieces",
    "tool_call": "completion_with_required_tool_real_model completion_without_tool_call_fast",
}
# By files and reasons. What ends in [… is the beginning of the names of a test's cases.
LEFT_OUT: dict[str, dict[str, str]] = {
    "basic": {
        "several addresses to listen on are not there": "server_multiple_addresses",
        "`GET /models` tells of files and profiles": "server_models server_model_aliases_and_tags",
        "`/slots` is not there": "server_slots",
        COMPLETION: "load_split_model",
        OPTIONS: "no_ui",
    },
    "chat_completion": {
        WORDS: "chat_completion chat_completion_cached_tokens chat_completion_with_openai_library",
        "the first `delta.content` of a stream is empty, as OpenAI's, not null": "chat_completion_stream logprobs_stream",
        LLAMA_FIELDS: """chat_template chat_template_assistant_prefill chat_template_continue_final_message_vllm_compat
            chat_completion_with_timings_per_token return_progress verbose_debug""",
        "templates that llama.cpp has by names are not there": "apply_chat_template",
        "of two messages of the assistant at the end, the last is continued": "invalid_chat_completion_req[messages7]",
        "white space at an answer's beginning is left out, but not its logprobs": "logprobs",
        "the error is OpenAI's, `context_length_exceeded`": "context_size_exceeded context_size_exceeded_stream",
        "`/chat/completions/input_tokens` is not there": "chat_completions_token_count",
    },
    "compat_anthropic": {
        IMAGES: """anthropic_tool_result_with_image anthropic_vision_format_accepted
            anthropic_vision_base64_with_multimodal_model""",
        "an empty list of messages is refused": "anthropic_empty_messages",
        "a model that thinks is needed": "anthropic_thinking_with_reasoning_model",
    },
    "compat_oai_responses": {
        WORDS: "responses_with_openai_library",
        "`timings` and `prompt_progress` are not in replies": "responses_stream_with_llama_telemetry",
    },
    "ctx_shift": {
        COMPLETION: "ctx_shift_enabled ctx_shift_disabled_short_prompt ctx_shift_disabled_long_prompt",
    },
    "embedding": {
        "a list is of texts or of token ids, as OpenAI's": """embedding_mixed_input[input3- embedding_mixed_input[input5-
            embedding_mixed_input[input7-""",
        "inputs are texts or token ids, not objects": """embedding_mixed_input[input8- embedding_mixed_input[input9-
            embedding_mixed_input[input10- embedding_content_text_same_as_string""",
        "the pooling is the model's own": "embedding_pooling_none embedding_pooling_none_oai",
        "the error is in other words": "embedding_error_prompt_too_long",
    },
    "infill": {WORDS: "infill_without_input_extra infill_with_input_extra with_qwen_model"},
    "rerank": {WORDS: "rerank rerank_tei_format rerank_usage"},
    "security": {
        "they are files of llama-server's page": "access_static_assets_without_api_key",
        "`/completions` is not there: see `/v1/completions`": "correct_api_key correct_api_key_anthropic_header",
        "OpenAI's endpoints are at `/v1` alone": "openai_library_correct_api_key",
        CORS: """cors_options cors_origins_localhost_reflects cors_origins_localhost_rejects
            cors_origins_defaults_to_localhost_with_tools_enabled""",
        "`/cors-proxy` is not there": "cors_proxy_only_forwards_explicit_proxy_headers",
        IMAGES: "local_media_file",
    },
    "template": {
        "where nobody says whether the model is to think, its template decides; llama-server sets `enable_thinking`": """
            reasoning[deepseek-ai-DeepSeek-R1-Distill-Qwen-32B-auto- reasoning[Qwen-QwQ-32B-auto-
            reasoning[CohereForAI-c4ai-command-r7b-12-2024-tool_use-auto-""",
    },
    "tool_call": {
        "the same as `completion_without_tool_call_fast`, with more templates": "completion_without_tool_call_slow",
        WORDS: "weather calc_result thoughts hello_world",
    },
}
LEFT_OUT_FILES = {
    "compat_gcp": "`/predict` is not there",
    "completion": COMPLETION,
    "ignore_eos": COMPLETION,
    "kv_keep_only_active": OPTIONS,
    "lora": "`/lora-adapters` is not there: adapters are the profile's",
    "mcp_servers": "`/tools` is not there: clients run tools",
    "metrics": "`/metrics` has names of its own",
    "proxy": "`/cors-proxy` is not there",
    "router": "llama-server's router is not there: one server has many models",
    "slot_save": "`/slots` is not there: computed states are kept by themselves",
    "sleep": OPTIONS,
    "speculative": f"{COMPLETION}, nor are draft models",
    "stream": "`/v1/stream` is not there",
    "tools_builtin": "`/tools` is not there: clients run tools",
    "vision_api": IMAGES,
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    models = tmp_path_factory.mktemp("models")
    size: dict[str, Any] = {"dim": 64, "layers": 1, "ffn": 64}
    write_random_model(models / "random.gguf", n_ctx=8192, certain=True, bos=guide_tokens()[1], **size)
    write_random_model(models / "coder.gguf", n_ctx=2048, fills_gaps=True, **size)
    write_embedding_model(models / "embedding.gguf", n_ctx=512)
    write_embedding_model(models / "ranker.gguf", ranks=True)
    server = Server(tmp_path_factory.mktemp("server") / "data", "--ollama", "127.0.0.1:0=1", models=models, key=KEY)
    server.edit_config("Random", model="random.gguf")
    server.select("Random")
    (server.data / "api_keys.json").write_text(json.dumps({"0": KEY, "1": "of the keyless address"}), encoding="utf-8")
    yield server.start()
    server.stop()


@pytest.fixture(scope="module")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tests where they look for templates beside them, without the module that starts llama-server."""
    root = tmp_path_factory.mktemp("llama.cpp")
    (root / "models").mkdir()
    (root / "models" / "templates").symlink_to(FOLDER / "templates")
    return shutil.copytree(server_tests(), root / "tools" / "server" / "tests", ignore=shutil.ignore_patterns("utils.py"))


def test_they_pass(server: Server, tree: Path) -> None:
    [keyless] = re.findall(r"Ollama's clients find it at (\S+), as the key", server.output)
    facts = {"keyed": server.url, "keyless": keyless, "config": str(server.data / "config.json")}
    environ = {**os.environ, "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}
    environ[llama_server_utils.SERVER] = json.dumps(facts)
    plugins = ["-p", llama_server_utils.__name__, "-p", "no:cacheprovider"]
    chosen = [node(file, name) for file, names in RUN.items() for name in names.split()]
    without = [f"--deselect={node(file, case)}" for file in LEFT_OUT for case in left_out(file) if "[" in case]
    command = [sys.executable, "-m", "pytest", *plugins, "-q", "--tb=short", *chosen, *without]
    done = subprocess.run(command, cwd=tree, env=environ, capture_output=True, text=True, timeout=280)
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    assert re.search(r"^\d+ passed, \d+ deselected", done.stdout, re.MULTILINE)


def test_the_table_is_complete() -> None:
    found = {path.stem.removeprefix("test_"): path for path in server_tests().glob("unit/test_*.py")}
    assert set(found) == {*RUN, *LEFT_OUT_FILES}
    assert set(LEFT_OUT) <= set(RUN)
    for file in RUN:
        names = re.findall(r"^def test_(\w+)", found[file].read_text(encoding="utf-8"), re.MULTILINE)
        told = [*RUN[file].split(), *(name for name in left_out(file) if "[" not in name)]
        assert sorted(told) == sorted(names), file


def test_the_page_has_the_table() -> None:
    page = DOCS.read_text(encoding="utf-8")
    assert table() in page, f"put this into {DOCS.name}:\n{table()}"


def node(file: str, name: str) -> str:
    return f"unit/test_{file}.py::test_{name}"


def left_out(file: str) -> list[str]:
    return " ".join(LEFT_OUT.get(file, {}).values()).split()


def table() -> str:
    """What runs and what does not, as the page has it."""
    rows = ["| file | run | left out and why |", "|---|---|---|"]
    for file in sorted({*RUN, *LEFT_OUT_FILES}):
        why = [f"{listed(names)}: {reason}" for reason, names in LEFT_OUT.get(file, {}).items()]
        rows.append(f"| `{file}` | {listed(RUN.get(file, ''))} | {LEFT_OUT_FILES.get(file) or '; '.join(why)} |")
    return "\n".join(rows) + "\n"


def listed(names: str) -> str:
    return ", ".join(f"`{name}{'…]' * name.endswith('-')}`" for name in names.split())
