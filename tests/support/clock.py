"""A clock that a test moves on, instead of the server's own."""

from __future__ import annotations

import sys
from datetime import datetime, timedelta, tzinfo

import pytest


class Clock:
    """The machine's clock and some seconds more, for all modules of the server that tell the time by `datetime`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._ahead = timedelta()
        clock = self

        class Datetime(datetime):
            @classmethod
            def now(cls, tz: tzinfo | None = None) -> datetime:  # type: ignore[override]
                return datetime.now(tz) + clock._ahead

        for name, module in list(sys.modules.items()):
            if name.startswith(("auth.", "services.")) and getattr(module, "datetime", None) is datetime:
                monkeypatch.setattr(module, "datetime", Datetime)

    def forward(self, seconds: float) -> None:
        """Move the clock on."""
        self._ahead += timedelta(seconds=seconds)
