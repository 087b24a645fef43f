"""A cluster's stored responses in Redis, so that any node goes on from them."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping, Sequence
from typing import Any

from typing_extensions import override

from services.cluster.redis_client import RedisClient, reached
from services.cluster.stores.counted import Counted
from services.sessions.responses import KEPT_FOR, UNFINISHED, ResponseTable, StoredResponse, encoded
from services.sessions.table import Kept

# KEYS: the response. ARGV: its text, its seconds, and the states of unfinished ones. One that is finished stays. It may be
# this one already, where the reply was lost.
_ADD = """
local had = redis.call('GET', KEYS[1])
if had and had ~= ARGV[1] then
  local status, unfinished = cjson.decode(had).status, false
  for i = 3, #ARGV do unfinished = unfinished or ARGV[i] == status end
  if not unfinished then return 0 end
end
redis.call('SET', KEYS[1], ARGV[1], 'EX', ARGV[2])
return 1
"""


class RedisResponseTable(ResponseTable):
    """The responses in Redis. All raise Unavailable where Redis is away. Any thread may call it."""

    def __init__(self, client: RedisClient) -> None:
        self._client = client
        self._redis = client.redis
        self._add = self._redis.register_script(_ADD)
        self._counted = Counted(client, "responses")

    @override
    def get(self, owner: str, id_: str) -> StoredResponse | None:
        with reached():
            text = self._redis.get(self._name(owner, id_))
        return None if text is None else _response(json.loads(text))

    @override
    def add(self, response: StoredResponse) -> None:
        stored = {**_stored(response), "used": time.time()}
        with reached():
            if not self._add([self._name(response.owner, response.id)], [json.dumps(stored), int(KEPT_FOR), *UNFINISHED]):
                return
            if response.session:
                of_session = self._of(response.owner, response.session)
                # In the order of their ends: a clock may be set back.
                self._redis.zadd(of_session, {response.id: self._redis.incr(self._client.key("responses_number"))})
                self._redis.expire(of_session, int(KEPT_FOR))
        self._counted.note(response.owner, response.id, KEPT_FOR, response.n_bytes)

    @override
    def touch(self, owner: str, ids: Sequence[str]) -> None:
        for id_ in ids:
            if found := self.get(owner, id_):
                stored = {**_stored(found), "used": time.time()}
                with reached():
                    self._redis.set(self._name(owner, id_), json.dumps(stored), ex=int(KEPT_FOR), xx=True)
                    if found.session:
                        self._redis.expire(self._of(owner, found.session), int(KEPT_FOR))
                self._counted.note(owner, id_, KEPT_FOR, found.n_bytes)

    @override
    def last_of(self, owner: str, session: str) -> StoredResponse | None:
        with reached():
            ids = self._redis.zrevrange(self._of(owner, session), 0, -1)
        found = (self.get(owner, id_) for id_ in ids)
        return next((each for each in found if each and each.status in ("completed", "incomplete")), None)

    @override
    def remove(self, owner: str, id_: str) -> bool:
        found = self.get(owner, id_)
        if found is None:
            return False
        with reached():
            self._redis.unlink(self._name(owner, id_))
            if found.session:
                self._redis.zrem(self._of(owner, found.session), id_)
        self._counted.drop(owner, id_)
        return True

    @override
    def remove_session(self, owner: str, session: str) -> bool:
        with reached():
            ids = self._redis.zrange(self._of(owner, session), 0, -1)
        n_removed = sum(self.remove(owner, id_) for id_ in ids)
        return n_removed > 0

    @override
    def kept(self, owner: str) -> Kept:
        return self._counted.kept(owner)

    @override
    def everything(self) -> list[StoredResponse]:
        with reached():
            found = [self._redis.get(name) for name in self._redis.scan_iter(self._client.key("response", "*"))]
        return sorted((_response(json.loads(text)) for text in found if text), key=lambda each: each.used)

    @override
    def tidy(self) -> None:
        # Redis forgets by itself.
        pass

    @override
    def close(self) -> None:
        # The client is shared.
        pass

    def _name(self, owner: str, id_: str) -> str:
        return self._client.key("response", owner, id_)

    def _of(self, owner: str, session: str) -> str:
        return self._client.key("responses_of", owner, session)


def _stored(response: StoredResponse) -> dict[str, Any]:
    return {
        "owner": response.owner,
        "id": response.id,
        "previous": response.previous,
        "session": response.session,
        "status": response.status,
        "items": encoded(list(response.items)).decode(),
        "body": encoded(response.body).decode(),
        "left_out": response.left_out,
    }


def _response(stored: Mapping[str, Any]) -> StoredResponse:
    return StoredResponse(**{**stored, "items": json.loads(stored["items"]), "body": json.loads(stored["body"])})
