"""Assistants: settings for new conversations under a name, which a key may lend to others; and each key's own defaults.

data/assistants.json has an entry for each assistant, `"ID": {"owner", "name", "created", "settings", "first_words",
"readers"}`, and one for the settings with which a key's new conversations begin, `"new OWNER": {"settings"}`. Settings are
for clients, such as the chat page, as those of sessions are.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Mapping
from datetime import datetime, timezone
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from services.errors import NotFound, Unprocessable
from services.readers import EVERYBODY, Readers, check_readers
from services.storage.json_file import JsonObject, JsonTable, SchemaError
from services.validation import explain

MOST_ASSISTANTS = 100
# The name of the file.
ASSISTANTS = "assistants.json"
_NEW = "new "


class StoredAssistant(BaseModel):
    """One assistant in the file. `readers` are the ids of the other keys that may use it."""

    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    owner: str
    name: Annotated[str, Field(repr=False)]
    created: str
    settings: Annotated[dict[str, Any], Field(repr=False)] = {}
    first_words: Annotated[list[str], Field(repr=False)] = []
    readers: Readers = []


class _Defaults(BaseModel):
    model_config = ConfigDict(strict=True, extra="ignore", frozen=True)
    settings: Annotated[dict[str, Any], Field(repr=False)]


class Assistants:
    """The assistants and defaults of all keys. Any thread may call it.

    All raise DamagedFile, StorageFailed, Unavailable.
    """

    def __init__(self, table: JsonTable, is_usable: Callable[[str], bool]) -> None:
        """`is_usable` returns whether there is a key of an id that has not ended: only such keys lend and borrow."""
        self._table = table
        self._is_usable = is_usable

    def usable_by(self, key: str) -> dict[str, StoredAssistant]:
        """Return the assistants that a key may use, its own first, by their ids in the order of their names."""
        found = {id_: each for id_, each in self._all().items() if self._is_lent(each, key)}
        return dict(sorted(found.items(), key=lambda item: (item[1].owner != key, item[1].name.casefold(), item[0])))

    def add(self, owner: str, fields: Mapping[str, Any]) -> str:
        """Store an assistant of these fields; return its id. Raises NotFound for a reader, Unprocessable for too many."""
        check_readers(fields.get("readers", []), [], self._is_usable)
        id_ = secrets.token_hex(8)
        with self._table.edit() as data:
            if sum(entry.get("owner") == owner for entry in data.values()) >= MOST_ASSISTANTS:
                what = f"a key may have {MOST_ASSISTANTS} assistants: delete some (DELETE /assistants/ID)"
                raise Unprocessable(what, code="assistants_limit")
            now = datetime.now(timezone.utc).isoformat(timespec="seconds")
            data[id_] = {"owner": owner, "created": now, **fields}
        return id_

    def change(self, owner: str, id_: str, fields: Mapping[str, Any]) -> None:
        """Replace fields of a key's own assistant. Raises NotFound for it, or for a reader that is no key's id."""
        earlier = self._own(self._table.read(), owner, id_).get("readers", [])
        check_readers(fields.get("readers", []), earlier, self._is_usable)
        with self._table.edit() as data:
            data[id_] = {**self._own(data, owner, id_), **fields}

    def remove(self, owner: str, id_: str) -> None:
        """Delete a key's own assistant. Raises NotFound."""
        with self._table.edit() as data:
            self._own(data, owner, id_)
            del data[id_]

    def defaults(self, owner: str) -> dict[str, Any]:
        """Return the settings with which a key's new conversations begin."""
        return dict(self._table.read().get(f"{_NEW}{owner}", {}).get("settings", {}))

    def set_defaults(self, owner: str, settings: Mapping[str, Any]) -> None:
        """Store the settings with which a key's new conversations begin; {} forgets them."""
        with self._table.edit() as data:
            data.pop(f"{_NEW}{owner}", None)
            if settings:
                data[f"{_NEW}{owner}"] = {"settings": dict(settings)}

    def _all(self) -> dict[str, StoredAssistant]:
        entries = self._table.read().items()
        return {id_: StoredAssistant.model_validate(entry) for id_, entry in entries if not id_.startswith(_NEW)}

    def _is_lent(self, assistant: StoredAssistant, key: str) -> bool:
        if assistant.owner == key:
            return True
        is_reader = assistant.readers == EVERYBODY or key in assistant.readers
        return is_reader and self._is_usable(assistant.owner)

    def _own(self, data: JsonObject, owner: str, id_: str) -> dict[str, Any]:
        entry: dict[str, Any] | None = data.get(id_)
        if entry is None or entry.get("owner") != owner:
            raise NotFound(f"this key has no assistant {id_}", param="id", code="assistant_not_found")
        return entry


def check_assistants(data: JsonObject) -> None:
    """Raise SchemaError, naming the entry, where `data` does not hold assistants."""
    for id_, entry in data.items():
        try:
            (_Defaults if id_.startswith(_NEW) else StoredAssistant).model_validate(entry)
        except ValidationError as error:
            fault = explain(error)
            raise SchemaError((id_, *fault.path), f'"{id_}": {fault.message}') from None
