"""Every field of OpenAI's Responses API: honoured, accepted without effect, or refused by name.

The fields are those of the types of the `openai` package (ResponseCreateParams and InputTokenCountParams), and those that
Codex and vLLM's clients send. The models of `schemas.py` declare the honoured ones.
"""

from __future__ import annotations

from services.api.http.request_fields import FieldLists, RequestField, fields_of

CREATE, COUNT = "responses", "input_tokens"
_BOTH = (CREATE, COUNT)

_lists = FieldLists(_BOTH)
_honoured, _idle, _refused = _lists.honoured, _lists.idle, _lists.refused

FIELDS = (
    *_honoured(
        _BOTH,
        model="a profile, or a file of the models folder; without it the selected profile",
        input="a text, or items: messages, thoughts, calls of tools and their outputs, references to stored items",
        instructions="the system prompt of this response alone",
        previous_response_id="the stored response to go on from",
        conversation="a session: its number, `conv_` and a number, or any other id of letters, digits, `_` and `-`",
        tools="functions, custom tools, and `file_search` with names of collections as `vector_store_ids`; other tools that"
        " a server would run are left out, and the header names them",
        tool_choice="`none`, `auto`, `required`, a function, a custom tool, or `allowed_tools`",
        parallel_tool_calls="false: one call at most",
        reasoning="`effort`; `summary`: the thoughts come as a summary",
        text="`format`: `text`, `json_object` or `json_schema`",
        truncation="`auto`: the first turns are left out where not all fit; `disabled`: that is an error",
        chat_template_kwargs="variables for the chat template",
    ),
    *_honoured(
        (CREATE,),
        stream="the reply comes as events",
        background="true: a job computes the response; ask for it by `GET /v1/responses/ID`",
        store="false: the response is not kept, and no other can go on from it",
        include="`reasoning.encrypted_content`, `message.output_text.logprobs`; what belongs to other tools adds nothing",
        metadata="16 texts that the reply tells again",
        max_output_tokens="the most tokens of the answer, thoughts included",
        temperature="",
        top_p="",
        top_logprobs="the likeliest tokens at each position, 20 at most",
        top_k="0 or -1: all tokens",
        min_p="",
        seed="-1 draws a new one",
        stop="texts that end the answer, 64 at most",
        presence_penalty="",
        frequency_penalty="",
        repeat_penalty="",
        memory_k="how many exchanges of the conversation the prompt holds",
    ),
    *_idle("user safety_identifier", "keys tell users apart here"),
    *_idle("service_tier access_programs client_metadata", "there is one way to compute an answer"),
    *_idle("prompt_cache_key prompt_cache_retention prompt_cache_options", "computed state is reused by itself"),
    *_idle("max_tool_calls", "it counts calls of the server's own tools, and there are none"),
    *_idle("image personality text.verbosity", "it is a hint that models here do not know"),
    *_idle("reasoning.generate_summary reasoning.context reasoning.mode", "thoughts are told in full"),
    *_idle("text.format.description", "the schema says it"),
    *_idle("stream_options stream_options.include_obfuscation", "nothing is added to events"),
    *_idle("tools.strict tools.output_schema", "arguments are held to their schema"),
    *_idle(
        "tools.defer_loading tools.allowed_callers tools.async", "all tools are in the prompt, and the client runs them"
    ),
    *_idle("input.status input.phase input.namespace input.caller input.async", "the model does not read it"),
    *_idle(
        "input.content.annotations input.content.logprobs input.content.prompt_cache_breakpoint"
        " input.output.prompt_cache_breakpoint input.output.annotations input.summary.annotations",
        "the model does not read it",
    ),
    *_refused("prompt", "prompts are not stored here: send its text"),
    *_refused("context_management", "this server does not summarize: ask for it in a message", []),
    *_refused("tools.filters", "files have no attributes here: search another collection"),
    *_refused("tools.ranking_options", "passages are ranked in one way here"),
    *_refused("moderation", "this server does not moderate"),
)


def known_fields(endpoint: str) -> dict[str, RequestField]:
    """Return the fields that an endpoint knows, by their dotted names."""
    return fields_of(FIELDS, endpoint)
