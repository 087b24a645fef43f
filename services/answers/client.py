"""The client of a request: its key's identity, and how it waits for what it asks for."""

from __future__ import annotations

from dataclasses import dataclass

from auth.identity import Identity
from services.answers.admission import Poll, Slot
from services.sessions.table import RequestName


@dataclass(frozen=True)
class Client:
    """The sender of one request. Owned by the thread that serves the request."""

    identity: Identity
    poll: Poll
    """Called at least every quarter of a second while the client waits; raises to give up, as where it has disconnected."""
    slot: Slot | None = None
    """The slot that the request holds already; None: it has to be admitted first."""
    background: bool = False
    """Whether nobody waits for the reply, so that other requests go first."""
    request_name: RequestName | None = None
    """The name by which the request is computed once; None: it has none."""
