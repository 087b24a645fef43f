"""Chats at OpenAI's path, whose client sends all messages each time: an edited prompt, and a loop of tool calls."""

from __future__ import annotations

from random import Random
from statistics import median
from typing import Any

from benchmarks.harness.clients import Reply
from benchmarks.harness.servers import Server
from benchmarks.single.bench import Numbers

Message = dict[str, Any]

# Without the second, llama-server keeps states of recurrent and sliding-window models only every 8,192 tokens of a prompt.
CHECKPOINT_FLAGS = ("--ctx-checkpoints", "32", "--checkpoint-min-step", "512")

TOKENS = 16
SYSTEM_WORDS = 80

EDITS = 3
EXCHANGES = 10
PROMPT_WORDS = 60
ANSWER_WORDS = 40
# Behind the messages at this place stand the third-last prompt and what came after it.
CHANGED = 1 + 2 * (EXCHANGES - 2)

CALLS = 12
RESULT_WORDS = 60
TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": description,
            "parameters": {
                "type": "object",
                "properties": {"path": {"type": "string"}, "line": {"type": "integer"}},
                "required": ["path"],
                "additionalProperties": False,
            },
        },
    }
    for name, description in (
        ("read_file", "Read a file from a line on"),
        ("list_files", "List the files of a folder"),
        ("find_word", "Find the files that hold a word"),
    )
]

# ChatML with tools, calls and results as JSON in tags, so that both servers read the same text whatever the model's own
# template has a place for.
TOOLS_TEMPLATE = """
{%- for message in messages -%}
<|im_start|>{{ 'user' if message.role == 'tool' else message.role }}
{% if message.role == 'tool' -%}
<tool_response>
{{ message.content }}
</tool_response>
{%- else -%}
{{ message.content }}
{%- endif -%}
{%- if loop.first and tools %}

The tools, one a line:
<tools>
{% for tool in tools %}{{ tool | tojson }}
{% endfor %}</tools>
A call is written as <tool_call>
{"name": "NAME", "arguments": {…}}
</tool_call>
{%- endif -%}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor -%}
<|im_end|>
{% endfor -%}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif -%}
""".strip()


def edit(server: Server, rng: Random) -> Numbers:
    """A long conversation is answered; then its third-last prompt is changed, and answered again."""
    replies = []
    for _ in range(EDITS):
        messages = _conversation(server, rng)
        last = _user(server, rng)
        server.chat([*messages, last], TOKENS).wait()
        replies.append(server.chat([*messages[:CHANGED], _user(server, rng)], TOKENS).wait())
    return {
        "first_token": median(reply.first_token for reply in replies),
        "read": median(reply.read_tokens for reply in replies),
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
    }


def tools(server: Server, rng: Random) -> Numbers:
    """A model calls a tool twelve times. Each request has all messages so far, and the last call's result at their end.

    The calls that the messages hold are the benchmark's, not the model's, so that both servers get the same.
    """
    messages = [_system(server, rng), _user(server, rng)]
    replies: list[Reply] = []
    for step in range(CALLS):
        replies.append(server.chat(messages, TOKENS, tools=TOOLS).wait())
        messages += _call(server, rng, step)
    first_tokens = [reply.first_token for reply in replies]
    return {
        "seconds": sum(reply.ended - reply.sent for reply in replies),
        "first_token": median(first_tokens[1:]),
        "read": sum(reply.read_tokens for reply in replies[1:]),
        "new": replies[-1].prompt_tokens - replies[0].prompt_tokens,
        "prompt_tokens": [reply.prompt_tokens for reply in replies],
    }


def _conversation(server: Server, rng: Random) -> list[Message]:
    messages = [_system(server, rng)]
    for _ in range(EXCHANGES):
        messages += [_user(server, rng), {"role": "assistant", "content": server.text(ANSWER_WORDS, rng)}]
    return messages


def _system(server: Server, rng: Random) -> Message:
    return {"role": "system", "content": server.text(SYSTEM_WORDS, rng)}


def _user(server: Server, rng: Random) -> Message:
    return {"role": "user", "content": server.text(PROMPT_WORDS, rng)}


def _call(server: Server, rng: Random, step: int) -> list[Message]:
    """Return a call and its result."""
    function = {"name": "read_file", "arguments": f'{{"path": "notes/{step}.txt", "line": {step}}}'}
    call = {"id": f"call{step:05}", "type": "function", "function": function}
    return [
        {"role": "assistant", "content": server.text(8, rng), "tool_calls": [call]},
        {"role": "tool", "tool_call_id": call["id"], "content": server.text(RESULT_WORDS, rng)},
    ]
