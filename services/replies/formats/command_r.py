"""Cohere's Command R7B, Command A and North: actions, thoughts and responses, each within tokens; and Command R+.

<|START_THINKING|>…<|END_THINKING|><|START_ACTION|>[
    {"tool_call_id": "0", "tool_name": "get_weather", "parameters": {"city": "Paris"}}
]<|END_ACTION|>
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from typing_extensions import override

from services.backend.types import ChatFormat
from services.replies.format import ReplyFormat
from services.replies.formats.tagged_json import TaggedJson
from services.replies.grammar import SPACE, Lark, json_text, quoted
from services.replies.syntax import ThoughtTags
from services.replies.toolset import Toolset

_START, _END = "<|START_ACTION|>", "<|END_ACTION|>"
_THOUGHTS = ThoughtTags("<|START_THINKING|>", "<|END_THINKING|>", after="")
_BREAK = "/[ \\n]{1,16}/?"
_WRAPS = (("<|START_RESPONSE|>", "<|END_RESPONSE|>"), ("<|START_TEXT|>", "<|END_TEXT|>"))


@dataclass(frozen=True)
class Actions(TaggedJson):
    """Calls in a list, on lines of their own. `has_ids`: each begins with its id."""

    is_list: bool = True
    has_ids: bool = True

    list_spaces: tuple[str, ...] = ("\n    ", "", "\n", "\n  ")
    list_ends: str = f'{SPACE} "]"'

    @override
    def grammar(self, lark: Lark, tools: Toolset, many: bool, opener: str = "") -> str:
        more = self.more_grammar(lark, tools) if many else ""
        first = self.objects_grammar(lark, tools)
        return f'{SPACE} "[" {_BREAK} {first} {more} {self.list_ends} {SPACE} {lark.text(self.closer)}'

    @override
    def more_grammar(self, lark: Lark, tools: Toolset) -> str:
        return f'("," {_BREAK} {self.objects_grammar(lark, tools)})*'

    @override
    def object_grammar(self, lark: Lark, name: str, schema: Any, begun: str = "") -> str:
        named = f'"tool_name": {json_text(name)}, "parameters": '
        if not self.has_ids:
            return f'{quoted(f"{{{named}".removeprefix(begun))} {lark.json(schema, name)} "}}"'
        call_id = quoted('{"tool_call_id": '.removeprefix(begun)) + ' /"[0-9]{1,3}"/ ", "'
        return f'{call_id} {quoted(named)} {lark.json(schema, name)} "}}"'


def command_r(chat_format: ChatFormat) -> ReplyFormat | None:
    """Return the format of Command R7B and later, or of Command R+."""
    text = chat_format.template + chat_format.tool_template
    if _START in text:
        wraps = _WRAPS if "<|START_RESPONSE|>" in text else _WRAPS[::-1]
        syntax = Actions(openers=(_START,), markers=(_END,), closer=_END)
        return ReplyFormat(
            "command-r7b", _THOUGHTS, syntaxes=(syntax,), wraps=wraps, tokens=frozenset(chat_format.specials)
        )
    if "Action:" in text and '"tool_name"' in text and "<|CHATBOT_TOKEN|>" in text:
        syntax = Actions(openers=("Action:\n```json", "Action: ```json", "Action:```json"), closer="```", has_ids=False)
        skipped = ("<|CHATBOT_TOKEN|>", "<|END_OF_TURN_TOKEN|>")
        return ReplyFormat("command-r", syntaxes=(syntax,), skipped=skipped, tokens=frozenset(chat_format.specials))
    return None
