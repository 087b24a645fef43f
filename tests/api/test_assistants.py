"""Assistants, and the settings with which new conversations begin, over the API."""

from __future__ import annotations

import json
import time
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
import requests

from services.errors import DamagedFile
from services.sessions.assistants import MOST_ASSISTANTS
from tests.support.in_process import Client

POET: dict[str, Any] = {"name": "Poet", "settings": {"system_prompt": "Rhyme."}, "first_words": ["A poem on rain"]}


def listed(client: Client, key: str | None = None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = client.get("/assistants", key=key or client.key).json()["assistants"]
    return found


def refused(reply: requests.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    return str(reply.json()["error"]["param"] or reply.json()["error"]["code"])


def test_an_assistant_is_stored_changed_and_deleted(client: Client) -> None:
    made = client.post("/assistants", POET).json()
    assert made == {**POET, "id": made["id"], "owner": "0", "created": made["created"], "readers": []}
    changed = client.patch(f"/assistants/{made['id']}", {"name": "Bard", "settings": {}}).json()
    client.restart()
    assert listed(client) == [changed]
    assert (changed["name"], changed["settings"], changed["first_words"]) == ("Bard", {}, POET["first_words"])
    assert client.delete(f"/assistants/{made['id']}").json() == {"deleted": True}
    assert listed(client) == []
    assert refused(client.delete(f"/assistants/{made['id']}"), 404) == "id"


def test_it_is_lent_to_keys_and_changed_by_its_owner_alone(client: Client) -> None:
    (lender, lender_id), (reader, reader_id), (other, _) = (client.mint(name) for name in ("lender", "reader", "other"))
    made = client.post("/assistants", {**POET, "readers": [reader_id]}, key=lender).json()
    own = client.post("/assistants", {"name": "Zoo"}, key=reader).json()
    assert listed(client, reader) == [own, {**made, "readers": None}]
    assert listed(client, other) == []
    path = f"/assistants/{made['id']}"
    for key in (reader, other, client.key):
        assert refused(client.patch(path, {"name": "Mine"}, key=key), 404) == "id"
        assert refused(client.delete(path, key=key), 404) == "id"
    client.patch(path, {"readers": "everybody"}, key=lender)
    assert [each["name"] for each in listed(client, other)] == ["Poet"]
    soon = datetime.now(timezone.utc) + timedelta(seconds=0.5)
    client.patch(f"/auth/key/{lender_id}", {"expires": soon.isoformat()})
    time.sleep(0.6)
    assert listed(client, other) == []


def test_new_conversations_begin_with_the_keys_own_settings(client: Client) -> None:
    key, _ = client.mint()
    assert client.get("/settings", key=key).json() == {"new_chat": {}}
    body = {"new_chat": {"temperature": 0.2}}
    assert client.patch("/settings", body, key=key).json() == body
    client.restart()
    assert client.get("/settings", key=key).json() == body
    assert client.get("/settings").json() == {"new_chat": {}}
    assert listed(client, key) == []
    client.patch("/settings", {"new_chat": {}}, key=key)
    assert json.loads((client.data / "assistants.json").read_text()) == {}


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"name": "a", "settings": []}, "settings"),
        ({"name": "a", "settings": {"a": "x" * 17_000}}, "settings"),
        ({"name": "a", "first_words": ["x"] * 11}, "first_words"),
        ({"name": "a", "first_words": [""]}, "first_words.0"),
        ({"name": "a", "readers": "nobody"}, "readers"),
        ({"name": "a", "colour": "red"}, "colour"),
    ],
)
def test_what_is_no_assistant_is_refused_by_name(client: Client, body: dict[str, Any], param: str) -> None:
    assert refused(client.post("/assistants", body), 400) == param
    assert listed(client) == []


def test_readers_that_are_no_keys_and_too_many_are_refused(client: Client) -> None:
    assert refused(client.post("/assistants", {**POET, "readers": ["nobody"]}), 404) == "readers"
    made = client.post("/assistants", POET).json()
    assert refused(client.patch(f"/assistants/{made['id']}", {"readers": ["nobody"]}), 404) == "readers"
    assert refused(client.patch(f"/assistants/{made['id']}", {}), 400) == "name"
    for n in range(MOST_ASSISTANTS - 1):
        assert client.post("/assistants", {"name": str(n)}).status_code == 200
    assert refused(client.post("/assistants", POET), 422) == "assistants_limit"


def test_a_damaged_file_is_named_at_the_start(client: Client) -> None:
    client.post("/assistants", POET)
    path = client.data / "assistants.json"
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(path.read_text().replace('"Poet"', "5"))
    with pytest.raises(DamagedFile, match="name"):
        client.parts.stores.assistants.usable_by("0")
    assert client.get("/assistants").status_code == 500
