"""/auth/usage: each key's usage."""

from __future__ import annotations

import re
from typing import Annotated, Any

from flask import Response, request
from flask_restful import Resource
from pydantic import BaseModel, Field
from pydantic.json_schema import SkipJsonSchema

from auth.authentication import caller
from auth.keys import KeyStore
from auth.usage import UsageTable, as_csv, entries
from services.api.http.schemas import Query, replies, spec
from services.errors import InvalidRequest

_DAY = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}")


class UsageQuery(Query):
    """The query of GET /auth/usage."""

    from_: Annotated[str, Field(alias="from", description="The first day (UTC), like 2026-11-01.")] = "0000-00-00"
    to: Annotated[str, Field(description="The last day.")] = "9999-99-99"
    key: Annotated[str | SkipJsonSchema[None], Field(description="A key's id; for the master key.")] = None
    format: Annotated[str, Field(description="json or csv.")] = ""


class UsageEntry(BaseModel):
    """A key's usage on a day (UTC). `cached_tokens` are those of the prompts that were computed already."""

    key: str
    name: str | None
    day: str
    requests: int
    prompt_tokens: int
    cached_tokens: int
    completion_tokens: int
    cpu_seconds: float


class UsageList(BaseModel):
    """The usage, the earliest day first."""

    usage: list[UsageEntry]


class UsageResource(Resource):
    """The usage of keys."""

    def __init__(self, usage: UsageTable, keys: KeyStore) -> None:
        self._usage = usage
        self._keys = keys

    @spec.validate(resp=replies(UsageList, 400, 500, text="text/csv"))
    def get(self, query: UsageQuery) -> Any:
        """Tell what the caller's key has used, day by day; the master key sees everybody's.

        ?from=2026-11-01&to=2026-11-30 names days (UTC), ?key=ID one key. With ?format=csv, or `Accept: text/csv`, the reply
        is a table.
        """
        me = caller()
        key = query.key if me.is_master else me.id
        rows = entries(self._usage.rows(key, _day("from", query.from_), _day("to", query.to)), self._keys.names())
        wanted = query.format or request.accept_mimetypes.best_match(["application/json", "text/csv"])
        if wanted in ("csv", "text/csv"):
            return Response(as_csv(rows), mimetype="text/csv")
        if wanted not in ("json", "application/json", None):
            raise InvalidRequest("format should be json or csv", param="format")
        return {"usage": rows}


def _day(name: str, text: str) -> str:
    if not _DAY.fullmatch(text):
        raise InvalidRequest(f"{name} should be a day, like 2026-11-30", param=name)
    return text
