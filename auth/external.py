"""A foreign dependency instead of a key: a callable of the server's owner decides who may use an endpoint."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from auth.guests import Guests, account_of
from auth.identity import Identity, Limits
from services.errors import Forbidden, HearthError, NotAuthenticated


@dataclass(frozen=True)
class Gate:
    """Access to an endpoint without a key of this server: every request for which `check` does not raise is let in."""

    check: Callable[[Any], Any] | None = None
    """Takes the request (Flask's); may be a coroutine function, or a generator that yields once."""
    scopes: frozenset[str] = frozenset()
    """The scopes of a guest, beside those of every key."""
    limits: Limits = field(default=Limits())
    """The limits of each guest."""

    def ask(self, request: object) -> None:
        """Run `check`. Raises what it raises, as NotAuthenticated or Forbidden, and HearthError as it is."""
        if self.check:
            try:
                _run_check(self.check(request))
            except HearthError:
                raise
            except Exception as error:
                raise _refusal(error) from error

    def let_in(self, key: str, address: str | None, guests: Guests) -> Identity:
        """Return a guest, known by its address and its key. Raises RateLimitExceeded as `Guests.let_in` does."""
        # Only what has been checked is worth an account of its own: anybody can invent keys.
        who = f"key:{key}" if key and self.check else account_of(address)
        return guests.let_in(who, key, self.scopes, self.limits)


def _run_check(result: Any) -> None:
    """Finish a check that has returned a coroutine, or a generator, which is run up to its yield."""
    if inspect.isgenerator(result):
        next(result, None)
        result.close()
    elif inspect.isasyncgen(result) or inspect.isawaitable(result):
        asyncio.run(_awaited(result))


async def _awaited(value: Any) -> None:
    if inspect.isasyncgen(value):
        async for _ in value:
            break
        await value.aclose()
    else:
        await value


def _refusal(error: Exception) -> HearthError:
    """Return a check's exception as our own error: Flask's and FastAPI's have a status and a message."""
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    message = getattr(error, "detail", None) or getattr(error, "description", None) or error
    if isinstance(status, int) and 400 <= status < 600 and status != 401:
        return Forbidden(str(message), status)
    return NotAuthenticated(str(message) or "refused")
