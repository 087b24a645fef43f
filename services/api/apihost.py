"""/api: API Host's API, whose body says everything: the key, the model, where it comes from, and what to do with it."""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Annotated, Any, Literal

from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.audit import AuditLog
from auth.authentication import caller
from services.answers import Answers
from services.api.hangup import poll_of_caller
from services.api.once import once
from services.api.openai_schemas import ChatMessage, prompts_of
from services.api.schemas import replies, spec
from services.errors import InvalidRequest, NotFound, NotPermitted
from services.logs import request_id
from services.models.downloads import Pulls
from services.models.files import ModelFiles
from services.models.sources import hub_file
from services.prompts.chat import words_of
from services.prompts.chat_formats import check_format
from services.question import Ask, Question
from services.validation import MaxTokens, NCtx, Share, Strict, Temperature, TopK


class Parameters(Strict):
    """How to choose the answer's tokens. What is left out the profile decides."""

    max_tokens: MaxTokens | None = None
    top_k: TopK | None = None
    top_p: Share | None = None
    temperature: Temperature | None = None


class Options(Strict):
    """How to load the model. `ctx_length` counts tokens; `ctx_lenght` is how many of API Host's users spell it."""

    use_gpu: bool | None = None
    ctx_length: NCtx | None = None
    ctx_lenght: NCtx | None = None
    chat_format: str | None = None

    def load(self) -> dict[str, int]:
        """The profile's keys that they set."""
        n_ctx = self.ctx_length or self.ctx_lenght
        layers = {} if self.use_gpu is None else {"n_gpu_layers": -1 if self.use_gpu else 0}
        return {**layers, **({"n_ctx": n_ctx} if n_ctx else {})}


class HostBody(Strict):
    """The body of POST /api. Without `file_name` the selected profile answers."""

    token: str | None = None
    task: Literal["text_generation"] = "text_generation"
    repo_id: Annotated[str, Field(max_length=256)] | None = None
    file_name: Annotated[str, Field(min_length=1, max_length=512)] | None = None
    inputs: str | Annotated[list[ChatMessage], Field(min_length=1)]
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
    @once
    def post(self, json: HostBody) -> Any:
        """Answer a chat (a list of messages), or go on with a text, by any model file.

        One that is not there is fetched from `repo_id` of the hub first, for keys that may fetch models. The key may stand
        in `token`.
        """
        ask = _ask(json, self._model(json))
        answer = self._answers.open(caller().id, ask, poll_of_caller())
        return {"answer": {"role": "assistant", "content": answer.whole()}}

    def _model(self, json: HostBody) -> str | None:
        """The model file's name in the models folder, where it is now if it was not before."""
        if json.file_name is None:
            return None
        for name in (json.file_name, PurePosixPath(json.file_name).name):
            try:
                return self._files.check(name).name
            except NotFound as error:
                missing = error
        if not json.repo_id:
            raise NotFound(missing.message, param="file_name", code=missing.code)
        source = hub_file(json.repo_id, json.file_name, "repo_id, file_name")
        if not caller().may("models:pull"):
            what = f"{json.file_name} is not in the models folder, and this key may not fetch models"
            raise NotPermitted(what, param="file_name")
        self._audit.note("pull", caller().id, source=str(source), request_id=request_id.get() or None)
        with self._answers.place():
            return self._pulls.start(source).wait(poll_of_caller()).name


def _ask(json: HostBody, model: str | None) -> Ask:
    name, is_text = json.options.chat_format or "", isinstance(json.inputs, str)
    messages = [] if isinstance(json.inputs, str) else [message.plain() for message in json.inputs]
    words = json.inputs if isinstance(json.inputs, str) else words_of(messages)
    stop = list(check_format(name, "options.chat_format").stop) if name and messages else None
    if not words.strip():
        raise InvalidRequest("inputs: there is nothing to answer", param="inputs")
    question = Question(prompt=words, memory_k=0, stop=stop, **json.parameters.model_dump())
    return Ask(
        question,
        model=model,
        messages=tuple(messages),
        text=prompts_of(words)[0] if is_text else None,
        format=name if messages else "",
        load=json.options.load(),
        trims=not is_text,
    )
