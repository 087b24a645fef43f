"""/infill: a gap in a text, as llama-server's clients in editors have it filled in."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BaseModel, Field, field_validator, model_validator
from typing_extensions import override

from services.answers.client import Client
from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.answers.stream import Answer
from services.api.http import sse
from services.api.http.computation import Reply
from services.api.http.faults import Form, as_of_request
from services.api.http.idempotency import Respond
from services.api.http.open_body import Open
from services.api.http.request_fields import FieldLists, fields_of, telling_ignored
from services.api.http.schemas import replies, spec
from services.api.openai.fields import known_fields
from services.api.openai.sampling_fields import UNLIMITED
from services.api.openai.schemas import Generating
from services.backend.types import Infill
from services.prompts.form import Exchange
from services.validation import at_most

MOST_FILES = 256
_INFILL = "infill"

_lists = FieldLists((_INFILL,))
FIELDS = (
    *_lists.honoured(
        (_INFILL,),
        input_prefix="the text before the gap",
        input_suffix="the text behind it",
        input_extra="texts of other files: `filename` and `text`; the first are left out where not all fit",
        prompt="what comes behind `input_prefix`, as the beginning of the line with the gap",
        response_fields="the fields that the reply has, as `content` or `timings/prompt_n`; without it all",
        n_predict="the most tokens of the text; -1: what is left of the context",
    ),
    *_lists.idle("n_indent t_max_prompt_ms t_max_predict_ms", "the text ends by n_predict, by stop, or by itself"),
    *_lists.idle("cache_prompt id_slot", "computed state is reused by itself"),
    *_lists.idle("stream_options stream_options.include_usage", "the last event tells the counts"),
    *_lists.refused("echo", "the reply has the text for the gap alone", False),
    *_lists.refused("best_of", "the reply has one text", 1),
    *_lists.refused("logprobs", "the reply has no such field", 0),
    *_lists.refused("suffix", "write it as input_suffix", ""),
    *_lists.refused("skip_special_tokens add_special_tokens special parse_special", "the texts stand as they are", True),
)


class FileOfGap(Open):
    """A text of another file."""

    filename: str = "tmp"
    text: str


class InfillRequest(Generating):
    """The body of POST /infill, which may have the sampling fields of completions too."""

    listed = {**known_fields("completions"), **fields_of(FIELDS, _INFILL)}

    input_prefix: str = ""
    input_suffix: str = ""
    input_extra: Annotated[list[FileOfGap], at_most(MOST_FILES)] = Field(default_factory=list)
    prompt: str = ""
    response_fields: list[str] | None = None

    @model_validator(mode="after")
    def _asks_for_one_text(self) -> InfillRequest:
        for name in ("n", "n_cmpl", "n_probs", "prompt_logprobs"):
            if getattr(self, name) not in (None, 0, 1 if name in ("n", "n_cmpl") else 0):
                raise ValueError(f"{name}: the reply has one text, and no logprobs")
        return self

    @field_validator("samplers", mode="before")
    @classmethod
    def _has_its_samplers(cls, given: Any) -> Any:
        # llama-server's sampler for gaps joins likely tokens that begin alike. Others choose among them as well.
        kept = [each for each in given if each != "infill"] if isinstance(given, list) else given
        return kept or None


class InfillTimings(BaseModel):
    """The numbers of tokens read and written, and the milliseconds that they took."""

    prompt_n: int
    prompt_ms: float
    predicted_n: int
    predicted_ms: float


class InfillReply(BaseModel):
    """The text for the gap, and how it came about. `stop_type` is eos, word or limit."""

    index: int
    content: str
    stop: bool
    model: str
    tokens_predicted: int
    tokens_evaluated: int
    tokens_cached: int
    stop_type: str
    stopping_word: str
    truncated: bool
    timings: InfillTimings


class InfillResource(Resource):
    """Gaps in texts."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=InfillRequest, resp=replies(InfillReply, 400, 404, 413, 422, 500, 503))
    def post(self, json: InfillRequest) -> Any:
        """Fill in the gap between two texts, by a model with tokens for this; any other is refused with the code no_infill.

        With `stream` true the reply is text/event-stream, whose last event has `stop` true. A field that cannot be honoured
        is refused by name, and one that nobody knows is named by the header `X-Hearth-Ignored`.
        """
        return telling_ignored(self._respond(json), json)


def compute_infill(answers: Answers, body: InfillRequest, client: Client) -> Reply:
    """Compute the reply to POST /infill. Raises as `Answers.open` does."""
    before = f"{body.input_prefix}{body.prompt}"
    asked = AnswerRequest(
        before,
        model=body.model,
        memory_k=0,
        max_tokens=body.longest(UNLIMITED) if body.n_predict is not None or body.max_tokens is not None else None,
        stop=None if body.stop is None else tuple(body.stop),
        stop_tokens=tuple(body.stop_token_ids or ()),
        keeps_stop=body.keeps_stop,
        sampling=body.sampling(),
        infill=Infill(before, body.input_suffix, param="input_suffix"),
        history=tuple(Exchange(each.filename, each.text) for each in body.input_extra),
        trims=False,
        constraint=body.constraint,
        logit_bias=body.biases(),
    )
    long = "input_suffix" if len(body.input_suffix) > len(before) else "input_prefix"
    with as_of_request(long, [Form(body.constraint_field)] if body.constraint else []):
        answer = answers.open(client, asked)
    shaper = _InfillShaper(answer, body.response_fields)
    if body.stream:
        return sse.EventStream(sse.written([shaper], done=""), answer.close)
    return shaper.whole(answer.whole())


class _InfillShaper(sse.Shaper):
    """Shapes a text as llama-server writes it."""

    def __init__(self, answer: Answer, fields: list[str] | None) -> None:
        self.answer = answer
        self._fields = fields

    @override
    def text(self, chunk: str) -> Iterable[sse.Data]:
        yield {"index": 0, "content": chunk, "stop": False, "model": self.answer.model}

    @override
    def end(self) -> Iterable[sse.Data]:
        yield self.whole("")

    def whole(self, text: str) -> dict[str, Any]:
        """Return the reply's last object, with this text."""
        finish = self.answer.finish
        kind = "limit" if finish.reason != "stop" else "word" if finish.stop_string else "eos"
        timings = finish.timings
        return self._shown(
            {
                "index": 0,
                "content": text,
                "stop": True,
                "model": self.answer.model,
                "tokens_predicted": finish.completion_tokens,
                "tokens_evaluated": finish.prompt_tokens,
                "tokens_cached": finish.cached_tokens,
                "stop_type": kind,
                "stopping_word": finish.stop_string or "",
                "truncated": self.answer.n_left_out > 0,
                "timings": {
                    "prompt_n": finish.prompt_tokens - finish.cached_tokens,
                    "prompt_ms": timings.get("prompt_ms", 0.0),
                    "predicted_n": finish.completion_tokens,
                    "predicted_ms": timings.get("generation_ms", 0.0),
                },
            }
        )

    def _shown(self, reply: dict[str, Any]) -> dict[str, Any]:
        """Return the fields that were asked for: those of a nested object have its name and a slash in front."""
        if self._fields is None:
            return reply
        shown = {}
        for path in self._fields:
            value: Any = reply
            for name in path.split("/"):
                value = value.get(name) if isinstance(value, Mapping) else None
            if value is not None:
                shown[path] = value
        return shown
