"""A request crosses to another process as it is."""

from __future__ import annotations

import json
import math

from services.backend.codec import from_json, to_json
from services.backend.types import Constraint, GenerationRequest, Sampling, Thoughts

ALSO = (Constraint("regex", "b", ("<b>",)), Constraint("lark", 'start: "c"', ("<c>", "c"), also=(Constraint("gbnf", "d"),)))
SAMPLING = Sampling(
    dynatemp_range=0.5,
    dynatemp_exponent=2.0,
    samplers=("top_k", "temperature"),
    min_keep=2,
    logit_bias=((7, -math.inf), (8, 1.5)),
    text_bias=(("\u00e9\U0001f600", -math.inf), ("", 2.0)),
    banned=("a", " b\n"),
    allowed_tokens=(1, 2),
    constraint=Constraint("json_schema", "{}", ("<a>",), once=True, also=ALSO),
)
THOUGHTS = Thoughts("<t>", "</t>", budget=3, closing=" So.</t>\n", breaks=("<a>", "<b>"))


def test_every_field_comes_over() -> None:
    request = GenerationRequest((1, 2), 9, SAMPLING, thoughts=THOUGHTS, stop_tokens=(4, 5), keeps_stop=True)
    assert from_json(GenerationRequest, json.loads(json.dumps(to_json(request)))) == request
