"""Every field of Ollama's API: honoured, accepted without effect, or refused by name.

The fields are those of the types of Ollama's `ollama` package and of its reference (docs/api.md). The models of
`schemas.py` declare the honoured ones.
"""

from __future__ import annotations

from services.api.http.request_fields import FieldLists, RequestField, fields_of

CHAT, GENERATE, EMBED, EMBEDDINGS = "chat", "generate", "embed", "embeddings"
_BOTH, _VECTORS = (CHAT, GENERATE), (EMBED, EMBEDDINGS)
_ALL = (*_BOTH, *_VECTORS)

_lists = FieldLists(_BOTH)
_honoured, _idle, _refused = _lists.honoured, _lists.idle, _lists.refused

FIELDS = (
    *_honoured(_ALL, model="a profile, or a file of the models folder; `NAME:latest` is `NAME`"),
    *_honoured(
        _BOTH,
        stream="false: the reply is one object",
        options="sampling, `stop`, `seed`, `num_predict` (-1 and -2: what is left of the context), `num_ctx`",
        format="`json`, or a JSON schema",
        think="whether the model thinks, or its effort",
        logprobs="true: each token's logprob",
        top_logprobs="the likeliest tokens at each position, 20 at most",
        keep_alive="models stay loaded while memory allows; 0 without a prompt, which would unload one, is refused",
        session_id="the number of a session that keeps the conversation on the server",
        memory_k="how many exchanges of the session the prompt holds",
    ),
    *_honoured((CHAT,), messages="without any the model is loaded", tools="functions that the model may call"),
    *_honoured(
        (GENERATE,),
        system="the system prompt",
        suffix="the text behind the gap that is filled in, for models with tokens for this",
        raw="true: the prompt is read as it stands, special tokens included",
    ),
    *_honoured((GENERATE,), prompt="without one the model is loaded"),
    *_honoured((EMBEDDINGS,), prompt="a text"),
    *_honoured(
        (EMBED,),
        input="a text, or a list of texts",
        dimensions="vectors are cut to this length, and have the length 1 again",
    ),
    *_idle("keep_alive options", "models stay loaded while memory allows, and their settings are the profile's", _VECTORS),
    *_idle("truncate", "a text that does not fit is refused, and never cut", (*_BOTH, EMBED)),
    *_refused("files collection", "Ollama's API has no files: ask by POST /answer, or by OpenAI's API", []),
    *_refused("images", "images cannot be read", [], endpoints=(GENERATE,)),
    *_idle("messages.tool_calls.function.index", "calls are read in their order", (CHAT,)),
    *_refused("messages.images", "images cannot be read", [], endpoints=(CHAT,)),
    *_refused("template", "the template is the profile's, or the model's own", ""),
    *_refused("context", "send the conversation to /api/chat, or session_id", [], endpoints=(GENERATE,)),
    *_refused("width height steps", "this server makes no images", 0, endpoints=(GENERATE,)),
    *_idle("shift", "an answer ends where the context is full"),
    *_idle(
        "options.numa options.num_batch options.num_gpu options.main_gpu options.low_vram options.f16_kv options.logits_all"
        " options.vocab_only options.use_mmap options.use_mlock options.embedding_only options.num_thread options.num_keep"
        " options.penalize_newline options.draft_num_predict",
        "how a model is loaded is the profile's, and a context is not shifted",
    ),
    *_refused("options.tfs_z", "this sampler is not there", 1),
)


def known_fields(endpoint: str) -> dict[str, RequestField]:
    """Return the fields that an endpoint knows, by their dotted names."""
    return fields_of(FIELDS, endpoint)
