"""Who is asking: the guard of every route, and the one for what only the master key may do."""

from __future__ import annotations

import asyncio
import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

from flask import Flask, Request, g, request

from auth.guests import Guests, account_of, check_page, check_type
from auth.identity import Identity, Limits, Scope, Terms
from auth.keys import KeyStore
from auth.rate_limits import Meter
from services.bootstrap import open_keys
from services.errors import Forbidden, HearthError, NotAuthenticated, NotPermitted, Unavailable
from services.settings import read_settings
from services.storage.json_text import read_json_text

# Endpoints whose clients send the key in the body, as `token`.
KEY_IN_BODY = frozenset({"apihost"})
# Endpoints that anybody may ask. Every other route needs a key, one that is added later included.
PUBLIC = frozenset({"health", "healthz", "readyz", "openapi", "docs", "docs_file", "page", "page_file"})
# Endpoints that are the master key's alone, on purpose.
MASTERS = frozenset({"cluster"})
# What a key must be allowed, endpoint by endpoint; None: nothing in particular. One that is missing is the master's only.
SCOPE_OF: dict[str, Scope | None] = {
    **dict.fromkeys(("auth", "me", "status", "usage"), None),
    **dict.fromkeys(("answer", "session", "prompt", "stop", "sessions", "chat", "completions", "embeddings"), "answer"),
    **dict.fromkeys(("tokenize", "detokenize", "apihost", "langformers", "generate", "chat_job", "jobs", "job"), "answer"),
    **dict.fromkeys(("models", "openai_models", "openai_model"), "models:read"),
    **dict.fromkeys(("model", "unload"), "models:switch"),
    "pull": "models:pull",
    "metrics": "metrics",
    **dict.fromkeys(("keys", "key", "key_rotation"), "keys"),
}
# What is done with keys and models, by endpoint and method: each has a line in the audit log, and a limit.
ACTIONS = {
    ("keys", "POST"): "mint",
    ("key", "PATCH"): "change",
    ("key", "DELETE"): "revoke",
    ("key_rotation", "POST"): "rotate",
    ("model", "POST"): "switch",
    ("unload", "POST"): "unload",
    ("pull", "POST"): "pull",
}


def generate_api_key(name: str | None = None) -> str:
    """Mint a key from a Python prompt: `from auth.authentication import generate_api_key; generate_api_key("Ana")`.

    Its hash is stored in data/api_keys.json (or in the folder that HEARTH_DATA names, or in the cluster's Redis), so it
    works at once, with a running server too. Where there is no master key yet, the new key becomes it. Returns the key,
    which is not shown again.
    Raises DamagedFile or StorageFailed.
    """
    import os

    settings = read_settings({}, os.environ)
    store = open_keys(settings, os.environ)
    return (store.mint_master() or store.mint(Terms(name=name))).key


@dataclass(frozen=True)
class Gate:
    """Who may use an endpoint without a key of this server: whoever `check` does not raise for, given the request."""

    check: Callable[[Request], Any] | None = None
    scopes: frozenset[str] = frozenset()
    """What they may do there beside what every key may."""
    limits: Limits = field(default=Limits())
    """How much each of them may ask for."""

    def ask(self) -> None:
        """Raise what `check` raises, as one of our errors."""
        if self.check:
            try:
                _run_check(self.check(request))
            except HearthError:
                raise
            except Exception as error:
                raise _refusal(error) from error

    def let_in(self, key: str, guests: Guests) -> Identity:
        """A guest, known by its address and the key that it sent. Raises RateLimitExceeded as `Guests.let_in` does."""
        # Only what has been checked is worth an account of its own: anybody can invent keys.
        who = f"key:{key}" if key and self.check else account_of(request.remote_addr)
        return guests.let_in(who, key, self.scopes, self.limits)


def _run_check(allowed: Any) -> None:
    """Run what a check has returned, where that is not its end: a coroutine, or a generator up to what it yields."""
    if inspect.isgenerator(allowed):
        next(allowed, None)
        allowed.close()
    elif inspect.isasyncgen(allowed) or inspect.isawaitable(allowed):
        asyncio.run(_awaited(allowed))


def _refusal(error: Exception) -> HearthError:
    """What a check raises, as our own error: Flask's and FastAPI's have a status and words."""
    status = getattr(error, "status_code", None) or getattr(error, "code", None)
    words = getattr(error, "detail", None) or getattr(error, "description", None) or error
    if isinstance(status, int) and 400 <= status < 600 and status != 401:
        return Forbidden(str(words), status)
    return NotAuthenticated(str(words) or "refused")


def guard(
    app: Flask, keys: KeyStore, meter: Meter, gates: Mapping[str, Gate] | None = None, origins: Sequence[str] = ()
) -> None:
    """Make every route of `app` that is not public ask for a key, before anything of the request is done.

    `gates` say who gets into some of the endpoints without one, as one of the guests of `meter`, which counts what is done
    with keys and models; pages of `origins` may ask from a browser.
    """

    @app.before_request
    def authenticate() -> None:
        if request.endpoint in PUBLIC or (origins and _is_preflight()):
            return
        identity = _identify(keys, meter.guests, (gates or {}).get(request.endpoint or ""), origins)
        if not identity.is_guest:
            keys.note_use(identity.id)
        g.identity = identity
        check_scope(identity)
        if action := ACTIONS.get((request.endpoint or "", request.method)):
            meter.charge_action(identity, action)


def _identify(keys: KeyStore, guests: Guests, gate: Gate | None, origins: Sequence[str]) -> Identity:
    """Who is asking: whose key it is, else the guest whom `gate` lets in.

    Raises as these do, NotAuthenticated, Forbidden.
    """
    key = _given_key()
    identity = keys.known(key) if key else None
    if identity is None and (key or gate):
        # Before its key is looked at any closer: what a page of elsewhere sends is not its visitor's.
        told = request.headers
        check_page(told.get("Origin"), told.get("Sec-Fetch-Site"), told.get("Host", ""), origins)
    if gate:
        if identity is None:
            check_type(request.mimetype, bool(request.content_length))
        gate.ask()
    if identity is None and key:
        identity = _proven(keys, key, bool(gate))
    if identity is None and gate:
        identity = gate.let_in(key, guests)
    if identity is None:
        what = "this key is not valid" if key else "a key is needed: send it as the header Authorization: KEY"
        raise NotAuthenticated(what, param="Authorization")
    return identity


def _proven(keys: KeyStore, key: str, is_gated: bool) -> Identity | None:
    """Whose key it is. Raises as `KeyStore.check` does, but where a gate lets in whoever has none."""
    try:
        return keys.check(key, request.remote_addr)
    except Unavailable as error:
        # Others' keys are unknown here, and too many of them are no reason to refuse a guest.
        if is_gated and error.param == "Authorization":
            return None
        raise


def caller() -> Identity:
    """Who sent the request that is being served."""
    return cast(Identity, g.identity)


def caller_or_none() -> Identity | None:
    """The same; None where nobody has been let in."""
    return cast("Identity | None", g.get("identity"))


def check_scope(identity: Identity) -> None:
    """Raises NotPermitted where this key may not use the endpoint that is asked for. What is nowhere gets its 404."""
    if request.endpoint is None or identity.is_master:
        return
    if request.endpoint not in SCOPE_OF:
        raise NotPermitted("only the master key may do this")
    scope = SCOPE_OF[request.endpoint]
    if scope and not identity.may(scope):
        raise NotPermitted(f"this key may not do this: it needs the scope {scope}", code="scope_missing")


def _is_preflight() -> bool:
    """Whether a browser asks what it may ask: it cannot send a key with that, and learns what is the same for everybody."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


async def _awaited(value: Any) -> None:
    if inspect.isasyncgen(value):
        async for _ in value:
            break
        await value.aclose()
    else:
        await value


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
        # What cannot be read is refused where it is used, if its sender may come in at all.
        body = read_json_text(request.get_data().decode("utf-8", "replace"))
        token = body.get("token") if isinstance(body, dict) else None
        return token if isinstance(token, str) else ""
    # WSGI hands headers over as latin-1; a typed key may hold any UTF-8.
    return given.encode("latin-1", "replace").decode("utf-8", "replace")
