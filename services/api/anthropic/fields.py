"""Every field of Anthropic's API: honoured, accepted without effect, or refused by name.

The fields are those of the types of Anthropic's `anthropic` package (MessageCreateParams, its beta's too). The models of
`schemas.py` declare the honoured ones.
"""

from __future__ import annotations

from services.api.anthropic.errors import NO_THREADS
from services.api.http.request_fields import FieldLists, RequestField, fields_of

MESSAGES, COUNT = "messages", "count_tokens"
_BOTH = (MESSAGES, COUNT)

_lists = FieldLists(_BOTH)
_honoured, _idle, _refused = _lists.honoured, _lists.idle, _lists.refused

FIELDS = (
    *_honoured(
        _BOTH,
        model="a profile, or a file of the models folder",
        messages="`user`, `assistant` and `system`; a last message of the assistant is continued",
        system="a text, or blocks of text",
        tools="tools of your own; tools that a server would run are left out, and the header names them",
        tool_choice="`auto`, `any`, `none`, or a tool; `disable_parallel_tool_use`",
        thinking="`enabled` with `budget_tokens`, `disabled`, or the model's own way (`adaptive`, `between_tools`)",
        output_config="`effort`, and a JSON schema as `format`",
        output_format="a JSON schema, as in `output_config`",
        files="ids of your files, from which it is answered; the text has `citations`",
        collection="a collection of files, from which it is answered",
    ),
    *_honoured(
        (MESSAGES,),
        max_tokens="the most tokens of the answer, thoughts included",
        stream="the reply comes as events",
        stop_sequences="texts that end the answer, 64 at most",
        temperature="",
        top_p="",
        top_k="",
        session_id="the number of a session that keeps the conversation on the server",
        memory_k="how many exchanges of the session the prompt holds",
    ),
    *_idle("metadata user_profile_id workspace_id", "keys tell users apart here"),
    *_idle("service_tier inference_geo speed diagnostics betas", "there is one way to compute an answer"),
    *_idle("billing_policy fallbacks fallback_credit_token", "no request is billed, and none declined by a policy"),
    *_idle("context_management", "the conversation is read as it is sent"),
    *_idle(
        "cache_control system.cache_control messages.content.cache_control messages.content.content.cache_control"
        " tools.cache_control",
        "computed state is reused by itself",
    ),
    *_idle(
        "tools.defer_loading tools.eager_input_streaming tools.strict tools.allowed_callers tools.input_examples",
        "arguments are streamed, and held to their schema",
    ),
    *_idle("messages.content.caller messages.content.toolset_name", "tools are called by the model itself"),
    *_idle("messages.content.title messages.content.context", "the document's text is what the model reads"),
    *_idle("thinking.signature messages.content.signature", "thoughts are read as they are"),
    RequestField("thread", "refused", "send the whole conversation, or session_id", _BOTH, code=NO_THREADS),
    *_refused("compaction", "this server does not summarize: ask for it in a message"),
    *_refused("container", "this server runs no code", ""),
    *_refused("mcp_servers", "this server calls no tools itself", []),
)


def known_fields(endpoint: str) -> dict[str, RequestField]:
    """Return the fields that an endpoint knows, by their dotted names."""
    return fields_of(FIELDS, endpoint)
