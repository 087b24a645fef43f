"""/tokenize and /detokenize: texts to token ids and back, and so the counts of them."""

from __future__ import annotations

from typing import Any

from flask_restful import Resource

from auth.authentication import caller
from services.answers import Answers
from services.api.openai_replies import Text, Tokens
from services.api.openai_schemas import DetokenizeRequest, TokenizeRequest
from services.api.schemas import replies, spec
from services.backend import Prompt
from services.errors import InvalidRequest
from services.prompts.chat_template import chat_template


class TokenizeResource(Resource):
    """Texts to token ids."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=TokenizeRequest, resp=replies(Tokens, 400, 404, 413, 422, 503))
    def post(self, json: TokenizeRequest) -> Any:
        """Give the token ids of `content`, as plain text, or of `messages` as the model's chat template writes them."""
        if (json.content is None) == (json.messages is None):
            raise InvalidRequest("content: give either content or messages", param="content")
        with self._answers.lease(caller().id, json.model) as model:
            if json.messages is not None:
                prompt = chat_template(model.chat_format).render([message.plain() for message in json.messages])
            else:
                prompt = Prompt(json.content or "", ((0, len(json.content or "")),), bos=False)
            tokens = model.tokenize(prompt)
        return {"tokens": tokens, "count": len(tokens)}


class DetokenizeResource(Resource):
    """Token ids to text."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=DetokenizeRequest, resp=replies(Text, 400, 404, 413, 422, 503))
    def post(self, json: DetokenizeRequest) -> Any:
        """Give the text of `tokens`."""
        with self._answers.lease(caller().id, json.model) as model:
            return {"content": model.detokenize(json.tokens)}
