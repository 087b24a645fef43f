"""/tokenize and /detokenize: texts to token ids and back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from flask_restful import Resource

from services.answers.admission import Poll
from services.answers.request import AnswerRequest
from services.answers.service import Answers
from services.api.http.client import current_client
from services.api.http.schemas import replies, spec
from services.api.openai.replies import Text, Tokens
from services.api.openai.schemas import prompts_of
from services.api.openai.tool_fields import own_functions
from services.api.token_schemas import DetokenizeRequest, TokenizeRequest
from services.backend.protocols import Model
from services.backend.types import Prompt
from services.errors import InvalidRequest
from services.prompts.chat import words_of

_LETTERS_PER_TOKEN = 4


class TokenizeResource(Resource):
    """Texts to token ids."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=TokenizeRequest, resp=replies(Tokens, 400, 404, 413, 422, 503))
    def post(self, json: TokenizeRequest) -> Any:
        """Give the token ids of `content`, or of `messages` as the model's chat template writes them.

        `parse_special` false takes the text of special tokens for plain text; `with_pieces` gives each token's text too.
        """
        if (json.content is None) == (not json.messages):
            raise InvalidRequest("content: give either content or messages", param="content")
        if json.messages:
            messages = tuple(message.plain() for message in json.messages)
            functions = own_functions(json.tools)
            tools = tuple({"type": "function", "function": each.model_dump(exclude_none=True)} for each in functions)
            words = words_of(messages)
            request = AnswerRequest(words, memory_k=0, model=json.model, messages=messages, tools=tools)
            with self._answers.written(current_client(), request) as written:
                prompt = written.form.fill((), words)
                written.pause()
                return _described(written.model, prompt, json, written.pause)
        (prompt,) = prompts_of(json.content, json.parse_special is not False)
        with self._answers.lease(current_client(), json.model, len(prompt.text)) as (model, pause):
            return _described(model, replace(prompt, bos=bool(json.add_special)), json, pause)


def _described(model: Model, prompt: Prompt, body: TokenizeRequest, pause: Poll) -> dict[str, Any]:
    tokens: list[Any] = model.tokenize(prompt)
    if body.with_pieces:
        pause()
        tokens = [{"id": token, "piece": _told(piece)} for token, piece in zip(tokens, model.pieces(tokens), strict=True)]
    return {"tokens": tokens, "count": len(tokens)}


def _told(piece: bytes) -> str | list[int]:
    try:
        return piece.decode()
    except UnicodeDecodeError:
        return list(piece)


class DetokenizeResource(Resource):
    """Token ids to text."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=DetokenizeRequest, resp=replies(Text, 400, 404, 413, 422, 503))
    def post(self, json: DetokenizeRequest) -> Any:
        """Give the text of `tokens`."""
        # Each token is looked up for itself, which takes longer than a letter of a text does.
        size = _LETTERS_PER_TOKEN * len(json.tokens)
        with self._answers.lease(current_client(), json.model, size) as (model, _):
            return {"content": b"".join(model.pieces(json.tokens)).decode("utf-8", "replace")}
