"""/auth: is this key good, and the keys of other people."""

from __future__ import annotations

from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.authentication import caller, master_only
from auth.keys import KeyStore
from services.api.schemas import Deleted, replies, spec
from services.validation import Strict


class KeyGood(BaseModel):
    """The key is good."""

    auth: bool


class Caller(BaseModel):
    """Whose key it is, and what it may do."""

    id: str
    name: str | None
    scopes: list[str]


class NewKey(Strict):
    """The body of POST /auth/key."""

    name: Annotated[str, Field(min_length=1, max_length=200)] | None = None


class MintedKeyBody(BaseModel):
    """A new key, shown this once."""

    key: str
    id: str


class KeyEntry(BaseModel):
    """A key, as it is listed. `last_used` is right to the minute after a restart; None: never, so far as is known."""

    id: str
    name: str | None
    created: str | None
    last_used: str | None


class KeyList(BaseModel):
    """All keys."""

    keys: list[KeyEntry]


class AuthResource(Resource):
    """The caller's own key."""

    @spec.validate(resp=replies(KeyGood))
    def get(self) -> Any:
        """Say that the key is good; a wrong one gets 401."""
        return {"auth": True}


class CallerResource(Resource):
    """Whose key it is."""

    @spec.validate(resp=replies(Caller))
    def get(self) -> Any:
        """Say whose the caller's key is, and what it may do."""
        me = caller()
        return {"id": me.id, "name": me.name, "scopes": me.all_scopes()}


class KeysResource(Resource):
    """All keys; for the master key only."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    @master_only
    @spec.validate(json=NewKey, resp=replies(MintedKeyBody, 400, 403, 413, 500))
    def post(self, json: NewKey) -> Any:
        """Mint a key. It is shown in this reply and never again."""
        minted = self._keys.mint(json.name)
        return {"key": minted.key, "id": minted.id}

    @master_only
    @spec.validate(resp=replies(KeyList, 403))
    def get(self) -> Any:
        """List the keys' ids and names, and when each was last used."""
        return {"keys": self._keys.list()}


class KeyResource(Resource):
    """One key; for the master key only."""

    def __init__(self, keys: KeyStore) -> None:
        self._keys = keys

    @master_only
    @spec.validate(resp=replies(Deleted, 400, 403, 404, 500))
    def delete(self, id_: str) -> Any:
        """Revoke a key: it stops working at once."""
        self._keys.revoke(id_)
        return {"deleted": True}
