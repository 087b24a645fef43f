"""/auth: is this key good, and the keys of other people."""

from __future__ import annotations

from typing import Any

from flask_restful import Resource

from auth.authentication import master_only
from auth.keys import KeyStore
from services.api.schemas import Deleted, KeyGood, KeyList, MintedKeyBody, NewKey, replies, spec


class AuthResource(Resource):
    """The caller's own key."""

    @spec.validate(resp=replies(KeyGood))
    def get(self) -> Any:
        """Say that the key is good; a wrong one gets 401."""
        return {"auth": True}


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
        """List the keys' ids and names."""
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
