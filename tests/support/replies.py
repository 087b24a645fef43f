"""Replies from their events."""

from __future__ import annotations

from collections.abc import Iterable

from services.replies.events import Event, Reply, ReplyBuilder


def reply_of(events: Iterable[Event]) -> Reply:
    """The reply that events add up to."""
    builder = ReplyBuilder()
    for event in events:
        builder.add(event)
    return builder.reply()
