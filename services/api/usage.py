"""/auth/usage: who used how much."""

from __future__ import annotations

import re
from typing import Any

from flask import Response, request
from flask_restful import Resource
from pydantic import BaseModel

from auth.authentication import caller
from auth.keys import KeyStore
from auth.usage import UsageTable, as_csv, entries
from services.api.http.schemas import replies, spec
from services.errors import InvalidRequest

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class UsageEntry(BaseModel):
    """What a key used on a day (UTC). `cached_tokens` are those of the prompts that were computed already."""

    key: str
    name: str | None
    day: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cpu_seconds: float


class UsageList(BaseModel):
    """What was used, the earliest day first."""

    usage: list[UsageEntry]


class UsageResource(Resource):
    """What was used."""

    def __init__(self, usage: UsageTable, keys: KeyStore) -> None:
        self._usage = usage
        self._keys = keys

    @spec.validate(resp=replies(UsageList, 400, 500))
    def get(self) -> Any:
        """Tell what the caller's key has used, day by day; the master key sees everybody's.

        ?from=2026-11-01&to=2026-11-30 names days (UTC), ?key=ID one key. With ?format=csv, or `Accept: text/csv`, the reply
        is a table.
        """
        me = caller()
        key = request.args.get("key") if me.is_master else me.id
        rows = entries(self._usage.rows(key, _day("from", "0000-00-00"), _day("to", "9999-99-99")), self._keys.names())
        wanted = request.args.get("format") or request.accept_mimetypes.best_match(["application/json", "text/csv"])
        if wanted in ("csv", "text/csv"):
            return Response(as_csv(rows), mimetype="text/csv")
        if wanted not in ("json", "application/json", None):
            raise InvalidRequest("format should be json or csv", param="format")
        return {"usage": rows}


def _day(name: str, otherwise: str) -> str:
    given = request.args.get(name, otherwise)
    if not _DAY.fullmatch(given):
        raise InvalidRequest(f"{name} should be a day, like 2026-11-30", param=name)
    return given
