"""Every field that clients of /v1 send: honoured, accepted without effect, or refused by name.

The fields are those of OpenAI's reference (the types of its `openai` package), llama-server (llama.cpp's
tools/server/README.md), vLLM and SGLang (their protocol.py), Ollama's /v1 and OpenRouter. The models of `schemas.py`
declare the honoured ones.
"""

from __future__ import annotations

from typing import Literal

from services.api.http.request_fields import FieldLists, RequestField, fields_of

Endpoint = Literal["chat", "completions", "embeddings"]
ALL: tuple[Endpoint, ...] = ("chat", "completions", "embeddings")
BOTH: tuple[Endpoint, ...] = ("chat", "completions")
CHAT: tuple[Endpoint, ...] = ("chat",)
COMPLETIONS: tuple[Endpoint, ...] = ("completions",)
EMBEDDINGS: tuple[Endpoint, ...] = ("embeddings",)

_lists = FieldLists(BOTH)
_honoured, _idle, _refused = _lists.honoured, _lists.idle, _lists.refused

_HONOURED = (
    *_honoured(ALL, model="a profile, or a file of the models folder; without it the selected profile"),
    *_honoured(
        EMBEDDINGS,
        input="a text, token ids, or up to 2,048 of either",
        encoding_format="`float` or `base64`",
        dimensions="vectors are cut to this length, and have the length 1 again",
        input_type="`query`, or `document` (also `search_query`, `passage`, `search_document`): see `embedding_prefix`",
    ),
    *_honoured(
        BOTH,
        stream="the reply comes as events",
        stream_options="`include_usage`: the last event tells the usage",
        max_tokens="the most tokens of the answer; -1: what is left of the context; 0: none",
        n_predict="as `max_tokens`",
        n="how many answers, 8 at most",
        n_cmpl="as `n`",
        temperature="0 takes the likeliest token",
        top_p="",
        top_k="0 or -1: all tokens",
        min_p="",
        typical_p="",
        top_n_sigma="",
        xtc_probability="",
        xtc_threshold="",
        repeat_penalty="",
        repetition_penalty="as `repeat_penalty`",
        repeat_last_n="tokens that the penalties look back on; -1: the context",
        presence_penalty="",
        frequency_penalty="",
        dry_multiplier="",
        dry_base="",
        dry_allowed_length="",
        dry_penalty_last_n="",
        dry_sequence_breakers="",
        dynatemp_range="the temperature follows the entropy, by so much around `temperature`",
        dynatemp_exponent="",
        samplers="the samplers that apply, in their order, by llama-server's names; a text may hold its letters",
        min_keep="samplers that leave out unlikely tokens keep at least so many",
        mirostat="0, 1 or 2",
        mirostat_mode="as `mirostat`",
        mirostat_tau="",
        mirostat_eta="",
        seed="-1 draws a new one",
        stop="texts that end the answer, 64 at most; the text of a special token means that token",
        **{"stop_token_ids": "token ids that end the answer"},
        include_stop_str_in_output="true: the stop text that ended the answer is its end",
        no_stop_trim="as `include_stop_str_in_output`",
        logit_bias="a mapping from token ids or texts, or a list of pairs; false bans a token, or each token of a text",
        bad_words="texts that the model may not write",
        banned_strings="as `bad_words`",
        **{"allowed_token_ids": "the ids of the only tokens that the model may choose"},
        prompt_logprobs="how likely the prompt's tokens were, and so many likeliest ones, in vLLM's shape; not in a stream",
        n_probs="each token's logprob, and those of so many likeliest ones",
        min_tokens="the least tokens of the answer",
        ignore_eos="the model may not end the answer",
        response_format="`text`, `json_object` (with a `schema` if you like) or `json_schema`",
        json_schema="a schema, or its text",
        grammar="GBNF, or Lark in llguidance's dialect: see `grammar_syntax`",
        grammar_syntax="`gbnf` or `lark`; without it a grammar that begins with %llguidance is Lark",
        ebnf="a grammar in GBNF",
        regex="a regular expression for the whole answer",
        guided_json="as `json_schema`",
        guided_regex="as `regex`",
        guided_choice="the answer is one of these texts",
        guided_grammar="a grammar: GBNF if it holds `::=`, else Lark",
        structured_outputs="one of `json`, `json_object`, `regex`, `choice` and `grammar`",
    ),
    *_honoured(
        CHAT,
        messages="the chat; a last message of the assistant is continued",
        max_completion_tokens="as `max_tokens`",
        logprobs="true: each token's logprob",
        top_logprobs="the likeliest tokens at each position, 20 at most",
        tools="functions and custom tools; tools that a server would run are left out, and the header names them",
        tool_choice="`none`, `auto`, `required` (also `any`), a function, a custom tool, or `allowed_tools`",
        parallel_tool_calls="false: one call at most",
        functions="the older form of `tools`: the reply has `function_call`",
        function_call="the older form of `tool_choice`",
        reasoning_effort="`none`, `minimal`, `low`, `medium`, `high`, `xhigh` or `max`, for models that think",
        enable_thinking="whether the model thinks",
        think="whether the model thinks, or its effort",
        thinking='true, false, or `{"type": "enabled", "budget_tokens": …}`',
        reasoning="`effort`, `enabled`, `max_tokens`; `exclude`: the reply leaves the thoughts out",
        include_reasoning="false: the reply leaves the thoughts out",
        thinking_budget="the most tokens of thoughts; -1: no limit",
        **dict.fromkeys(
            ("thinking_budget_tokens", "thinking_token_budget", "reasoning_budget_tokens"), "as `thinking_budget`"
        ),
        chat_template_kwargs="variables for the chat template",
        add_generation_prompt="false: the prompt ends behind the last message",
        continue_final_message="whether a last message of the assistant is continued; the default is true for one",
        session_id="the number of a session that keeps the conversation on the server",
        memory_k="how many exchanges of the session the prompt holds",
        files="ids of your files, from which it is answered; the message has `citations`",
        collection="a collection of files, from which it is answered",
    ),
    *_honoured(
        COMPLETIONS,
        prompt="a text, token ids, or up to 32 of either",
        echo="the prompt comes before the text, and in `logprobs`, where its first token has null",
        logprobs="each token's logprob, and those of so many likeliest ones",
        best_of="the same as `n`",
        skip_special_tokens="false: the special tokens that the model writes are part of the text",
        special="false: the text of a special token in the prompt is plain text, as in messages",
        parse_special="as `special`",
        suffix="the text behind the gap that is filled in, for models with tokens for this",
        add_special_tokens="false: no BOS token comes before the prompt",
    ),
)

_WITHOUT_EFFECT = (
    *_idle("user safety_identifier", "keys tell users apart here", ALL),
    *_idle("metadata store custom_labels", "completions are not kept; a session is kept by `session_id`"),
    *_idle("service_tier request_id rid", "there is one tier, and replies have ids of their own", ALL),
    *_idle(
        "prompt_cache_key prompt_cache_retention prompt_cache_options cache_prompt cache_salt extra_key n_cache_reuse",
        "computed state is reused by itself, and never between keys that do not share it",
    ),
    *_idle("prediction", "it would only make the answer faster", CHAT),
    *_idle("verbosity", "it is a hint that models here do not know: ask for it in a message", CHAT),
    *_idle("id_slot backend_sampling stream_interval sse_ping_interval", "the engine chooses"),
    *_idle("guided_decoding_backend", "there is one engine for constraints"),
    *_idle(
        "adaptive_decay length_penalty early_stopping smoothing_curve negative_prompt",
        "it belongs to a sampler that is off",
    ),
    *_idle("spaces_between_special_tokens", "special tokens are no part of the text"),
    *_idle(
        "media_io_kwargs mm_processor_kwargs images_config max_dynamic_patch min_dynamic_patch use_audio_in_video"
        " return_mm_kwargs",
        "messages hold no images or audio",
    ),
    *_idle("routed_experts_prompt_start routed_experts_start_len", "experts are not told"),
    *_idle("keep_alive", "models stay loaded while memory allows", ALL),
    *_idle("stream_options.include_obfuscation", "nothing is added to events"),
    *_idle("structured_outputs.disable_fallback structured_outputs.backend", "there is one engine for constraints"),
    *_idle("response_format.json_schema.description", "the schema says it"),
    *_idle("tools.function.strict functions.strict", "arguments are always held to their schema", CHAT),
    *_idle("tools.defer_loading tools.function.defer_loading", "all tools are in the prompt", CHAT),
    *_idle(
        "messages.annotations messages.tool_calls.index messages.tool_calls.cache_control messages.cache_control"
        " messages.content.cache_control messages.content.annotations tools.cache_control",
        "the model does not read it",
        CHAT,
    ),
)

_REFUSED = (
    *_refused("modalities", "this server writes text alone", ["text"], [], endpoints=CHAT),
    *_refused("audio", "this server does not speak", endpoints=CHAT),
    *_refused("web_search_options", "this server does not search the web", endpoints=CHAT),
    *_refused("moderation", "this server does not moderate"),
    *_refused("files collection", "texts are completed without files: ask in a chat", [], endpoints=COMPLETIONS),
    *_refused(
        "documents", "put them into a message, or into chat_template_kwargs if the template takes them", [], endpoints=CHAT
    ),
    *_refused("chat_template", "the template is the profile's, or the model's own", endpoints=CHAT),
    *_refused("best_of", "all answers are given: see n", 1, endpoints=CHAT),
    *_refused("echo", "the reply holds the new text alone", False, endpoints=CHAT),
    *_refused("add_special_tokens", "the chat template writes them", False, endpoints=CHAT),
    *_refused("input_ids", "use /v1/completions for token ids", endpoints=CHAT),
    *_refused("task return_prompt_text", "this server does not know it", False, endpoints=CHAT),
    *_refused(
        "separate_reasoning stream_reasoning", "thoughts come beside the text, as they are written", True, endpoints=CHAT
    ),
    *_refused(
        "reasoning_format", "thoughts come beside the text, as reasoning_content", "auto", "deepseek", endpoints=CHAT
    ),
    *_refused(
        "reasoning_budget_message reasoning_budget_start_tag reasoning_budget_end_tag reasoning_budget_end_tags",
        "the model's own form closes a thought",
        "",
        endpoints=CHAT,
    ),
    *_refused("reasoning_control", "end thoughts by POST /answer/ID/stop", False, endpoints=CHAT),
    *_refused("prompt_embeds", "a prompt is text or token ids", endpoints=COMPLETIONS),
    *_refused("thinking_token_budget", "a plain text has no thoughts: use /v1/chat/completions", -1, endpoints=COMPLETIONS),
    RequestField("adaptive_target", "refused", "this sampler is not there", BOTH, or_negative=True),
    *_refused("tfs tfs_z encoder_repetition_penalty guidance_scale num_beams", "this sampler is not there", 1),
    *_refused(
        "top_a epsilon_cutoff eta_cutoff smoothing_factor skew penalty_alpha no_repeat_ngram_size",
        "this sampler is not there",
        0,
    ),
    *_refused("use_beam_search watermarking repetition_detection", "this server samples token by token", False),
    *_refused("stop_regex", "stop takes plain texts", []),
    *_refused("custom_token_bans", "ban tokens by logit_bias", [], ""),
    *_refused("logprob_token_ids", "the likeliest tokens are told", []),
    *_refused("skip_special_tokens", "a message's parts are made of them: use /v1/completions", True, endpoints=CHAT),
    *_refused("post_sampling_probs", "logprobs are those of the model, before sampling", False),
    *_refused("truncate_prompt_tokens truncation_side", "a text is never cut", endpoints=ALL),
    *_refused("messages", "a text is needed, as input", endpoints=EMBEDDINGS),
    *_refused("add_special_tokens", "texts have them as the model was trained", True, endpoints=EMBEDDINGS),
    *_refused("normalize", "vectors have the length 1", True, endpoints=EMBEDDINGS),
    *_refused("embd_normalize", "vectors have the length 1", 2, endpoints=EMBEDDINGS),
    *_refused("n_keep n_discard", "a context is not shifted: the answer ends where it is full", 0, -1),
    *_refused("n_indent", "this server does not indent", 0),
    *_refused("t_max_predict_ms", "limit the answer by max_tokens", 0, -1),
    *_refused("priority", "keys share the engine evenly", 0, endpoints=ALL),
    *_refused("lora lora_path", "adapters are the profile's", []),
    *_refused(
        "return_tokens return_token_ids return_tokens_as_token_ids return_token_offsets return_progress"
        " return_hidden_states return_routed_experts return_cached_tokens_details return_prompt_token_ids return_meta_info"
        " timings_per_token verbose _debug_render_only",
        "the reply has no such field",
        False,
    ),
    *_refused("response_fields", "replies are whole", []),
    *_refused("guided_whitespace_pattern", "write a grammar instead"),
    *_refused("structural_tag", "write a grammar instead"),
    *_refused(
        "grammar_lazy grammar_triggers grammar_type preserved_tokens chat_format chat_parser parse_tool_calls"
        " generation_prompt",
        "it belongs to llama-server's inside",
        False,
        [],
    ),
    *_refused(
        "kv_transfer_params ec_transfer_params vllm_xargs custom_params custom_logit_processor session_params"
        " ngram_corpus_id bootstrap_host bootstrap_port bootstrap_room routed_dp_rank data_parallel_rank"
        " disagg_prefill_dp_rank",
        "it belongs to another server's inside",
        {},
    ),
    *_refused("format", "write it as response_format", "", endpoints=BOTH),
    *_refused("options", "its fields are the body's own, as temperature and max_tokens", {}, endpoints=ALL),
    *_refused("num_ctx", "the context's size is the profile's n_ctx", endpoints=ALL),
    *_refused("system", "send it as a message of the system", "", endpoints=CHAT),
    *_refused("system", "a prompt stands as it is: write it there", "", endpoints=COMPLETIONS),
    *_refused("template", "the template is the profile's, or the model's own", "", endpoints=CHAT),
    *_refused("template", "a prompt stands as it is", "", endpoints=COMPLETIONS),
    *_refused("raw", "use /v1/completions for a prompt as it stands", False, endpoints=CHAT),
    *_idle("raw", "a prompt stands as it is", COMPLETIONS),
    *_refused("stream_options.continuous_usage_stats", "the last event tells the usage", False),
    *_refused("structured_outputs.structural_tag structured_outputs.whitespace_pattern", "write a grammar instead"),
    *_refused(
        "structured_outputs.disable_any_whitespace structured_outputs.disable_additional_properties",
        "say it in the schema",
        False,
    ),
    *_refused("messages.audio", "this server does not speak: send its transcript as content", endpoints=CHAT),
    *_refused("messages.images", "images cannot be read", [], endpoints=CHAT),
    *_refused("messages.tools", "tools are for the whole request", [], endpoints=CHAT),
    *_refused("messages.content.prompt_cache_breakpoint", "computed state is reused by itself", endpoints=CHAT),
)

FIELDS = _HONOURED + _WITHOUT_EFFECT + _REFUSED


def known_fields(endpoint: Endpoint) -> dict[str, RequestField]:
    """Return the fields that an endpoint knows, by their dotted names."""
    return fields_of(FIELDS, endpoint)
