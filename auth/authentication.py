"""Who is asking: the guard of every route, and the one for what only the master key may do."""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from typing import Any, cast

from flask import Flask, g, request

from auth.keys import Identity, KeyStore
from services.errors import NotAuthenticated, NotPermitted
from services.settings import read_settings

# Endpoints that anybody may ask. Every other route needs a key, one that is added later included.
PUBLIC = frozenset({"health"})


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


def guard(app: Flask, keys: KeyStore) -> None:
    """Make every route of `app` that is not public ask for a key, before anything of the request is read."""

    @app.before_request
    def authenticate() -> None:
        if request.endpoint not in PUBLIC:
            key = _given_key()
            identity = keys.check(key) if key else None
            if identity is None:
                what = "this key is not valid" if key else "a key is needed: send it as the header Authorization: KEY"
                raise NotAuthenticated(what, param="Authorization")
            g.identity = identity


def caller() -> Identity:
    """Who sent the request that is being served."""
    return cast(Identity, g.identity)


def master_only(view: Callable[..., Any]) -> Callable[..., Any]:
    """Guard a resource's method: a key that is not the master's gets NotPermitted."""

    @wraps(view)
    def guarded(*args: Any, **kwargs: Any) -> Any:
        if not caller().is_master:
            raise NotPermitted("only the master key may do this")
        return view(*args, **kwargs)

    return guarded


def _given_key() -> str:
    """The key of the request; "" where there is none.

    It stands in Authorization, alone, behind "Bearer " or as the password of "Basic " (which is how a client sends it whose
    only setting is a URL: http://hearth:KEY@…), or in X-Api-Key.
    """
    if request.authorization and request.authorization.type == "basic":
        return request.authorization.password or request.authorization.username or ""
    given = request.headers.get("Authorization", "").strip()
    scheme, _, rest = given.partition(" ")
    if scheme.lower() == "bearer":
        given = rest.strip()
    given = given or request.headers.get("X-Api-Key", "").strip()
    # WSGI hands headers over as latin-1; a typed key may hold any UTF-8.
    return given.encode("latin-1", "replace").decode("utf-8", "replace")
