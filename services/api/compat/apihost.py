"""/api: API Host's API, whose body says everything: the key, the model, where it comes from, and what to do with it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.audit import AuditLog
from auth.authentication import caller
from services.answers.request import AnswerRequest, Question
from services.answers.service import Answers
from services.api.http.disconnect import disconnect_poll
from services.api.http.idempotency import idempotent
from services.api.http.schemas import replies, spec
from services.api.openai.schemas import MOST_MESSAGES, ChatMessages, prompts_of
from services.errors import InvalidRequest, NotFound, NotPermitted
from services.logs import request_id
from services.models.config import not_permitted
from services.models.downloads import Pulls
from services.models.files import ModelFiles
from services.models.profile import Profile
from services.models.sources import hub_file
from services.prompts.chat import words_of
from services.prompts.chat_formats import check_format
from services.validation import MaxTokens, NCtx, Share, Strict, Temperature, TopK, at_most


class Parameters(Strict):
    """How to choose the answer's tokens. What is left out the profile decides."""

    max_tokens: MaxTokens | None = None
    top_k: TopK | None = None
    top_p: Share | None = None
    temperature: Temperature | None = None


class Options(Strict):
    """What the request takes of the model as it is loaded, which none of it changes.

    `ctx_length` counts tokens, up to those of the model's profile; `ctx_lenght` is how many of API Host's users spell it.
    `use_gpu` is to be what the profile says.
    """

    use_gpu: bool | None = None
    ctx_length: NCtx | None = None
    ctx_lenght: NCtx | None = None
    chat_format: str | None = None

    def context(self, profile: Profile, n_ctx: int) -> int:
        """See `AnswerRequest.context`."""
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
    """What the model said."""

    role: str
    content: str


class HostAnswer(BaseModel):
    """The answer."""

    answer: Said


class ApiHostResource(Resource):
    """Prompts and chats."""

    def __init__(self, answers: Answers, files: ModelFiles, pulls: Pulls, audit: AuditLog) -> None:
        self._answers = answers
        self._audit = audit
        self._files = files
        self._pulls = pulls

    @spec.validate(json=HostBody, resp=replies(HostAnswer, 400, 403, 404, 413, 422, 500, 502, 503))
    @idempotent
    def post(self, json: HostBody) -> Any:
        """Answer a chat (a list of messages), or go on with a text, by any model file.

        One that is not there is fetched from `repo_id` of the hub first, for keys that may fetch models. The key may stand
        in `token`.
        """
        ask = _ask(json, self._model(json))
        answer = self._answers.open(caller().id, ask, disconnect_poll())
        return {"answer": {"role": "assistant", "content": answer.whole()}}

    def _model(self, json: HostBody) -> str | None:
        """The model file's name in the models folder, where it is now if it was not before."""
        if json.file_name is None:
            return None
        known = self._answers.files_of(caller().profiles)
        missing: NotFound | None = None
        for name in (json.file_name, PurePosixPath(json.file_name).name):
            if known is not None and name not in known:
                continue
            try:
                return self._files.check(name).name
            except NotFound as error:
                missing = error
        if missing is None:
            raise not_permitted(json.file_name, caller().profiles or ())
        if not json.repo_id:
            raise NotFound(missing.message, param="file_name", code=missing.code)
        source = hub_file(json.repo_id, json.file_name, "repo_id, file_name")
        if not caller().may("models:pull"):
            what = f"{json.file_name} is not in the models folder, and this key may not fetch models"
            raise NotPermitted(what, param="file_name")
        with self._answers.places.metered(caller().id, disconnect_poll()) as deadline:
            self._audit.note("pull", caller().id, source=str(source), request_id=request_id.get() or None)
            deadline.slot.begin()
            return self._pulls.start(source).wait(deadline.look).name


def _ask(json: HostBody, model: str | None) -> AnswerRequest:
    name, is_text = json.options.chat_format or "", isinstance(json.inputs, str)
    messages = [] if isinstance(json.inputs, str) else [message.plain() for message in json.inputs]
    words = json.inputs if isinstance(json.inputs, str) else words_of(messages)
    stop = list(check_format(name, "options.chat_format").stop) if name and messages else None
    if not words.strip():
        raise InvalidRequest("inputs: there is nothing to answer", param="inputs")
    question = Question(prompt=words, memory_k=0, stop=stop, **json.parameters.model_dump())
    return AnswerRequest(
        question,
        model=model,
        messages=tuple(messages),
        text=prompts_of(words)[0] if is_text else None,
        format=name if messages else "",
        context=json.options.context,
        trims=not is_text,
    )
