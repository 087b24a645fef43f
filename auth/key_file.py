"""The check of data/api_keys.json, which a person may edit."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from pydantic import ValidationError

from auth.hashing import is_hash
from auth.identity import Terms
from services.storage.json_file import JsonObject, SchemaError
from services.validation import explain

_TERMS = frozenset(Terms.model_fields)


def check_keys(data: JsonObject) -> None:
    """Raise SchemaError, naming the entry, where `data` does not hold keys."""
    for id_, entry in data.items():
        if not id_ or "/" in id_:
            raise SchemaError((id_,), f'"{id_}" is no id of a key')
        if isinstance(entry, str):
            if not entry.strip():
                raise SchemaError(
                    (id_,), f'key "{id_}" is empty; remove the line, and a start of the server makes a master key'
                )
        elif not isinstance(entry, dict) or not is_hash(entry.get("hash")):
            raise SchemaError((id_,), f'key "{id_}" should be a key, or an object with a "hash" that the server wrote')
        else:
            _check_entry(id_, entry)


def _check_entry(id_: str, entry: Mapping[str, Any]) -> None:
    try:
        Terms.model_validate({name: value for name, value in entry.items() if name in _TERMS and name != "name"})
    except ValidationError as error:
        fault = explain(error, _TERMS)
        raise SchemaError((id_, *fault.path), f'key "{id_}": {fault.message}') from None
    times = [("expires", entry.get("expires"))]
    previous = entry.get("previous", [])
    if not isinstance(previous, list) or not all(isinstance(old, dict) and is_hash(old.get("hash")) for old in previous):
        raise SchemaError((id_, "previous"), f'key "{id_}": previous should hold what the server wrote')
    times += [("previous", old.get("until", "")) for old in previous]
    for name, text in times:
        try:
            zone = text is None or datetime.fromisoformat(text).tzinfo
        except (TypeError, ValueError):
            zone = None
        if not zone:
            raise SchemaError(
                (id_, name), f'key "{id_}": {name} should be a time with its zone, like 2027-01-31T18:00:00+00:00'
            )
