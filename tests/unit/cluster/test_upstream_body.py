"""What an upstream server is asked: each field of a request reaches it, or is refused by name."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest

from services.backend.types import Constraint, GenerationRequest, Sampling, Thoughts
from services.cluster.worker.upstream_body import completion_body
from services.errors import InvalidRequest

PLAIN = GenerationRequest(tuple(map(ord, "Hello")), 20, Sampling())
# What the upstream needs not know: computed states and shares, thoughts and marks, which are read from the text that comes.
OWN = {"owner", "session", "borders", "n_head", "background", "account", "delivered", "thoughts", "marks"}
SAMPLING: dict[str, Any] = {
    "temperature": 0.1,
    "top_p": 0.1,
    "top_k": 3,
    "min_p": 0.2,
    "typical_p": 0.3,
    "top_n_sigma": 2.0,
    "xtc_probability": 0.5,
    "xtc_threshold": 0.2,
    "repeat_penalty": 1.2,
    "repeat_last_n": 9,
    "presence_penalty": 0.4,
    "frequency_penalty": 0.5,
    "dry_multiplier": 1.0,
    "dry_base": 2.0,
    "dry_allowed_length": 3,
    "dry_penalty_last_n": 7,
    "dry_sequence_breakers": ("!",),
    "mirostat": 2,
    "mirostat_tau": 4.0,
    "mirostat_eta": 0.3,
    "min_tokens": 4,
    "ignore_eos": True,
    "dynatemp_range": 0.5,
    "dynatemp_exponent": 2.0,
    "samplers": ("top_k", "temperature"),
    "min_keep": 2,
    "seed": 5,
    "logit_bias": ((1, 1.0),),
    "text_bias": (("a b", -1.5),),
    "banned": ("word",),
    "allowed_tokens": (1, 2),
    "constraint": Constraint("json_schema", "{}"),
    "n_top": 3,
}
REQUEST: dict[str, Any] = {
    "tokens": tuple(map(ord, "Bye")),
    "max_tokens": 5,
    "stop": ("x",),
    "resume_tokens": (ord("H"),),
    "prompt_logprobs": True,
    "stop_tokens": (3,),
}
NAMES = {
    "logit_bias": "logit_bias",
    "allowed_tokens": "allowed_token_ids",
    "stop_tokens": "stop_token_ids",
    "banned": "bad_words",
    "prompt_logprobs": "echo",
}


def check(name: str, request: GenerationRequest) -> None:
    if name not in NAMES:
        assert completion_body("m", request) != completion_body("m", PLAIN)
        return
    with pytest.raises(InvalidRequest, match=NAMES[name]) as refused:
        completion_body("m", request)
    assert refused.value.param == NAMES[name]


@pytest.mark.parametrize("name", [field.name for field in fields(Sampling)])
def test_each_field_of_the_sampling_is_sent_or_refused(name: str) -> None:
    check(name, replace(PLAIN, sampling=replace(PLAIN.sampling, **{name: SAMPLING[name]})))


@pytest.mark.parametrize(
    "name", sorted({field.name for field in fields(GenerationRequest)} - OWN - {"sampling", "keeps_stop"})
)
def test_each_field_of_the_request_is_sent_or_refused(name: str) -> None:
    check(name, replace(PLAIN, **{name: REQUEST[name]}))


def test_the_fields_have_the_names_of_llama_cpps_server() -> None:
    sampling = replace(
        PLAIN.sampling, dynatemp_range=0.5, samplers=("typ_p", "temperature"), min_keep=3, text_bias=(("a b", -1.5),)
    )
    body = completion_body("m", replace(PLAIN, sampling=sampling))
    assert body["samplers"] == ["typ_p", "temperature"]
    assert body["logit_bias"] == [["a b", -1.5]]
    assert (body["dynatemp_range"], body["min_keep"]) == (0.5, 3)


def test_a_stop_string_cannot_be_kept() -> None:
    with pytest.raises(InvalidRequest, match="include_stop_str_in_output"):
        completion_body("m", replace(PLAIN, stop=("x",), keeps_stop=True))
    # Without one there is nothing to keep.
    assert completion_body("m", replace(PLAIN, keeps_stop=True)) == completion_body("m", PLAIN)


def test_a_call_of_the_models_own_accord_is_not_held() -> None:
    constraint = Constraint("lark", "start: 'a'", ("<call>",), once=True, also=(Constraint("regex", "b", ("<b>",)),))
    thoughts = Thoughts("<think>", "</think>", closing=" So.</think>", breaks=("<call>",))
    request = replace(PLAIN, sampling=Sampling(constraint=constraint), thoughts=thoughts)
    assert completion_body("m", request) == completion_body("m", PLAIN)
