"""The lists of fields as the pages in docs have them."""

from __future__ import annotations

from collections.abc import Iterable

from services.api.http.request_fields import RequestField


def field_table(fields: Iterable[RequestField]) -> str:
    """The list of an API whose endpoints treat each field alike."""
    rows = ["| field | effect | |", "|---|---|---|"]
    rows += [f"| `{field.name}` | {field.effect} | {field.about} |" for field in sorted(fields, key=lambda each: each.name)]
    return "\n".join(rows) + "\n"
