"""/auth: the check of a key, and the keys of other people."""

from __future__ import annotations

from typing import Annotated, Any

from flask import g
from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.authentication import caller
from auth.identity import GRACE, Duration, Limits, Terms
from auth.keys import KeyStore
from services.api.http.schemas import Deleted, replies, spec
from services.validation import Strict


class KeyGood(BaseModel):
    """The key is good."""

    auth: bool


class Caller(BaseModel):
    """A key's owner and permissions, which are no more than those of the keys by which it was minted.

    `profiles` null: every one.
    """

    id: str
    name: str | None
    scopes: list[str]
    profiles: list[str] | None
    limits: Limits
    expires: str | None


class KeyEntry(BaseModel):
    """A key in a list. `last_used` is right to the minute after a restart; null: never, so far as is known."""

    id: str
    name: str | None
    created: str | None
    last_used: str | None
    expires: str | None
    scopes: list[str]
    profiles: list[str] | None
    limits: Limits
    minted_by: str | None


class MintedKeyBody(KeyEntry):
    """A new key, shown this once."""

    key: str


class RotatedKey(BaseModel):
    """A key's new form, shown this once, and when the old one ends."""

    key: str
    id: str
    old_key_until: str


class Rotation(Strict):
    """The body of POST /auth/key/ID/rotate: how long the old form goes on working, like 1d, 12h or 0s."""

    grace: Annotated[Duration, Field(max_length=20)] = GRACE


class KeyList(BaseModel):
    """The keys that the caller may manage."""

    keys: list[KeyEntry]


class AuthResource(Resource):
    """The caller's own key."""

    @spec.validate(resp=replies(KeyGood))
    def get(self) -> Any:
        """Say that the key is good; a wrong one gets 401."""
        return {"auth": True}


class CallerResource(Resource):
    """The caller."""

    @spec.validate(resp=replies(Caller))
    def get(self) -> Any:
        """Say whose the caller's key is, and what it may do."""
        me = caller()
        terms = {
            "profiles": None if me.profiles is None else list(me.profiles),
            "limits": me.limits.given(),
            "expires": me.expires,
        }
        return {"id": me.id, "name": me.name, "scopes": me.all_scopes(), **terms}


class KeysResource(Resource):
    """Keys, for those with the scope "keys": the master's sees all, another those that it has minted."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    @spec.validate(json=Terms, resp=replies(MintedKeyBody, 400, 403, 413, 500))
    def post(self, json: Terms) -> Any:
        """Mint a key. It is shown in this reply and never again.

        `expires` is a time (ISO 8601) or how long from now (30d). Without `scopes` it may answer and read;
        with `profiles` it may use only these; `limits` counts tokens of prompts and answers together. A key cannot give
        more than it has, and may do no more than those by which it was minted, whatever becomes of them.
        """
        minted = self._keys.mint(json, caller())
        g.audited = {"of": minted.id, "name": json.name, "scopes": json.scopes}
        return {"key": minted.key, **self._keys.describe(minted.id)}

    @spec.validate(resp=replies(KeyList, 403))
    def get(self) -> Any:
        """List the keys: what each may do, and when it was last used."""
        return {"keys": self._keys.list(caller())}


class KeyResource(Resource):
    """One key."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    @spec.validate(json=Terms, resp=replies(KeyEntry, 400, 403, 404, 413, 500))
    def patch(self, json: Terms, id_: str) -> Any:
        """Change what a key may do: the fields that are sent. null takes one away; of the limits, too."""
        self._keys.change(id_, json, caller())
        g.audited = {"of": id_, "fields": sorted(json.model_fields_set)}
        return self._keys.describe(id_)

    @spec.validate(resp=replies(Deleted, 400, 403, 404, 500))
    def delete(self, id_: str) -> Any:
        """Revoke a key, and those that it minted: they stop working at once, and their answers under way end."""
        self._keys.revoke(id_, caller())
        g.audited = {"of": id_}
        return {"deleted": True}


class KeyRotationResource(Resource):
    """A key's new form."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    @spec.validate(json=Rotation, resp=replies(RotatedKey, 400, 403, 404, 413, 500))
    def post(self, json: Rotation, id_: str) -> Any:
        """Give a key a new form, with the same id, sessions and limits. The old one goes on working for `grace`."""
        minted, until = self._keys.rotate(id_, json.grace, caller())
        g.audited = {"of": id_, "old_key_until": until}
        return {"key": minted.key, "id": minted.id, "old_key_until": until}
