"""Who is asking: the guard of every route, and the one for what only the master key may do."""

from __future__ import annotations

import asyncio
import hashlib
import inspect
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from functools import wraps
from typing import Any, cast

from flask import Flask, Request, abort, g, request
from werkzeug.exceptions import HTTPException

from auth.keys import Identity, KeyStore
from services.errors import HearthError, NotAuthenticated, NotPermitted
from services.settings import read_settings

# Endpoints whose clients send the key in the body, as `token`.
KEY_IN_BODY = frozenset({"apihost"})
# Endpoints that anybody may ask. Every other route needs a key, one that is added later included.
PUBLIC = frozenset({"health", "openapi", "docs", "docs_file"})


def generate_api_key(name: str | None = None) -> str:
    """Mint a key from a Python prompt: `from auth.authentication import generate_api_key; generate_api_key("Ana")`.

    Its hash is stored in data/api_keys.json (or in the folder that HEARTH_DATA names), so it works at once, with a running
    server too. Where there is no master key yet, the new key becomes it. Returns the key, which is not shown again.
    Raises DamagedFile or StorageFailed.
    """
    import os

    settings = read_settings({}, os.environ)
    settings.data.mkdir(parents=True, exist_ok=True)
    store = KeyStore(settings.data / "api_keys.json")
    return (store.mint_master() or store.mint(name)).key


@dataclass(frozen=True)
class Gate:
    """Who may use an endpoint without a key of this server: whoever `check` does not raise for, given the request."""

    check: Callable[[Request], Any] | None = None
    scopes: frozenset[str] = frozenset()
    """What they may do there; see `Identity`."""

    def let_in(self, key: str) -> Identity:
        """A guest, known by the key that it sent, or by its address. Raises what `check` raises, as one of our errors."""
        if self.check:
            try:
                allowed = self.check(request)
                if inspect.isawaitable(allowed):
                    asyncio.run(_awaited(allowed))
            except (HearthError, HTTPException):
                raise
            except Exception as error:
                # FastAPI's errors, which its users know, have a status and a detail.
                status, detail = getattr(error, "status_code", None), getattr(error, "detail", None)
                if isinstance(status, int) and 400 <= status < 600:
                    abort(status, str(detail or error))
                raise NotAuthenticated(str(error) or "refused") from error
        mark = hashlib.sha256((key or request.remote_addr or "").encode()).hexdigest()[:16]
        return Identity(f"guest-{mark}", None, self.scopes, is_guest=True)


def guard(app: Flask, keys: KeyStore, gates: Mapping[str, Gate] | None = None) -> None:
    """Make every route of `app` that is not public ask for a key, before anything of the request is done.

    `gates` say who gets into some of the endpoints without one.
    """

    @app.before_request
    def authenticate() -> None:
        if request.endpoint in PUBLIC:
            return
        key = _given_key()
        gate = (gates or {}).get(request.endpoint or "")
        guest = gate.let_in(key) if gate else None
        identity = (keys.check(key) if key else None) or guest
        if identity is None:
            what = "this key is not valid" if key else "a key is needed: send it as the header Authorization: KEY"
            raise NotAuthenticated(what, param="Authorization")
        g.identity = identity


def caller() -> Identity:
    """Who sent the request that is being served."""
    return cast(Identity, g.identity)


def needs(scope: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Guard a resource's method: a key that may not do what `scope` names gets NotPermitted."""

    def guarding(view: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(view)
        def guarded(*args: Any, **kwargs: Any) -> Any:
            if not caller().may(scope):
                raise NotPermitted(f"this key may not do this: it needs the scope {scope}")
            return view(*args, **kwargs)

        return guarded

    return guarding


def master_only(view: Callable[..., Any]) -> Callable[..., Any]:
    """Guard a resource's method: a key that is not the master's gets NotPermitted."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not caller().is_master:
            raise NotPermitted("only the master key may do this")
        return view(*args, **kwargs)

    return guarded


async def _awaited(value: Awaitable[Any]) -> Any:
    return await value


def _given_key() -> str:
    """The key of the request; "" where there is none.

    It stands in Authorization, alone, behind "Bearer " or as the password of "Basic " (which is how a client sends it whose
    only setting is a URL: http://hearth:KEY@…), in X-Api-Key, or for some endpoints in the body.
    """
    if request.authorization and request.authorization.type == "basic":
        return request.authorization.password or request.authorization.username or ""
    given = request.headers.get("Authorization", "").strip()
    scheme, _, rest = given.partition(" ")
    if scheme.lower() == "bearer":
        given = rest.strip()
    given = given or request.headers.get("X-Api-Key", "").strip()
    if not given and request.endpoint in KEY_IN_BODY:
        body = request.get_json(force=True, silent=True)
        token = body.get("token") if isinstance(body, dict) else None
        return token if isinstance(token, str) else ""
    # WSGI hands headers over as latin-1; a typed key may hold any UTF-8.
    return given.encode("latin-1", "replace").decode("utf-8", "replace")
