"""The guard of every route: it identifies the sender of a request, and checks that their key may use the endpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import cast

from flask import Flask, g, request

from auth.access import ANY_KEY, MASTER_KEY, PUBLIC, Access, access_of
from auth.external import Gate
from auth.guests import check_page, check_type
from auth.identity import Identity, Terms
from auth.keys import KeyStore
from auth.rate_limits import Meter
from services.errors import NotAuthenticated, NotPermitted, Unavailable
from services.keyless import KEYLESS
from services.storage.json_text import read_json_text

# What may be done by the second address: keys and models are changed with a key.
_WITHOUT_KEY = ("answer", "models:read")


def generate_api_key(name: str | None = None) -> str:
    """Mint a key from a Python prompt: `from auth.authentication import generate_api_key; generate_api_key("Ana")`.

    Its hash is stored in data/api_keys.json (or in the folder that HEARTH_DATA names, or in the cluster's Redis), so it
    works at once, with a running server too. Where there is no master key yet, the new key becomes it. Returns the key,
    which is not shown again.
    Raises DamagedFile or StorageFailed.
    """
    import os

    from services.bootstrap import open_keys
    from services.settings import read_settings

    store = open_keys(read_settings({}, os.environ), os.environ)
    return (store.mint_master() or store.mint(Terms(name=name))).key


def guard(
    app: Flask,
    keys: KeyStore,
    meter: Meter,
    access: Mapping[str, Access],
    gates: Mapping[str, Gate],
    origins: Sequence[str] = (),
) -> None:
    """Make every route of `app` that is not public ask for a key, before anything of the request is done.

    `access` and `gates` are by the endpoint's name. A gate lets requests in without a key, as guests of `meter`, which also
    limits audited actions. Browsers may send requests for pages of `origins`.
    """
    authenticator = _Authenticator(keys, meter, origins)

    @app.before_request
    def authenticate() -> None:
        declared = access_of(request.endpoint, access)
        if declared.needs == PUBLIC or (origins and _is_preflight()):
            return
        if KEYLESS in request.environ:
            identity = authenticator.identify_keyless(declared.needs)
        else:
            identity = authenticator.identify(declared.key_in_body, gates.get(request.endpoint or ""))
        if not identity.is_guest:
            keys.note_use(identity.id)
        g.identity = identity
        check_scope(identity, declared)
        if action := declared.audited.get(request.method):
            meter.charge_action(identity, action)


def caller() -> Identity:
    """Return the sender of the request that is being served."""
    return cast(Identity, g.identity)


def caller_or_none() -> Identity | None:
    """Return the sender of the request that is being served; None before the guard has let it in."""
    return cast("Identity | None", g.get("identity"))


def is_of_master() -> bool:
    """Return whether the request that is being served was sent with the master key."""
    return "identity" in g and caller().is_master


def check_scope(identity: Identity, access: Access) -> None:
    """Raise NotPermitted where this key may not use an endpoint of this access."""
    if identity.is_master or access.needs in (PUBLIC, ANY_KEY):
        return
    if access.needs == MASTER_KEY:
        raise NotPermitted("only the master key may do this")
    if not identity.may(access.needs):
        raise NotPermitted(f"this key may not do this: it needs the scope {access.needs}", code="scope_missing")


@dataclass(frozen=True)
class _Authenticator:
    """Identifies the sender of the request that is being served."""

    keys: KeyStore
    meter: Meter
    origins: Sequence[str]

    def identify(self, key_in_body: bool, gate: Gate | None) -> Identity:
        """Return the identity of the request's key, else the guest whom `gate` lets in.

        Raises NotAuthenticated, Forbidden, or as `KeyStore.check` and `Gate.let_in` do.
        """
        key = _sent_key(key_in_body)
        identity = self.keys.known(key) if key else None
        if identity is None and (key or gate):
            # Before its key is looked at any closer: what a page of elsewhere sends is not its visitor's.
            self._check_page()
        if gate:
            if identity is None:
                check_type(request.mimetype, bool(request.content_length))
            gate.ask(request)
        if identity is None and key:
            identity = self._checked(key, bool(gate))
        if identity is None and gate:
            identity = gate.let_in(key, request.remote_addr, self.meter.guests)
        if identity is None:
            what = "this key is not valid" if key else "a key is needed: send it as the header Authorization: KEY"
            raise NotAuthenticated(what, param="Authorization")
        return identity

    def identify_keyless(self, needs: str) -> Identity:
        """Return the identity of a request by the second address, which counts as one key's whatever key it sends.

        `needs` is what the endpoint asks for. Raises Forbidden for a web page of another origin, NotPermitted where a key
        has to be sent, and NotAuthenticated where the key is no more.
        """
        self._check_page()
        check_type(request.mimetype, bool(request.content_length))
        identity = self.keys.identity(request.environ[KEYLESS])
        if identity is None:
            raise NotAuthenticated(
                "the key of this address is no longer valid. Ask whoever runs the server", param="Authorization"
            )
        if needs not in _WITHOUT_KEY:
            raise NotPermitted("this cannot be done without a key: send it to the server's own address", code="key_needed")
        return identity

    def _check_page(self) -> None:
        headers = request.headers
        check_page(headers.get("Origin"), headers.get("Sec-Fetch-Site"), headers.get("Host", ""), self.origins)

    def _checked(self, key: str, is_gated: bool) -> Identity | None:
        """Return whose key it is. Raises as `KeyStore.check` does, except where a gate lets in requests without a key."""
        try:
            return self.keys.check(key, request.remote_addr)
        except Unavailable as error:
            # Others' keys are unknown here, and too many of them are no reason to refuse a guest.
            if is_gated and error.param == "Authorization":
                return None
            raise


def _is_preflight() -> bool:
    """Return whether it is a browser's CORS preflight, which cannot carry a key and has the same reply for everybody."""
    return request.method == "OPTIONS" and "Access-Control-Request-Method" in request.headers


def _sent_key(key_in_body: bool) -> str:
    """Return the request's key; "" if there is none.

    It stands in Authorization, alone, behind "Bearer " or as the password of "Basic " (which is how a client sends it whose
    only setting is a URL: http://hearth:KEY@…), in X-Api-Key, or for some endpoints in the body.
    """
    if request.authorization and request.authorization.type == "basic":
        return request.authorization.password or request.authorization.username or ""
    sent = request.headers.get("Authorization", "").strip()
    scheme, _, rest = sent.partition(" ")
    if scheme.lower() == "bearer":
        sent = rest.strip()
    sent = sent or request.headers.get("X-Api-Key", "").strip()
    if not sent and key_in_body:
        # A body that cannot be read is refused where it is used, if its sender may come in at all.
        body = read_json_text(request.get_data().decode("utf-8", "replace"))
        token = body.get("token") if isinstance(body, dict) else None
        return token if isinstance(token, str) else ""
    # WSGI hands headers over as latin-1; a typed key may hold any UTF-8.
    return sent.encode("latin-1", "replace").decode("utf-8", "replace")
