"""Sessions over the API: what their owner sets, branches, single messages, export and import."""

from __future__ import annotations

import json
from typing import Any

import pytest
import requests

from services.errors import DamagedFile, Unavailable
from services.sessions.history import SessionKey
from tests.support.in_process import Client


def say(client: Client, words: str, answer: str, **fields: Any) -> None:
    client.backend.reply(f" {answer}")  # type: ignore[attr-defined]
    assert client.ask(words, session_id=1, **fields)["result"] == answer


def shown(client: Client, number: int = 1, key: str | None = None) -> list[str]:
    """The messages of the open branch, each with the place of its branch where there are several."""
    messages = client.get(f"/answer/{number}", key=key or client.key).json()["messages"]
    return [
        message["content"] + (f" {message['branch']}/{message['branches']}" if "branches" in message else "")
        for message in messages
    ]


def error(reply: requests.Response, status: int) -> str:
    assert reply.status_code == status, reply.text
    return str(reply.json()["error"]["param"] or reply.json()["error"]["code"])


def test_what_an_owner_sets_stays_over_a_restart_and_the_next_prompt(client: Client) -> None:
    say(client, "Hi", "Hello")
    changes = {"name": "Mine", "pinned": True, "folder": "Work", "settings": {"temperature": 0.5, "files": ["a"]}}
    for name, value in changes.items():
        assert client.patch("/answer/1", {name: value}).json() == {name: value}
    say(client, "And you?", "Fine")
    client.restart()
    told = client.get("/answer/1").json()
    assert {name: told[name] for name in changes} == changes
    (listed,) = client.get("/sessions").json()["sessions"]
    assert (listed["pinned"], listed["folder"], listed["messages"]) == (True, "Work", 4)
    client.patch("/answer/1", {"pinned": False, "folder": "", "settings": {}})
    client.restart()
    told = client.get("/answer/1").json()
    assert (told["pinned"], told["folder"], told["settings"], told["name"]) == (False, "", {}, "Mine")
    client.close()
    stored = json.loads((client.data / "sessions.json").read_text())["1"]
    assert stored.keys() == {"name", "created", "updated", "messages"}, "what is empty is left out"
    client.open()


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "name"),
        ({"name": ""}, "name"),
        ({"pinned": 1}, "pinned"),
        ({"folder": "x" * 101}, "folder"),
        ({"settings": []}, "settings"),
        ({"settings": {"a": "x" * 17_000}}, "settings"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_what_cannot_be_set_is_named(client: Client, body: dict[str, Any], param: str) -> None:
    say(client, "Hi", "Hello")
    assert error(client.patch("/answer/1", body), 400) == param
    assert error(client.patch("/answer/2", {"pinned": True}), 404) == "session_id"
    assert error(client.patch("/answer/1", {"pinned": True}, key=client.mint()[0]), 404) == "session_id"


def test_what_is_said_anew_is_a_branch_beside_what_was_said(client: Client) -> None:
    say(client, "Hi", "Hello")
    say(client, "And you?", "Fine")
    say(client, "And them?", "Them?", keep=2)
    assert shown(client) == ["Hi", "Hello", "And them? 2/2", "Them?"]
    # The same words answered anew: the branch begins at the answer.
    say(client, "And them?", "They too", keep=2)
    assert shown(client) == ["Hi", "Hello", "And them? 2/2", "They too 2/2"]
    client.restart()
    assert shown(client) == ["Hi", "Hello", "And them? 2/2", "They too 2/2"]
    opened = client.post("/answer/1/branch", {"at": 2, "number": 1}).json()
    assert [each["content"] for each in opened["messages"]] == ["Hi", "Hello", "And you?", "Fine"]
    assert shown(client) == ["Hi", "Hello", "And you? 1/2", "Fine"]
    say(client, "Good", "Yes")
    client.restart()
    client.post("/answer/1/branch", {"at": 2, "number": 2})
    client.post("/answer/1/branch", {"at": 3, "number": 1})
    assert shown(client) == ["Hi", "Hello", "And them? 2/2", "Them? 1/2"]
    # The model reads the open branch alone.
    client.backend.reply(" So")  # type: ignore[attr-defined]
    prompt = client.get("/answer/1/prompt?prompt=Then").json()["prompt"]
    assert "Them?" in prompt
    assert "They too" not in prompt
    assert "Fine" not in prompt
    client.post("/answer/1/branch", {"at": 2, "number": 1})
    assert shown(client) == ["Hi", "Hello", "And you? 1/2", "Fine", "Good", "Yes"]
    for body in ({"at": 2, "number": 3}, {"at": 9, "number": 2}):
        assert error(client.post("/answer/1/branch", body), 404) == "number"
    assert error(client.post("/answer/1/branch", {"at": -1, "number": 1}), 400) == "at"
    assert error(client.post("/answer/7/branch", {"at": 0, "number": 1}), 404) == "session_id"
    assert error(client.post("/answer/1/branch", {"at": 2, "number": 2}, key=client.mint()[0]), 404) == "session_id"


def test_another_system_prompt_begins_the_conversation_anew(client: Client) -> None:
    for system, more in (("Be kind.", {}), ("Be kind.", {"keep": 1}), ("Be short.", {})):
        body = {"prompt": "Hi", "system_prompt": system, "session_id": 1, **more}
        assert client.post("/api/generate", body).status_code == 200
        assert [each for each in shown(client) if not each.startswith("Echo")][:2] == [system, "Hi"]
    assert not any("/" in each for each in shown(client))


def test_a_message_is_edited_in_a_branch_of_its_own(client: Client) -> None:
    say(client, "Hi", "Hello")
    say(client, "And you?", "Fine")
    client.patch("/answer/1/messages/1", {"content": "Good day"})
    assert shown(client) == ["Hi", "Good day 2/2"]
    say(client, "Who?", "Me")
    client.post("/answer/1/branch", {"at": 1, "number": 1})
    assert shown(client) == ["Hi", "Hello 1/2", "And you?", "Fine"]
    assert error(client.patch("/answer/1/messages/4", {"content": "x"}), 404) == "message_not_found"
    assert error(client.patch("/answer/1/messages/0", {"content": ""}), 400) == "content"
    assert error(client.patch("/answer/3/messages/0", {"content": "x"}), 404) == "session_id"


def test_an_answer_that_was_cut_is_continued_in_its_place(client: Client) -> None:
    client.edit_config(
        template=None, chat_template="{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}<assistant>"
    )
    say(client, "Hi", "Hello")
    client.backend.reply("One", " two", " three")  # type: ignore[attr-defined]
    assert client.ask("Count", session_id=1, max_tokens=2)["finish_reason"] == "length"
    assert client.get("/answer/1").json()["messages"][3] == {"type": "ai", "content": "One two", "cut": True}
    client.restart()
    client.backend.reply(" three", " four")  # type: ignore[attr-defined]
    reply = client.post("/answer", {"session_id": 1, "continue": True}).json()
    assert (reply["result"], reply["finish_reason"]) == ("One two three four", "stop")
    model = client.backend.models()[-1]  # type: ignore[attr-defined]
    prompt = b"".join(model.pieces(model.requests[-1].tokens)).decode()
    assert prompt.endswith("<user>Count<assistant>One two")
    client.restart()
    last = client.get("/answer/1").json()["messages"]
    assert last[2:] == [{"type": "human", "content": "Count"}, {"type": "ai", "content": "One two three four"}]
    assert "branches" not in json.dumps(last)


@pytest.mark.parametrize(
    ("body", "param"),
    [
        ({}, "prompt"),
        ({"continue": False, "session_id": 1}, "prompt"),
        ({"continue": True, "session_id": 1, "prompt": "x"}, "prompt"),
        ({"continue": True}, "session_id"),
        ({"continue": True, "session_id": 1, "keep": 0}, "keep"),
        ({"continue": True, "session_id": 9}, "continue"),
    ],
)
def test_what_cannot_be_continued_is_named(client: Client, body: dict[str, Any], param: str) -> None:
    say(client, "Hi", "Hello")
    assert error(client.post("/answer", body), 400) == param


def test_a_message_is_deleted_and_its_computed_state_forgotten(client: Client) -> None:
    say(client, "Hi", "Hello")
    say(client, "My code is 1234", "I see")
    say(client, "And you?", "Fine")
    assert client.delete("/answer/1/messages/2").status_code == 200
    assert shown(client) == ["Hi", "Hello", "I see", "And you?", "Fine"]
    assert ("0", "1") in client.backend.forgotten  # type: ignore[attr-defined]
    client.restart()
    assert "1234" not in json.dumps(client.get("/answer/1").json())
    client.close()
    for path in client.data.glob("sessions.*"):
        assert "1234" not in path.read_text()
    client.open()
    assert "I see" not in client.get("/answer/1/prompt?prompt=x").json()["prompt"]
    assert error(client.delete("/answer/1/messages/5"), 404) == "message_not_found"


def test_what_a_session_holds_counts_every_branch(client: Client) -> None:
    key, _ = client.mint(limits={"storage_mb": 1})
    client.backend.reply(" Hello")  # type: ignore[attr-defined]
    big = "x" * 400_000
    client.ask("Hi", key, session_id=1)
    for content in (f"1{big}", f"2{big}"):
        assert client.patch("/answer/1/messages/1", {"content": content}, key=key).status_code == 200
    for _ in range(2):
        assert error(client.patch("/answer/1/messages/1", {"content": f"3{big}"}, key=key), 403) == "limits.storage_mb"
        client.restart()
    # What is no longer there counts no longer.
    assert client.delete("/answer/1/messages/1", key=key).status_code == 200
    assert client.patch("/answer/1/messages/1", {"content": f"3{big}"}, key=key).status_code == 200


def test_a_search_shows_where_the_words_stand(client: Client) -> None:
    say(client, "a " * 100 + "Tell me of\nZebras " + "b " * 100, "Hello")
    (found,) = client.get("/sessions?q=zebras").json()["sessions"]
    assert "Tell me of Zebras b b" in found["snippet"]
    assert found["snippet"].startswith("…")
    client.patch("/answer/1", {"name": "Animals"})
    (found,) = client.get("/sessions?q=animals").json()["sessions"]
    assert found["snippet"] == ""


def test_an_export_is_imported_with_its_branches_by_another_key(client: Client) -> None:
    say(client, "Hi", "Hello")
    say(client, "Hi", "Hey", keep=0)
    client.patch("/answer/1", {"pinned": True, "folder": "Work", "name": "Mine", "settings": {"temperature": 1}})
    before = client.get("/answer/1").json()
    document = client.get("/sessions/export").json()
    key, _ = client.mint()
    assert client.get("/sessions/export", key=key).json()["sessions"] == []
    assert client.post("/sessions/import", document, key=key).json() == {"imported": 1, "skipped": []}
    (listed,) = client.get("/sessions", key=key).json()["sessions"]
    after = client.get(f"/answer/{listed['session_id']}", key=key).json()
    assert {**after, "session_id": 1} == before
    assert after["messages"][1]["branches"] == 2
    assert shown(client) == ["Hi", "Hey 2/2"]


def chatgpt_node(parent: str | None, children: list[str], role: str = "", *parts: Any) -> dict[str, Any]:
    content = {"content_type": "text", "parts": list(parts)}
    return {
        "parent": parent,
        "children": children,
        "message": {"author": {"role": role}, "content": content} if role else None,
    }


def test_an_export_of_chatgpt_is_read(client: Client) -> None:
    mapping = {
        "root": chatgpt_node(None, ["system"]),
        "system": chatgpt_node("root", ["q"], "system", "You are ChatGPT"),
        "q": chatgpt_node("system", ["a1", "a2"], "user", "How far is the moon?"),
        "a1": chatgpt_node("q", [], "assistant", "Far."),
        "a2": chatgpt_node("q", ["tool"], "assistant", "Very far."),
        "tool": chatgpt_node("a2", ["q2"], "tool", "{}"),
        "q2": chatgpt_node("tool", ["a3"], "user", "How far?", {"image": 1}),
        "a3": chatgpt_node("q2", [], "assistant", "384,400 km."),
    }
    entry = {"title": "The moon", "create_time": 1.7e9, "update_time": 1.7e9 + 60, "mapping": mapping}
    broken = {"title": "Broken", "mapping": {"a": {"children": 5}}}
    export = [{**entry, "current_node": "a3"}, broken, {"title": "Empty", "mapping": {"r": chatgpt_node(None, [])}}, 7]
    reply = client.post("/sessions/import", {"sessions": export}).json()
    assert reply["imported"] == 1
    assert [each["name"] for each in reply["skipped"]] == ["Broken", "Empty", ""]
    assert reply["skipped"][1]["reason"] == "it has no messages"
    (listed,) = client.get("/sessions").json()["sessions"]
    assert (listed["name"], listed["created"][:10], listed["messages"]) == ("The moon", "2023-11-14", 4)
    number = listed["session_id"]
    assert shown(client, number) == ["How far is the moon?", "Very far. 2/2", "How far?", "384,400 km."]
    client.post(f"/answer/{number}/branch", {"at": 1, "number": 1})
    assert shown(client, number) == ["How far is the moon?", "Far. 1/2"]


def test_an_export_of_open_webui_is_read(client: Client) -> None:
    messages = {
        "1": {"parentId": None, "childrenIds": ["2", "3"], "role": "user", "content": "Hi"},
        "2": {"parentId": "1", "childrenIds": [], "role": "assistant", "content": "Hello"},
        "3": {
            **{"parentId": "1", "childrenIds": [], "role": "assistant"},
            "content": '<details type="reasoning" done="true"><summary>Thought</summary>hm</details>\nHey',
        },
    }
    chat = {"title": "Greeting", "history": {"currentId": "2", "messages": messages}}
    export = [{"title": "Greeting", "created_at": 1_700_000_000, "pinned": True, "chat": chat}]
    assert client.post("/sessions/import", {"sessions": export}).json() == {"imported": 1, "skipped": []}
    (listed,) = client.get("/sessions").json()["sessions"]
    assert (listed["name"], listed["pinned"]) == ("Greeting", True)
    number = listed["session_id"]
    assert shown(client, number) == ["Hi", "Hello 1/2"]
    client.post(f"/answer/{number}/branch", {"at": 1, "number": 2})
    assert shown(client, number) == ["Hi", "Hey 2/2"]


@pytest.mark.parametrize(
    ("document", "param"),
    [
        ({}, "sessions"),
        ({"sessions": {}}, "sessions"),
        ({"sessions": [], "format": "other"}, "format"),
        ({"sessions": [], "version": 2}, "version"),
        ({"sessions": [], "more": 1}, "more"),
    ],
)
def test_what_is_no_export_is_refused(client: Client, document: Any, param: str) -> None:
    assert error(client.post("/sessions/import", document), 400) == param


def test_a_damaged_export_is_left_out_with_its_reason(client: Client) -> None:
    good = {"name": "Good", "messages": [{"type": "human", "content": "Hi"}]}
    branch = {"at": 0, "number": 1, "messages": []}
    for bad in (
        {"name": "Bad", "messages": [{"type": "robot", "content": "x"}]},
        {"name": "Bad", "messages": [{"type": "human", "content": "x"}], "branches": [branch]},
        {"name": "Bad", "messages": "none"},
        {"name": "Bad"},
    ):
        document = {"format": "hearth-sessions", "version": 1, "sessions": [bad, good]}
        reply = client.post("/sessions/import", document).json()
        assert (reply["imported"], [each["name"] for each in reply["skipped"]]) == (1, ["Bad"]), reply
    client.restart()
    assert len(client.get("/sessions").json()["sessions"]) == 4


def test_a_key_imports_no_more_than_it_may_keep(client: Client) -> None:
    key, _ = client.mint(limits={"sessions": 2})
    entries = [{"name": str(n), "messages": [{"type": "human", "content": "Hi"}]} for n in range(3)]
    reply = client.post("/sessions/import", {"sessions": entries}, key=key).json()
    assert (reply["imported"], [each["name"] for each in reply["skipped"]]) == (2, ["2"])
    assert "may keep 2 sessions" in reply["skipped"][0]["reason"]
    assert len(client.get("/sessions", key=key).json()["sessions"]) == 2


H, A = {"type": "human", "content": "h"}, {"type": "ai", "content": "a"}


@pytest.mark.parametrize(
    "branches",
    [
        [{"at": 1, "number": 1, "messages": [A], "branches": [{"at": 0, "number": 1, "messages": [A]}]}],
        [{"at": 1, "number": 1, "messages": [A], "branches": [{"at": 2, "number": 1, "messages": [A]}]}],
        [{"at": 3, "number": 1, "messages": [A]}],
        [{"at": 1, "number": 3, "messages": [A]}],
        [{"at": 1, "number": 1, "messages": [A]}, {"at": 1, "number": 1, "messages": [A]}],
    ],
)
def test_branches_that_fit_no_conversation_are_left_out(client: Client, branches: Any) -> None:
    reply = client.post("/sessions/import", {"sessions": [{"messages": [H, A, H], "branches": branches}]}).json()
    assert reply["imported"] == 0, reply
    client.close()
    (client.data / "sessions.json").write_text(json.dumps({"1": {"messages": [H, A, H], "branches": branches}}))
    with pytest.raises(DamagedFile, match="branch"):
        client.open()
    (client.data / "sessions.json").unlink()
    client.open()


def test_branches_in_any_order_are_good(client: Client) -> None:
    branches = [{"at": 2, "number": 1, "messages": [H]}, {"at": 1, "number": 2, "messages": [A]}]
    client.post("/sessions/import", {"sessions": [{"messages": [H, A, H], "branches": branches}]})
    (listed,) = client.get("/sessions").json()["sessions"]
    assert client.delete(f"/answer/{listed['session_id']}/messages/0").status_code == 200
    client.restart()
    assert len(client.get(f"/answer/{listed['session_id']}").json()["messages"]) == 2


def test_edits_from_the_end_to_the_beginning_can_be_read_again(client: Client) -> None:
    messages = [{"type": ("human", "ai")[n % 2], "content": str(n)} for n in range(100)]
    client.post("/sessions/import", {"sessions": [{"messages": messages}]})
    (listed,) = client.get("/sessions").json()["sessions"]
    path = f"/answer/{listed['session_id']}"
    for n in range(99, -1, -1):
        assert client.patch(f"{path}/messages/{n}", {"content": f"new {n}"}).status_code == 200
    client.restart()
    told = client.get(path).json()["messages"]
    assert told[0]["content"] == "new 0"
    # Every version can still be opened.
    shown = client.post(f"{path}/branch", {"at": 0, "number": 1}).json()["messages"]
    while "branches" in shown[-1]:
        at = len(shown) - 1
        shown = client.post(f"{path}/branch", {"at": at, "number": 1}).json()["messages"]
        if len(shown) <= at + 1:
            break
    document = client.get("/sessions/export").json()
    words = json.dumps(document)
    assert all(f'"{word}{n}"' in words for n in range(100) for word in ("", "new "))
    assert client.post("/sessions/import", document).json()["imported"] == 1


@pytest.mark.parametrize("time", ["1e999", "-1e999", "1e300", "-5", "true", "[]"])
def test_odd_times_of_an_export_are_left_out(client: Client, time: str) -> None:
    mapping = json.dumps({"q": chatgpt_node(None, [], "user", "Hi")})
    body = f'{{"sessions": [{{"create_time": {time}, "mapping": {mapping}}}]}}'
    assert client.post("/sessions/import", data=body).json()["imported"] == 1


def test_an_export_whose_messages_share_their_answers_takes_no_time(client: Client) -> None:
    mapping = {"0a": chatgpt_node(None, ["1a", "1b"], "user", "x")}
    for n in range(1, 60):
        for each in "ab":
            mapping[f"{n}{each}"] = chatgpt_node(f"{n - 1}a", [f"{n + 1}a", f"{n + 1}b"], "user", "x")
    thoughts = '<details type="reasoning"' * 30_000
    history = {"currentId": "1", "messages": {"1": {"childrenIds": [], "role": "assistant", "content": thoughts}}}
    reply = client.post("/sessions/import", {"sessions": [{"mapping": mapping}, {"chat": {"history": history}}]}).json()
    assert reply["imported"] + len(reply["skipped"]) == 2
    assert (
        sum(
            map(len, (each["content"] for s in client.get("/sessions/export").json()["sessions"] for each in s["messages"]))
        )
        < 10**6
    )


def test_an_import_stores_what_it_knows_and_no_more(client: Client) -> None:
    message = {"type": "human", "content": "x", "junk": "J" * 1000}
    entry = {"name": "n" * 1000, "folder": "f" * 1000, "updated": "zzzz", "junk": "J" * 1000, "messages": [message]}
    large = {"name": "Large", "settings": {"a": "S" * 20_000}, "messages": [H]}
    reply = client.post("/sessions/import", {"sessions": [entry, large]}).json()
    assert (reply["imported"], reply["skipped"]) == (1, [{"name": "Large", "reason": "its settings are too large"}])
    client.close()
    (stored,) = json.loads((client.data / "sessions.json").read_text()).values()
    assert "J" not in json.dumps(stored)
    assert (len(stored["name"]), len(stored["folder"])) == (200, 100)
    assert stored["updated"].startswith("2")
    client.open()


def test_a_message_stays_where_its_state_cannot_be_forgotten(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    say(client, "Hi", "Hello")

    def fail(*_: str) -> None:
        raise Unavailable("the engine is away")

    with monkeypatch.context() as patched:
        patched.setattr(client.backend, "forget", fail)
        assert client.delete("/answer/1/messages/0").status_code == 503
    assert shown(client) == ["Hi", "Hello"]


def test_what_prompts_leave_out_is_counted_anew_behind_a_change(client: Client) -> None:
    for n in range(4):
        say(client, f"q{n}", f"a{n}")
    history = client.parts.stores.sessions.history(SessionKey("0", 1))
    for index, window in ((7, 2), (1, 0)):
        history.keep_window(2)
        assert client.delete(f"/answer/1/messages/{index}").status_code == 200
        assert client.get("/answer/1").json()["window"] == window
