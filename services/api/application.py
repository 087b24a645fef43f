"""Everything that a server consists of: the values from which the routes are served."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from auth.audit import AuditLog
from auth.external import Gate
from services.answers.document_vectors import DocumentVectors
from services.answers.service import Answers
from services.api.http.draining import Draining
from services.api.http.hosts import Hosts
from services.api.http.idempotency import Respond
from services.api.metrics import Metrics
from services.backend.protocols import Backend
from services.documents.follower import Follower
from services.documents.uploads import Uploads
from services.jobs.jobs import Jobs
from services.models.downloads import Pulls
from services.settings import Settings
from services.stores import Stores


@dataclass(frozen=True)
class Application:
    """One server's parts, each made once. Any thread may use them."""

    settings: Settings
    stores: Stores
    backend: Backend
    answers: Answers
    jobs: Jobs
    responds: Mapping[str, Respond]
    """By the name of each endpoint that can be computed later, the function by which its resource replies."""
    pulls: Pulls
    uploads: Uploads | None
    document_vectors: DocumentVectors | None
    follower: Follower | None
    """Follows folders, once it is started; None where no files are kept."""
    hosts: Hosts
    draining: Draining
    metrics: Metrics
    audit: AuditLog
    gates: Mapping[str, Gate]
    """By the name of the endpoint that each lets guests into."""
    overview: Callable[[], dict[str, Any]] | None
    """Describes the cluster that the server is a node of; None: it is in none."""
    free_memory: Callable[[], int]
    """Returns how many bytes of the machine's memory are free."""

    @property
    def closers(self) -> tuple[Callable[[], None], ...]:
        """The calls that close its parts, the engine before the stores, so that streams end with an error event."""
        stores = self.stores
        return (
            *([self.follower.close] if self.follower else []),
            self.jobs.close,
            *([self.document_vectors.close] if self.document_vectors else []),
            self.backend.close,
            stores.sessions.close,
            stores.keys.close,
            self.jobs.release,
            stores.responses.close,
            *([stores.documents.close] if stores.documents else []),
            stores.usage.close,
        )
