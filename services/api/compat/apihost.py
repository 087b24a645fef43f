"""/api: API Host's API, whose body says everything: the key, the model, where it comes from, and what to do with it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.audit import AuditLog
from services.answers.client import Client
from services.answers.request import AnswerRequest, sampling_of
from services.answers.service import Answers
from services.api.http.computation import Reply
from services.api.http.idempotency import Respond
from services.api.http.schemas import replies, spec
from services.api.openai.schemas import MOST_MESSAGES, ChatMessages, prompts_of
from services.errors import InvalidRequest, NotFound, NotPermitted
from services.logs import request_id
from services.models.config import not_permitted
from services.models.downloads import Pulls
from services.models.files import AvailableModels
from services.models.profile import Profile
from services.models.sources import hub_file
from services.prompts.chat import words_of
from services.prompts.chat_formats import check_format
from services.validation import MaxTokens, NCtx, Share, Strict, Temperature, TopK, at_most


class Parameters(Strict):
    """How to choose the answer's tokens. A field that is left out the profile decides."""

    max_tokens: MaxTokens | None = None
    top_k: TopK | None = None
    top_p: Share | None = None
    temperature: Temperature | None = None


class Options(Strict):
    """The request's share of the model as it is loaded, which no field changes.

    `ctx_length` counts tokens, up to those of the model's profile; `ctx_lenght` is how many of API Host's users spell it.
    `use_gpu` is to be what the profile says.
    """

    use_gpu: bool | None = None
    ctx_length: NCtx | None = None
    ctx_lenght: NCtx | None = None
    chat_format: str | None = None

    def context(self, profile: Profile, n_ctx: int) -> int:
        """Return how many tokens of context the request takes, as `AnswerRequest.context`. Raises InvalidRequest."""
        has_gpu = profile.n_gpu_layers != 0
        if self.use_gpu is not None and self.use_gpu != has_gpu:
            place = "on a GPU" if has_gpu else "without a GPU"
            what = f"options.use_gpu: {profile.model} is loaded {place}, as its profile's n_gpu_layers says"
            raise InvalidRequest(what, param="options.use_gpu")
        for name in ("ctx_length", "ctx_lenght"):
            wanted = getattr(self, name)
            if wanted is not None and wanted > n_ctx:
                what = f"options.{name}: {profile.model} is loaded with a context of {n_ctx} tokens: name up to that"
                raise InvalidRequest(what, param=f"options.{name}", code="context_too_long")
        return self.ctx_length or self.ctx_lenght or n_ctx


class HostBody(Strict):
    """The body of POST /api. Without `file_name` the selected profile answers."""

    token: str | None = None
    task: Literal["text_generation"] = "text_generation"
    repo_id: Annotated[str, Field(max_length=256)] | None = None
    file_name: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    inputs: Annotated[str | ChatMessages, at_most(MOST_MESSAGES)]
    parameters: Parameters = Parameters()
    options: Options = Options()


class Said(BaseModel):
    """The model's message."""

    role: str
    content: str


class HostAnswer(BaseModel):
    """The answer."""

    answer: Said


class ApiHostResource(Resource):
    """Prompts and chats."""

    def __init__(self, respond: Respond) -> None:
        self._respond = respond

    @spec.validate(json=HostBody, resp=replies(HostAnswer, 400, 403, 404, 413, 422, 500, 502, 503))
    def post(self, json: HostBody) -> Any:
        """Answer a chat (a list of messages), or go on with a text, by any model file.

        One that is not there is fetched from `repo_id` of the hub first, for keys that may fetch models. The key may stand
        in `token`.
        """
        return self._respond(json)


@dataclass(frozen=True)
class ApiHost:
    """Computes the replies to POST /api. Any thread may call it."""

    answers: Answers
    files: AvailableModels
    pulls: Pulls
    audit: AuditLog

    def compute(self, body: HostBody, client: Client) -> Reply:
        """Fetch the model file where it is missing, and answer. Raises as `Answers.open` and `Pulls.start` do."""
        answer = self.answers.open(client, _answer_request(body, self._model(body, client)))
        return {"answer": {"role": "assistant", "content": answer.whole()}}

    def _model(self, body: HostBody, client: Client) -> str | None:
        """Return the model file's name in the models folder, fetched where it was not there; None: the selected one."""
        if body.file_name is None:
            return None
        identity = client.identity
        known = self.answers.models.files_of(identity.profiles)
        missing: NotFound | None = None
        for name in (body.file_name, PurePosixPath(body.file_name).name):
            if known is not None and name not in known:
                continue
            try:
                return self.files.check(name).name
            except NotFound as error:
                missing = error
        if missing is None:
            raise not_permitted(body.file_name, identity.profiles or ())
        if not body.repo_id:
            raise NotFound(missing.message, param="file_name", code=missing.code, public=missing.public)
        source = hub_file(body.repo_id, body.file_name, "repo_id, file_name")
        if not identity.may("models:pull"):
            what = f"{body.file_name} is not on this server, and this key may not fetch models"
            raise NotPermitted(what, param="file_name")
        with self.answers.admit_metered(client) as deadline:
            self.audit.note("pull", identity.id, source=str(source), request_id=request_id.get() or None)
            deadline.slot.begin()
            return self.pulls.start(source).wait(deadline.check).name


def _answer_request(body: HostBody, model: str | None) -> AnswerRequest:
    name, is_text = body.options.chat_format or "", isinstance(body.inputs, str)
    messages = [] if isinstance(body.inputs, str) else [message.plain() for message in body.inputs]
    words = body.inputs if isinstance(body.inputs, str) else words_of(messages)
    stop = check_format(name, "options.chat_format").stop if name and messages else None
    if not words.strip():
        raise InvalidRequest("inputs: there is nothing to answer", param="inputs")
    return AnswerRequest(
        words,
        model=model,
        memory_k=0,
        max_tokens=body.parameters.max_tokens,
        stop=None if stop is None else tuple(stop),
        sampling=sampling_of(body.parameters),
        messages=tuple(messages),
        text=prompts_of(words)[0] if is_text else None,
        chat_format=name if messages else "",
        context=body.options.context,
        trims=not is_text,
    )
