"""Chat templates by name, for model files whose own is missing or wrong.

The names are those of llama-cpp-python's chat formats; each format follows its model makers' documentation.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from services.backend.types import ChatFormat
from services.errors import InvalidRequest


@dataclass(frozen=True)
class NamedFormat:
    """A chat template in Jinja, and the texts that end an answer if the model has no token for that."""

    template: str
    stop: tuple[str, ...]


_EACH = "{% for message in messages %}"
_CHATML = (
    _EACH + "<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
# These write the system prompt at the head of the first user message.
_WITH_SYSTEM = "{% set system = namespace(text='') %}"
_BRACKETS = (
    _WITH_SYSTEM + _EACH + "{% if message.role == 'system' %}{% set system.text = OPEN ~ message.content ~ CLOSE %}"
    "{% elif message.role == 'user' %}[INST] {{ system.text }}{{ message.content }} [/INST]{% set system.text = '' %}"
    "{% else %} {{ message.content }}{{ eos_token }}{% endif %}{% endfor %}"
)
_LABELS = (
    _EACH + "{% if message.role == 'system' %}{{ message.content }}GAP"
    "{% elif message.role == 'user' %}USER{{ message.content }}END"
    "{% else %}MODEL{{ message.content }}CLOSE{% endif %}{% endfor %}{% if add_generation_prompt %}REPLY{% endif %}"
)


def _brackets(before: str, after: str) -> NamedFormat:
    return NamedFormat(_BRACKETS.replace("OPEN", repr(before)).replace("CLOSE", repr(after)), ("[INST]",))


def _labels(user: str, model: str, stop: str, gap: str = "\n\n", end: str = "\n\n", close: str = "\n\n") -> NamedFormat:
    template = _LABELS.replace("USER", user).replace("MODEL", model).replace("GAP", gap).replace("END", end)
    return NamedFormat(template.replace("CLOSE", close).replace("REPLY", model.rstrip(" ")), (stop,))


FORMATS = {
    "chatml": NamedFormat(_CHATML, ("<|im_end|>",)),
    "qwen": NamedFormat(_CHATML, ("<|im_end|>",)),
    "llama-2": _brackets("<<SYS>>\n", "\n<</SYS>>\n\n"),
    "mistral-instruct": _brackets("", "\n\n"),
    "llama-3": NamedFormat(
        _EACH + "<|start_header_id|>{{ message.role }}<|end_header_id|>\n\n{{ message.content }}<|eot_id|>{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}",
        ("<|eot_id|>",),
    ),
    "zephyr": NamedFormat(
        _EACH + "<|{{ message.role }}|>\n{{ message.content }}{{ eos_token }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}",
        ("<|user|>",),
    ),
    "gemma": NamedFormat(
        _WITH_SYSTEM + _EACH + "{% if message.role == 'system' %}{% set system.text = message.content ~ '\n\n' %}{% else %}"
        "<start_of_turn>{{ 'model' if message.role == 'assistant' else 'user' }}\n{{ system.text }}{{ message.content }}"
        "<end_of_turn>\n{% set system.text = '' %}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}",
        ("<end_of_turn>",),
    ),
    "alpaca": _labels("### Instruction:\n", "### Response:\n", "###"),
    "vicuna": _labels("USER: ", "ASSISTANT: ", "USER:", gap=" ", end=" ", close="{{ eos_token }}"),
}


def named_format(name: str, own: ChatFormat) -> ChatFormat:
    """A model's chat format with the named template instead of its own."""
    return replace(own, template=FORMATS[name].template)


def check_format(name: str, param: str) -> NamedFormat:
    """Return the named format. Raises InvalidRequest, naming `param`, if there is none."""
    if name not in FORMATS:
        known = ", ".join(sorted(FORMATS))
        what = f"{param}: there is no chat format {name!r}; there are {known}. Without one, the model's own is used"
        raise InvalidRequest(what, param=param)
    return FORMATS[name]
