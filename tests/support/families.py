"""Families of models, as their tokenizers and chat templates have them, and what each writes: thoughts, text and calls.

The templates are those of llama.cpp's tests (`real_models.chat_templates`), which are read when a test runs.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from services.engine.process.probe import _digest
from services.models.files import ModelFiles
from services.models.profile import Profile
from services.storage.database import NAME as DATABASE
from services.storage.database import database
from tests.support.real_models import chat_templates
from tests.support.scripted import N_CTX, Scripts, Vocabulary, write_scripted_model
from tests.support.serving import Server

_CHATML = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")


@dataclass(frozen=True)
class Call:
    """A call that a scripted model makes."""

    name: str
    arguments: Mapping[str, Any]

    @property
    def json(self) -> str:
        """The arguments, as transformers' templates write them."""
        return json.dumps(self.arguments, ensure_ascii=False)


Writer = Callable[[str, str, Sequence[Call]], str]


@dataclass(frozen=True)
class Family:
    """Models that share a chat template and a form of replies.

    `write` puts a thought, a text and calls into the form; "" and () leave a part out.
    """

    name: str
    template: str
    vocabulary: Vocabulary
    write: Writer
    thinks: bool = True
    is_asked_to_think: Mapping[str, Any] = field(default_factory=dict)
    """The template's variables without which it closes the thought in the prompt."""
    has_text_before_calls: bool = True
    has_several_calls: bool = True

    def write_model(self, path: Path, scripts: Scripts) -> Path:
        """Write a scripted model of this family; see `write_scripted_model`."""
        return write_scripted_model(path, scripts, self.vocabulary, chat_templates()[self.template])


def _qwen(thought: str, text: str, calls: Sequence[Call]) -> str:
    """Qwen3 and Hermes: a JSON object in tags for each call."""
    objects = [f'<tool_call>\n{{"name": "{call.name}", "arguments": {call.json}}}\n</tool_call>' for call in calls]
    return (f"<think>\n{thought}\n</think>\n\n" if thought else "") + "\n".join([text] * bool(text) + objects)


def _gpt_oss(thought: str, text: str, calls: Sequence[Call]) -> str:
    """Harmony: a message in a channel for each part; the one to a function ends the turn."""
    parts = [f"<|channel|>analysis<|message|>{thought}<|end|>"] if thought else []
    if text and calls:
        parts.append(f"<|channel|>commentary<|message|>{text}<|end|>")
    elif text:
        parts.append(f"<|channel|>final<|message|>{text}")
    for call in calls:
        parts.append(f"<|channel|>commentary to=functions.{call.name} <|constrain|>json<|message|>{call.json}<|call|>")
    return "<|start|>assistant".join(parts)


def _ministral(thought: str, text: str, calls: Sequence[Call]) -> str:
    written = [f"[TOOL_CALLS]{call.name}[ARGS]{call.json}" for call in calls]
    return (f"[THINK]{thought}[/THINK]" if thought else "") + text + "".join(written)


def _llama(thought: str, text: str, calls: Sequence[Call]) -> str:
    """Llama 3.1 to 3.3: a call is the whole answer, as JSON without any mark."""
    assert not thought
    assert len(calls) <= 1
    assert not (text and calls)
    return text + "".join(f'{{"name": "{call.name}", "parameters": {call.json}}}' for call in calls)


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _glm(thought: str, text: str, calls: Sequence[Call]) -> str:
    """GLM 4.5 and 4.6: keys and values in tags, texts without quotation marks."""
    written = [f"\n<think>{thought}</think>"] if thought else []
    written += [f"\n{text}"] if text else []
    for call in calls:
        pairs = (
            f"<arg_key>{key}</arg_key>\n<arg_value>{_as_text(value)}</arg_value>\n" for key, value in call.arguments.items()
        )
        written.append(f"\n<tool_call>{call.name}\n{''.join(pairs)}</tool_call>")
    return "".join(written)


def _qwen_coder(thought: str, text: str, calls: Sequence[Call]) -> str:
    """Qwen3-Coder: functions and parameters in tags of their own names."""
    assert not thought
    written = [text] if text else []
    for call in calls:
        parameters = (f"<parameter={key}>\n{_as_text(value)}\n</parameter>\n" for key, value in call.arguments.items())
        written.append(f"<tool_call>\n<function={call.name}>\n{''.join(parameters)}</function>\n</tool_call>")
    return "\n".join(written)


def _lfm2(thought: str, text: str, calls: Sequence[Call]) -> str:
    """LFM2: a list of calls as Python writes them."""
    written = (f"{c.name}({', '.join(f'{key}={value!r}' for key, value in c.arguments.items())})" for c in calls)
    listed = f"<|tool_call_start|>[{', '.join(written)}]<|tool_call_end|>" if calls else ""
    return (f"<think>{thought}</think>" if thought else "") + text + listed


def _kimi(thought: str, text: str, calls: Sequence[Call]) -> str:
    """Kimi K2: a section of calls, each with an id that holds the function's name."""
    written = (
        f"<|tool_call_begin|>functions.{call.name}:{n}<|tool_call_argument_begin|>{call.json}<|tool_call_end|>"
        for n, call in enumerate(calls)
    )
    section = f"<|tool_calls_section_begin|>{''.join(written)}<|tool_calls_section_end|>" if calls else ""
    return (f"<think>{thought}</think>" if thought else "") + text + section


def _gemma_value(value: Any) -> str:
    return f'<|"|>{value}<|"|>' if isinstance(value, str) else json.dumps(value)


def _gemma(thought: str, text: str, calls: Sequence[Call]) -> str:
    """Gemma 4: a channel of thoughts, and calls with keys as they are and texts between quotation tokens."""
    written = [f"<|channel>thought\n{thought}\n<channel|>"] if thought else []
    written.append(text)
    for call in calls:
        pairs = ",".join(f"{key}:{_gemma_value(value)}" for key, value in call.arguments.items())
        written.append(f"<|tool_call>call:{call.name}{{{pairs}}}<tool_call|>")
    return "".join(written)


QWEN = Family(
    "qwen3",
    "Qwen-Qwen3-0.6B",
    Vocabulary(
        control=_CHATML,
        added=("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
        eos="<|im_end|>",
    ),
    _qwen,
)
GPT_OSS = Family(
    "gpt-oss",
    "openai-gpt-oss-120b",
    Vocabulary(
        control=("<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|constrain|>", "<|return|>", "<|call|>"),
        eos="<|return|>",
        words=("analysis",),
    ),
    _gpt_oss,
    has_several_calls=False,
)
MINISTRAL = Family(
    "ministral",
    "mistralai-Ministral-3-14B-Reasoning-2512",
    Vocabulary(
        control=(
            *("<s>", "</s>", "[INST]", "[/INST]", "[AVAILABLE_TOOLS]", "[/AVAILABLE_TOOLS]", "[TOOL_RESULTS]"),
            *("[/TOOL_RESULTS]", "[TOOL_CALLS]", "[ARGS]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", "[THINK]", "[/THINK]"),
        ),
        eos="</s>",
        bos="<s>",
    ),
    _ministral,
)
LLAMA = Family(
    "llama3",
    "meta-llama-Llama-3.1-8B-Instruct",
    Vocabulary(
        control=(
            *("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eom_id|>"),
            *("<|eot_id|>", "<|python_tag|>"),
        ),
        eos="<|eot_id|>",
        bos="<|begin_of_text|>",
    ),
    _llama,
    thinks=False,
    has_text_before_calls=False,
    has_several_calls=False,
)
GLM = Family(
    "glm4",
    "GLM-4.6",
    Vocabulary(
        control=("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
        added=(
            *("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>"),
            *("<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"),
        ),
        eos="<|endoftext|>",
        ends={"eot": "<|user|>", "eom": "<|observation|>"},
    ),
    _glm,
)
QWEN_CODER = Family(
    "qwen3-coder",
    "Qwen3-Coder",
    Vocabulary(control=_CHATML, added=("<tool_call>", "</tool_call>"), eos="<|im_end|>"),
    _qwen_coder,
    thinks=False,
)
LFM2 = Family(
    "lfm2",
    "LFM2.5-8B-A1B",
    Vocabulary(
        control=("<|startoftext|>", *_CHATML, "<|tool_call_start|>", "<|tool_call_end|>"),
        added=("<think>", "</think>"),
        eos="<|im_end|>",
        bos="<|startoftext|>",
    ),
    _lfm2,
)
KIMI = Family(
    "kimi-k2",
    "Kimi-K2-Thinking",
    Vocabulary(
        control=("[BOS]", "[EOS]", "<|im_end|>", "<|im_user|>", "<|im_assistant|>", "<|im_system|>", "<|im_middle|>"),
        added=(
            *("<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>"),
            *("<|tool_call_argument_begin|>", "<|tool_call_end|>", "<think>", "</think>"),
        ),
        eos="<|im_end|>",
    ),
    _kimi,
)
GEMMA = Family(
    "gemma4",
    "google-gemma-4-31B-it",
    Vocabulary(
        control=("<bos>", "<eos>", "<|tool>", "<tool|>", "<|think|>", "<|turn>", "<turn|>"),
        added=(
            *("<|tool_call>", "<tool_call|>", "<|tool_response>", "<tool_response|>", '<|"|>'),
            *("<|channel>", "<channel|>"),
        ),
        eos="<turn|>",
        bos="<bos>",
        words=("thought",),
    ),
    _gemma,
    is_asked_to_think={"enable_thinking": True},
)
FAMILIES = (QWEN, GPT_OSS, MINISTRAL, LLAMA, GLM, QWEN_CODER, LFM2, KIMI, GEMMA)


@contextmanager
def scripted_server(
    folder: Path, models: Mapping[str, tuple[Family, Scripts]], pause: float = 0, **profile: Any
) -> Iterator[Server]:
    """A server in `folder` with a scripted model for each profile name; the first is selected. `profile`: their settings.

    `pause`: seconds between two tokens.
    """
    (folder / "models").mkdir()
    server = Server(folder / "data", models=folder / "models")
    server.pause = pause
    settings = {"n_ctx": N_CTX, "n_parallel": 4, "n_threads": 1, "temperature": 0, "speculation": not pause, **profile}
    files = ModelFiles(folder / "models")
    for name, (family, scripts) in models.items():
        family.write_model(folder / "models" / f"{name}.gguf", scripts)
        server.edit_config(name, model=f"{name}.gguf", **settings)
    server.select(next(iter(models)))
    with database(server.data / DATABASE) as file:
        # Each file's probe in a process of its own would take half a second of a core.
        for name in models:
            loaded = Profile(model=f"{name}.gguf", **settings).load_settings(files)
            file.db.execute("INSERT INTO probes (digest, file) VALUES (?, ?)", (_digest(loaded, False), f"{name}.gguf"))
    yield server.start()
    server.kill()
