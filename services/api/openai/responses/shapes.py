"""The parts of responses and their events, as OpenAI's API writes them."""

from __future__ import annotations

import time
import uuid
from collections.abc import Mapping
from typing import Any

from services.api.openai.responses.schemas import CreateResponse
from services.backend.types import Finish

Json = dict[str, Any]
# The codes of errors that the reference knows.
_RATE, _REQUEST, _SERVER = "rate_limit_exceeded", "invalid_prompt", "server_error"


def new_id() -> str:
    """Return the id of a new response."""
    return f"resp_{uuid.uuid4().hex}"


def response_frame(body: CreateResponse, id_: str, model: str, stores: bool, created: float | None = None) -> Json:
    """Return a response without its output, before its end is known; `created` is in seconds since 1970, None: now."""
    reasoning, form = body.reasoning, body.text.format if body.text else None
    conversation = body.conversation_id
    return {
        "id": id_,
        "object": "response",
        "created_at": int(time.time() if created is None else created),
        "completed_at": None,
        "status": "in_progress",
        "background": bool(body.background),
        "error": None,
        "incomplete_details": None,
        "instructions": body.instructions,
        "max_output_tokens": body.max_output_tokens,
        "model": model,
        "output": [],
        "parallel_tool_calls": body.parallel_tool_calls is not False,
        "previous_response_id": body.previous_response_id,
        **({"conversation": {"id": conversation}} if conversation is not None else {}),
        "reasoning": {
            "effort": reasoning.effort if reasoning else None,
            "summary": reasoning.summary if reasoning else None,
        },
        "service_tier": "default",
        "store": stores,
        "temperature": body.temperature,
        "text": {"format": form.model_dump(by_alias=True, exclude_none=True) if form else {"type": "text"}},
        "tool_choice": _choice(body),
        "tools": [tool.echoed() for tool in body.tools or () if not tool.is_left_out],
        "top_logprobs": body.top_logprobs or 0,
        "top_p": body.top_p,
        # The window of a session slides by itself.
        "truncation": body.truncation or ("disabled" if conversation is None else "auto"),
        "usage": None,
        "metadata": dict(body.metadata),
    }


def usage_of(finish: Finish) -> Json:
    """Return the counts of tokens; those of the prompt that were computed already are counted apart too."""
    return {
        "input_tokens": finish.prompt_tokens,
        "input_tokens_details": {"cached_tokens": finish.cached_tokens, "cache_write_tokens": 0},
        "output_tokens": finish.completion_tokens,
        "output_tokens_details": {"reasoning_tokens": finish.reasoning_tokens},
        "total_tokens": finish.prompt_tokens + finish.completion_tokens,
    }


def failed(response: Mapping[str, Any], status: int, error: Mapping[str, Any]) -> Json:
    """Return a response that failed, given an error's HTTP status and its usual body."""
    code = _RATE if status == 429 else _REQUEST if 400 <= status < 500 else _SERVER
    return {**response, "status": "failed", "error": {"code": code, "message": error["message"]}}


def _choice(body: CreateResponse) -> Any:
    choice = body.tool_choice
    return "auto" if choice is None else choice if isinstance(choice, str) else choice.model_dump()
