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
_OTHERS = ("seed", "logit_bias", "constraint", "n_top")
_DEFAULTS = Sampling()


def completion_body(model: str, request: GenerationRequest) -> dict[str, Any]:
    """Return the body of a streamed completion. Raises InvalidRequest, naming what an upstream cannot do."""
    sampling = request.sampling
    if sampling.logit_bias:
        raise InvalidRequest("logit_bias: the tokens of a server elsewhere are not known", param="logit_bias")
    if request.prompt_logprobs:
        raise InvalidRequest("echo: a server elsewhere tells no logprobs of the prompt", param="echo")
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
    if sampling.seed is not None:
        body["seed"] = sampling.seed
    if sampling.n_top is not None:
        body["logprobs"] = sampling.n_top
    # A constraint with triggers holds what the model writes of its own accord; an upstream has no such thing.
    if sampling.constraint and not sampling.constraint.triggers:
        body["response_format"] = _response_format(sampling.constraint)
    return body


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
