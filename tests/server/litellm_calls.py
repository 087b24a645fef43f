"""litellm's calls for test_clients_litellm.py: standard input names functions below and their arguments, as JSON.

They run in a process of their own, since the package takes seconds to import and leaves event loops and sockets open.
Prints one JSON object: what each call gave, and the machines beside this one that litellm tried to reach.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any

# Read by the import, which would fetch a table of prices and read a file .env.
os.environ |= {"LITELLM_LOCAL_MODEL_COST_MAP": "True", "LITELLM_MODE": "PRODUCTION"}
strangers: list[str] = []


def refuse_strangers(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "socket.getaddrinfo":
        host = arguments[0]
    elif event == "socket.connect":
        host = arguments[1][0]
    else:
        return
    if host != "127.0.0.1":
        strangers.append(str(host))
        raise PermissionError(f"{host} is not this machine")


sys.addaudithook(refuse_strangers)
litellm: Any = import_module("litellm")
litellm.telemetry = False
litellm.suppress_debug_info = True


def read(reply: Any) -> dict[str, Any]:
    [choice] = reply.choices
    usage = reply.usage
    return {
        "text": choice.message.content,
        "thought": choice.message.get("reasoning_content"),
        "end": choice.finish_reason,
        "usage": {"prompt": usage.prompt_tokens, "answer": usage.completion_tokens, "total": usage.total_tokens},
    }


def stream(**fields: Any) -> Any:
    """The reply that a stream's chunks make."""
    return litellm.stream_chunk_builder(
        list(litellm.completion(stream=True, stream_options={"include_usage": True}, **fields))
    )


def whole(**fields: Any) -> dict[str, Any]:
    return read(litellm.completion(**fields))


def streamed(**fields: Any) -> dict[str, Any]:
    return read(stream(**fields))


def error(**fields: Any) -> dict[str, Any]:
    try:
        litellm.completion(**fields)
    except Exception as raised:
        return {"error": type(raised).__name__, "message": str(raised)}
    return {"error": None}


def tool_loop(messages: Sequence[Any], results: Sequence[str], **fields: Any) -> dict[str, Any]:
    """Answer the n-th call with the n-th result; every other reply is streamed."""
    calls: list[Any] = []
    said = list(messages)
    for n, result in enumerate(results):
        reply = (stream if n % 2 else litellm.completion)(messages=said, **fields)
        [call] = reply.choices[0].message.tool_calls
        arguments = json.loads(call.function.arguments)
        calls.append({**read(reply), "name": call.function.name, "arguments": arguments})
        # As they are, with all that litellm adds to what the API has.
        said += [reply.choices[0].message.model_dump(), {"role": "tool", "tool_call_id": call.id, "content": result}]
    return {"calls": calls, "last": whole(messages=said, **fields)}


def vectors(**fields: Any) -> list[list[float]]:
    return [item["embedding"] for item in litellm.embedding(**fields).data]


def abilities(**fields: Any) -> dict[str, Any]:
    found = litellm.get_model_info(**fields)
    return {name: found[name] for name in ("max_input_tokens", "supports_function_calling")}


def main(asked: Mapping[str, Mapping[str, Any]]) -> None:
    functions = {f.__name__: f for f in (whole, streamed, error, tool_loop, vectors, abilities)}
    replies = {name: functions[name.split()[0]](**fields) for name, fields in asked.items()}
    print(json.dumps({**replies, "strangers": strangers}))


if __name__ == "__main__":
    main(json.load(sys.stdin))
