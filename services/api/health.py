"""/health: whether an answer can be had. Public."""

from __future__ import annotations

from typing import Any

from flask_restful import Resource

from services.answers import Answers
from services.api.schemas import HealthBody, replies, spec


class HealthResource(Resource):
    """The server's state."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(resp=replies(HealthBody))
    def get(self) -> Any:
        """Say ready, loading or down; always with status 200, since the server itself is there."""
        return {"status": self._answers.health()}
