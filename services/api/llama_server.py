"""/props and /apply-template, as llama-server's clients read them."""

from __future__ import annotations

from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BaseModel, Field

from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.api.http.client import current_client
from services.api.http.request_fields import telling_ignored
from services.api.http.schemas import Query, replies, spec
from services.api.openai.requests import chat_requests
from services.api.openai.schemas import ChatRequest
from services.prompts.chat import ChatForm

_SAMPLING = {"temperature", "top_k", "top_p", "min_p", "repeat_penalty", "presence_penalty", "frequency_penalty", "seed"}


class PropsQuery(Query):
    """The query of GET /props."""

    model: Annotated[str, Field(description="A profile or a file; without it the selected profile.")] = ""


class GenerationSettings(BaseModel):
    """The settings of an answer if its request gives none. `n_ctx` is the context of one conversation, in tokens."""

    n_ctx: int
    params: dict[str, Any]


class Modalities(BaseModel):
    """The media that the model reads beside text."""

    vision: bool
    audio: bool


class Props(BaseModel):
    """A model, as llama-server tells of the one that it has loaded."""

    default_generation_settings: GenerationSettings
    total_slots: int
    model_alias: str
    model_path: str
    modalities: Modalities
    chat_template: str
    bos_token: str
    eos_token: str
    build_info: str


class AppliedTemplate(BaseModel):
    """A chat as the model reads it."""

    prompt: str


class PropsResource(Resource):
    """The properties of a model."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(query=PropsQuery, resp=replies(Props, 404, 422, 503))
    def get(self, query: PropsQuery) -> Any:
        """Describe the selected profile's model, or the one of the query; it is loaded where it is not.

        `model_path` is the file's name alone.
        """
        with self._answers.written(current_client(), AnswerRequest("", model=query.model or None)) as written:
            chosen, model = written.chosen, written.model
            profile, form = chosen.profile, model.chat_format
            params = profile.model_dump(include=_SAMPLING)
            template = written.form.template.format.template if isinstance(written.form, ChatForm) else form.template
            return {
                "default_generation_settings": {
                    "n_ctx": model.n_ctx,
                    "params": {**params, "n_predict": profile.max_tokens},
                },
                "total_slots": min(profile.n_parallel, self._answers.models.status().slots),
                "model_alias": chosen.name,
                "model_path": profile.model,
                "modalities": {"vision": False, "audio": False},
                "chat_template": template,
                "bos_token": form.bos,
                "eos_token": form.eos,
                "build_info": "hearth",
            }


class ApplyTemplateResource(Resource):
    """Chats as the model reads them."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=ChatRequest, resp=replies(AppliedTemplate, 400, 404, 413, 422, 503))
    def post(self, json: ChatRequest) -> Any:
        """Write the prompt of a chat, by the model's chat template, and answer nothing. The body is a chat's."""
        asked = chat_requests(json)[0]
        with self._answers.written(current_client(), asked) as written:
            talk = written.conversation
            prompt = written.form.fill(talk.exchanges[talk.start :], asked.prompt)
            return telling_ignored({"prompt": prompt.text}, json)
