"""An endpoint: one record of everything that the parts of the server need to know of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Final, Literal

from flask_restful import Resource
from pydantic import BaseModel

from auth.access import Access
from auth.audit import AuditLog
from services.answers.service import Answers
from services.api.application import Application
from services.api.http.computation import Compute
from services.api.http.errors import ErrorShape, usual_shape
from services.api.http.sse import MIMETYPE
from services.models.downloads import Pulls
from services.models.files import AvailableModels
from services.sessions.responses import ResponseTable

Arguments = tuple[Any, ...]
"""The arguments of a resource's constructor."""
OnceBy = Literal["Idempotency-Key", "job_id"]
Streams = Literal["never", "if asked", "always"]
IF_ASKED: Final = "if asked"
ALWAYS: Final = "always"
JOB_ID: Final = "job_id"


@dataclass(frozen=True)
class ComputeParts:
    """The parts of the server with which endpoints compute their replies."""

    answers: Answers
    files: AvailableModels
    pulls: Pulls
    audit: AuditLog
    responses: ResponseTable
    check_response: Callable[[str, int], None]
    """Raises NotPermitted where a key may not keep one more response of so many bytes."""


@dataclass(frozen=True)
class Computed:
    """A POST whose reply a plain function computes: the model of its body, and what makes the function."""

    body: type[BaseModel]
    function: Callable[[ComputeParts], Compute]


@dataclass(frozen=True)
class Tag:
    """A chapter of the API's document."""

    name: str
    description: str


@dataclass(frozen=True)
class Route(Access):
    """An endpoint. Its `needs` have no default: a route that does not say who may use it cannot be made."""

    name: str
    """Flask's name for the endpoint."""
    paths: tuple[str, ...]
    resource: type[Resource]
    tag: Tag | None
    """None: it is no part of the API, and not in its document."""
    arguments: Callable[[Application], Arguments] = lambda _: ()
    computed: Computed | None = None
    """The function that computes the reply to a POST, at once or as a job; None: the resource answers by itself."""
    once_by: OnceBy | None = None
    """The header or the body's field by which a POST is computed once, however often it is sent."""
    streams: Streams = "never"
    """Whether a POST's reply comes as events: never, where the body asks for it, or always."""
    stream_types: tuple[str, ...] = (MIMETYPE,)
    """The media types of such replies."""
    error_shape: ErrorShape = usual_shape
    """The shape of its errors."""
    while_draining: bool = False
    """Whether it still answers while the server stops."""
