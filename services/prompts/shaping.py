"""Messages in the form that a chat template takes, so that nothing of a conversation is lost or refused."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from services.prompts.abilities import Abilities, Message, typed, with_thought
from services.prompts.calls import CallShaper, content_text, named_results
from services.prompts.tool_schemas import inlined
from services.replies.wording import tools_in_words

# What clients call a message's thoughts: vLLM and DeepSeek, OpenRouter, Ollama.
THOUGHT_FIELDS = ("reasoning_content", "reasoning", "thinking")


def shaped(
    messages: Sequence[Message], tools: Sequence[Message], abilities: Abilities, reply: bool = True
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the messages as a template with these abilities takes them, and the variables that hold the tools.

    What the template does not write is put into words: tools in the system prompt, calls and results in messages of the
    assistant and the user. What it refuses is written as what it takes: system messages as the user's, messages of one
    role as one message. `reply`: the beginning of a reply follows.
    """
    if not abilities.tool_definitions:
        tools = inlined(tools)
    made = [_plain(message, abilities) for message in messages]
    if tools and not abilities.tools:
        made = _with_system(made, tools_in_words(tools))
    made = _with_calls(made, abilities)
    made = _with_system_messages(made, abilities)
    if not abilities.assistant_empty:
        made = [message for message in made if not _is_empty(message)] or made
    if not abilities.runs:
        made = _joined(made)
    if not abilities.assistant_first:
        made = _begun(made)
    if reply and not abilities.assistant_last and made[-1]["role"] == "assistant":
        made.append({"role": "user", "content": ""})
    if abilities.typed_content:
        made = [dict(typed(message)) for message in made]
    return made, _tool_variables(tools, abilities)


def count_system(messages: Sequence[Message]) -> int:
    """The number of system messages that a conversation begins with."""
    return next((n for n, each in enumerate(messages) if each["role"] not in ("system", "developer")), len(messages))


def completed(tools: Sequence[Message]) -> list[Message]:
    """Return tools with the fields that are optional in OpenAI's API, and that some templates want."""
    made: list[Message] = []
    for tool in tools:
        function = tool["function"]
        parameters = {"type": "object", "properties": {}, "required": [], **(function.get("parameters") or {})}
        made.append(
            {**tool, "function": {**function, "description": function.get("description") or "", "parameters": parameters}}
        )
    return made


def thought_of(message: Message) -> str:
    """The thoughts of a model's message, by whichever name they came; "" if there are none."""
    found = next((text for field in THOUGHT_FIELDS if isinstance(text := message.get(field), str) and text), "")
    return found if message.get("role") == "assistant" else ""


def _plain(message: Message, abilities: Abilities) -> dict[str, Any]:
    """A message with a role that the template knows, text as content, and its thoughts where the template wants them."""
    roles = {"function": "tool", **({} if abilities.developer else {"developer": "system"})}
    made = {name: value for name, value in message.items() if value is not None and name not in THOUGHT_FIELDS}
    made["role"] = roles.get(message["role"], message["role"])
    made["content"] = content_text(message.get("content"))
    if not made.get("tool_calls"):
        made.pop("tool_calls", None)
    return _thinking(made, thought_of(message), abilities)


def _thinking(message: dict[str, Any], thought: str, abilities: Abilities) -> dict[str, Any]:
    if not thought or not abilities.thoughts:
        return message
    if message.get("tool_calls") and message["content"] and not abilities.thought_and_text:
        # As gpt-oss's, which takes one of the two: what was said before a call is a thought there.
        thought, message = f"{thought}\n\n{message['content']}", {**message, "content": ""}
    return with_thought(message, thought, abilities.thoughts)


def _with_calls(messages: Sequence[dict[str, Any]], abilities: Abilities) -> list[dict[str, Any]]:
    shaper = CallShaper(abilities)
    split: Iterable[dict[str, Any]] = named_results(messages)
    if abilities.calls and not abilities.parallel:
        split = _one_at_a_time(list(split))
    if abilities.calls and not abilities.call_beside_text:
        split = _text_first(split)
    return [shaper.result(each) if each["role"] == "tool" else shaper.message(each) for each in split]


def _text_first(messages: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages with what was said before a call in a message of its own."""
    for message in messages:
        if message.get("tool_calls") and message["content"]:
            yield {name: value for name, value in message.items() if name != "tool_calls"}
            message = {"role": "assistant", "content": "", "tool_calls": message["tool_calls"]}
        yield message


def _one_at_a_time(messages: Sequence[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The messages with each call in a message of its own, followed by its results."""
    rest = list(messages)
    while rest:
        message = rest.pop(0)
        calls = message.get("tool_calls") or ()
        n_results = next((n for n, each in enumerate(rest) if each["role"] != "tool"), len(rest))
        if len(calls) < 2:
            yield message
            continue
        results, rest = rest[:n_results], rest[n_results:]
        for number, call in enumerate(calls):
            own, results = _results_of(call, results)
            alone = {**message, "tool_calls": [call]}
            yield alone if number == 0 else {"role": "assistant", "content": "", "tool_calls": [call]}
            yield from own
        yield from results


def _results_of(
    call: dict[str, Any], results: Sequence[dict[str, Any]]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """The results of a call among those of a message's calls, and the others."""
    own = [each for each in results if each.get("tool_call_id") == call["id"]]
    return own, [each for each in results if each.get("tool_call_id") != call["id"]]


def _with_system(messages: Sequence[dict[str, Any]], text: str) -> list[dict[str, Any]]:
    """The messages with a text at the end of the first system message, or as one."""
    if messages and messages[0]["role"] in ("system", "developer"):
        first = messages[0]
        return [{**first, "content": f"{first['content']}\n\n{text}"}, *messages[1:]]
    return [{"role": "system", "content": text}, *messages]


def _with_system_messages(messages: Sequence[dict[str, Any]], abilities: Abilities) -> list[dict[str, Any]]:
    n_first = count_system(messages)
    first, rest = list(messages[:n_first]), list(messages[n_first:])
    late = "system" if abilities.late_system else "user"
    rest = [{**message, "role": late} if count_system([message]) else message for message in rest]
    if not abilities.systems:
        first = _joined([{**message, "role": first[0]["role"]} for message in first])
    if not first or _takes_system(rest, abilities):
        return [*first, *rest]
    said = [{**message, "role": "user"} for message in first]
    if rest and rest[0]["role"] == "user":
        return _joined([*said, rest[0]]) + rest[1:]
    return [*_joined(said), *rest]


def _takes_system(rest: Sequence[dict[str, Any]], abilities: Abilities) -> bool:
    """Return whether a system message before these is written."""
    if not any(message["role"] == "user" for message in rest):
        return abilities.system_alone
    return abilities.system and (abilities.system_kept or rest[-1]["role"] == "user")


def _joined(messages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with those of one role that follow each other as one; calls and results stay as they are."""
    runs: list[list[dict[str, Any]]] = []
    for message in messages:
        if runs and _can_join(runs[-1][-1], message):
            runs[-1].append(message)
        else:
            runs.append([message])
    return [run[0] if len(run) == 1 else _as_one(run) for run in runs]


def _as_one(run: Sequence[dict[str, Any]]) -> dict[str, Any]:
    made: dict[str, Any] = {}
    for message in run:
        made |= message
    return {**made, "content": "\n".join(text for message in run if (text := message["content"]))}


def _can_join(first: dict[str, Any], second: dict[str, Any]) -> bool:
    is_text = all("tool_calls" not in each and isinstance(each["content"], str) for each in (first, second))
    return is_text and first["role"] == second["role"] != "tool"


def _is_empty(message: dict[str, Any]) -> bool:
    """Return whether a message of the assistant's says and does nothing, thoughts included."""
    names = (*THOUGHT_FIELDS, "thought", "content", "tool_calls")
    return message["role"] == "assistant" and not any(message.get(name) for name in names)


def _begun(messages: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The messages with an empty one of the user before an assistant's message that begins the conversation."""
    n_system = count_system(messages)
    if n_system == len(messages) or messages[n_system]["role"] == "user":
        return messages
    return [*messages[:n_system], {"role": "user", "content": ""}, *messages[n_system:]]


def _tool_variables(tools: Sequence[Message], abilities: Abilities) -> dict[str, Any]:
    if abilities.tools == "text":
        return {"functions": json.dumps([tool["function"] for tool in tools], ensure_ascii=False, indent=4)}
    if not tools or not abilities.tools:
        return {"tools": None} if abilities.none_tools else {}
    return {"tools": [dict(tool) if abilities.tools == "wrapped" else dict(tool["function"]) for tool in tools]}
