"""The endpoints that can be computed later, by the name of their route."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import partial

from pydantic import BaseModel

from auth.audit import AuditLog
from services.answers.service import Answers
from services.api.answer import compute_answer
from services.api.compat import protollm
from services.api.compat.apihost import ApiHost, HostBody
from services.api.compat.langformers import GenerateBody, compute_langformers
from services.api.http.computation import Computation, Compute
from services.api.http.schemas import AnswerBody
from services.api.openai.embeddings import compute_embeddings
from services.api.openai.resources import compute_chat, compute_completion
from services.api.openai.schemas import ChatRequest, CompletionRequest, EmbeddingsRequest
from services.api.route import Route
from services.models.downloads import Pulls
from services.models.files import AvailableModels


def computations(
    routes: Iterable[Route], answers: Answers, files: AvailableModels, pulls: Pulls, audit: AuditLog
) -> Mapping[str, Computation]:
    """Return the computations of those `routes` that have one."""
    functions: dict[str, tuple[type[BaseModel], Compute]] = {
        "answer": (AnswerBody, partial(compute_answer, answers)),
        "chat": (ChatRequest, partial(compute_chat, answers)),
        "completions": (CompletionRequest, partial(compute_completion, answers)),
        "embeddings": (EmbeddingsRequest, partial(compute_embeddings, answers)),
        "apihost": (HostBody, ApiHost(answers, files, pulls, audit).compute),
        "langformers": (GenerateBody, partial(compute_langformers, answers)),
        "generate": (protollm.PromptBody, partial(protollm.compute_prompt, answers)),
        "chat_job": (protollm.ChatBody, partial(protollm.compute_chat, answers)),
    }
    return {
        route.name: Computation(route.paths[0], route, *functions[route.name])
        for route in routes
        if route.name in functions
    }
