"""The request for an upstream server, in the fields of OpenAI's API and those that llama.cpp's server adds."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

from services.backend.types import Constraint, GenerationRequest, Sampling
from services.errors import InvalidRequest

# Fields of `Sampling` that OpenAI's API has.
_KNOWN = ("temperature", "top_p", "presence_penalty", "frequency_penalty")
# Those that are sent in a form of their own, or not at all.
_OTHERS = ("seed", "logit_bias", "text_bias", "constraint", "n_top")
_DEFAULTS = Sampling()


def completion_body(model: str, request: GenerationRequest) -> dict[str, Any]:
    """Return the body of a streamed completion. Raises InvalidRequest, naming what an upstream cannot do."""
    sampling = request.sampling
    _refuse_unknown(request)
    body: dict[str, Any] = {
        "model": model,
        "prompt": "".join(map(chr, (*request.tokens, *request.resume_tokens))),
        # The text so far counts, roughly.
        "max_tokens": max(request.max_tokens - len(request.resume_tokens) // 4, 1),
        "stream": True,
        "stream_options": {"include_usage": True},
        **{name: getattr(sampling, name) for name in _KNOWN},
        **_samplers(sampling),
    }
    if request.stop:
        body["stop"] = list(request.stop)
    if sampling.text_bias:
        # llama.cpp's form; a server that knows ids alone refuses it.
        body["logit_bias"] = [list(entry) for entry in sampling.text_bias]
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.n_top is not None:
        body["logprobs"] = sampling.n_top
    # A constraint with triggers holds what the model writes of its own accord; an upstream has no such thing.
    if sampling.constraint and not sampling.constraint.triggers:
        body["response_format"] = _response_format(sampling.constraint)
    return body


def _refuse_unknown(request: GenerationRequest) -> None:
    """Raise InvalidRequest for what an upstream would pass over, or would need the ids of its own tokens for."""
    tokens, text = "the tokens of a server elsewhere are not known", "a server elsewhere may pass it over"
    refused = (
        ("logit_bias", request.sampling.logit_bias, tokens),
        ("allowed_token_ids", request.sampling.allowed_tokens, tokens),
        ("stop_token_ids", request.stop_tokens, tokens),
        ("bad_words", request.sampling.banned, text),
        ("include_stop_str_in_output", request.keeps_stop and request.stop, text),
        ("echo", request.prompt_logprobs, "a server elsewhere tells no logprobs of the prompt"),
    )
    for param, is_set, why in refused:
        if is_set:
            raise InvalidRequest(f"{param}: {why}", param=param)


def _samplers(sampling: Sampling) -> Mapping[str, Any]:
    """The samplers that are set, by llama.cpp's names; a server that does not know one refuses it by that name."""
    names = (each.name for each in fields(Sampling) if each.name not in (*_KNOWN, *_OTHERS))
    values = {name: getattr(sampling, name) for name in names}
    changed = {name: value for name, value in values.items() if value != getattr(_DEFAULTS, name)}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in changed.items()}


def _response_format(constraint: Constraint) -> dict[str, Any]:
    if constraint.kind != "json_schema":
        what = f"a server elsewhere keeps to JSON schemas, and to no constraint of the kind {constraint.kind}"
        raise InvalidRequest(what, param="response_format")
    schema = {"name": "answer", "schema": json.loads(constraint.source)}
    return {"type": "json_schema", "json_schema": schema}
