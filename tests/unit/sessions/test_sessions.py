from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import cast

import pytest
from langchain_core.chat_history import BaseChatMessageHistory
from langchain_core.messages import AIMessage, BaseMessage, HumanMessage, ToolMessage

from services.errors import ClientDisconnected, DamagedFile, InvalidRequest, NotFound
from services.prompts.form import Exchange
from services.sessions.conversation import Conversation
from services.sessions.history import MASTER, SessionKey
from services.sessions.langchain_history import LangChainHistory
from services.sessions.locks import LocalSessionLocks
from services.sessions.records import parse_number
from services.sessions.service import Sessions
from services.sessions.table import Answered, RequestName


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "sessions.json"


def test_a_session_is_kept_and_is_langchains_history(path: Path) -> None:
    history = LangChainHistory(Sessions(path).history(SessionKey(MASTER, 3)))
    assert isinstance(history, BaseChatMessageHistory)
    assert history.messages == []
    history.add_messages([HumanMessage("My  name\nis Ana."), AIMessage("Nice to meet you, Ana!")])
    again = Sessions(path).history(SessionKey(MASTER, 3))
    kept = LangChainHistory(again)
    assert kept.messages == [HumanMessage("My  name\nis Ana."), AIMessage("Nice to meet you, Ana!")]
    described = again.describe()
    assert (described["session_id"], described["name"]) == (3, "My name is Ana.")
    assert described["created"] <= described["updated"]
    kept.clear()
    assert Sessions(path).names(MASTER) == {}
    for missing in (again.clear, again.describe):
        with pytest.raises(NotFound):
            missing()


def test_the_window_is_the_last_exchanges(path: Path) -> None:
    history = Sessions(path).history(SessionKey(MASTER, 1))
    exchanges = [Exchange(f"q{n}", f"a{n}") for n in range(7)]
    for exchange in exchanges:
        history.add_exchange(exchange)
    assert history.window(5) == exchanges[2:]
    assert history.window(100) == exchanges
    assert history.window(0) == []
    assert len(history.messages) == 14


def test_a_long_first_prompt_is_shortened_to_a_name(path: Path) -> None:
    Sessions(path).history(SessionKey(MASTER, 1)).add_exchange(Exchange("word " * 100, "a"))
    name = Sessions(path).names(MASTER)["1"]
    assert len(name) <= 60
    assert name.endswith("word…")


def test_owners_have_numbers_of_their_own_and_the_master_lists_all(path: Path) -> None:
    sessions = Sessions(path)
    for owner in (MASTER, "ab12", "cd34"):
        sessions.history(SessionKey(owner, 1)).add_exchange(Exchange(f"I am {owner}", "a"))
    assert sessions.names("ab12") == {"1": "I am ab12"}
    assert sessions.names(MASTER) == {"1": "I am 0", "ab12/1": "I am ab12", "cd34/1": "I am cd34"}
    assert sessions.history(SessionKey("ab12", 1)).window(9) == [Exchange("I am ab12", "a")]


def test_the_older_form_is_read_and_goes_on(path: Path) -> None:
    old = {"Active": 1, "1": {"name": "Ana", "history": ["Human: Hi: you", "AI: Hello"]}, "2": {"history": []}}
    path.write_text(json.dumps(old))
    sessions = Sessions(path)
    assert sessions.names(MASTER) == {"1": "Ana", "2": ""}
    history = sessions.history(SessionKey(MASTER, 1))
    assert history.window(5) == [Exchange("Hi: you", "Hello")]
    history.add_exchange(Exchange("More", "Yes"))
    again = Sessions(path).history(SessionKey(MASTER, 1))
    assert again.window(5) == [Exchange("Hi: you", "Hello"), Exchange("More", "Yes")]
    assert again.describe()["name"] == "Ana"


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ('{\n"1": {"messages": [\n', "line 3, column 1"),
        ('{\n\n"1": []}', 'line 3, column \\d+: session "1" should be an object'),
        ('{"1": {"messages": [{"type": "human"}]}}', 'line 1, column \\d+: session "1": messages.0.content: is missing'),
        ('{"1": {"messages": [{"type": "robot", "content": ""}]}}', r"messages\.0\.type"),
        ('{"1": {"history": ["Ana: hi"]}}', "entry 0 should begin with"),
        ('{"one": {}}', '"one" is no session'),
        ('{"/1": {}}', '"/1" is no session'),
        ('{"01": {}}', '"01" is no session'),
        ('{"1": {}, "1": {}}', '"1" stands there twice'),
    ],
)
def test_a_damaged_file_is_refused_with_its_line(path: Path, text: str, says: str) -> None:
    path.write_text(text)
    with pytest.raises(DamagedFile, match=says):
        Sessions(path)
    assert path.read_text() == text


@pytest.mark.parametrize(
    ("digits", "number"),
    [
        ("0", 0),
        ("17", 17),
        (str(2**63 - 1), 2**63 - 1),
        (str(2**63), None),
        ("-1", None),
        ("1.0", None),
        ("٣", None),
        ("9" * 9999, None),
        ("", None),
    ],
)
def test_numbers_of_sessions(digits: str, number: int | None) -> None:
    assert parse_number(digits) == number


def test_a_session_answers_one_prompt_at_a_time(path: Path) -> None:
    sessions, key, order = Sessions(path), SessionKey(MASTER, 1), []
    inside = threading.Event()

    def second() -> None:
        with sessions.lock(key, lambda: None):
            order.append("second")

    thread = threading.Thread(target=second)
    with sessions.lock(key, lambda: None):
        thread.start()
        with sessions.lock(SessionKey(MASTER, 2), lambda: None):
            inside.set()
        assert not inside.wait(0) or thread.is_alive()
        order.append("first")
    thread.join()
    assert order == ["first", "second"]
    assert cast(LocalSessionLocks, sessions._locks)._locks == {}


def test_waiting_ends_when_the_caller_leaves(path: Path) -> None:
    sessions, key = Sessions(path), SessionKey(MASTER, 1)

    def poll() -> None:
        raise ClientDisconnected("left")

    with sessions.lock(key, lambda: None), pytest.raises(ClientDisconnected), sessions.lock(key, poll):
        pass
    assert cast(LocalSessionLocks, sessions._locks)._locks == {}


def test_the_unsaved_conversation_is_kept_to_its_last_exchanges(path: Path) -> None:
    sessions = Sessions(path)
    for n in range(5):
        Conversation(sessions, "a", None, memory_k=2, kept=3).store(Exchange(f"q{n}", f"a{n}"))
    assert [exchange.human for exchange in sessions.unsaved.get("a", "unsaved").exchanges] == ["q2", "q3", "q4"]
    assert sessions.unsaved.get("b", "unsaved").exchanges == ()
    assert not path.exists()


def test_thoughts_stand_beside_their_answer(path: Path) -> None:
    key = SessionKey(MASTER, 1)
    thought = Exchange("q", "a", "Hm, ä.")
    history = Sessions(path).history(key)
    history.add_exchange(Exchange("p", "b"))
    history.add_exchange(thought)
    # Once from the journal alone, and once from the file.
    for sessions in (Sessions(path), Sessions(path)):
        again = sessions.history(key)
        assert again.exchanges() == again.window(2) == [Exchange("p", "b"), thought]
        assert again.describe()["messages"][-2:] == [
            {"type": "human", "content": "q"},
            {"type": "ai", "content": "a", "reasoning": "Hm, ä."},
        ]
        assert LangChainHistory(again).messages[-1].additional_kwargs == {"reasoning_content": "Hm, ä."}
        assert sessions.kept(MASTER).n_bytes == 4 + len("Hm, ä.".encode())
        assert sessions.listed(MASTER, "hm") == []
    assert json.loads(path.read_text())["1"]["messages"][1] == {"type": "ai", "content": "b"}


def test_langchains_messages_in_parts_are_kept_as_texts(path: Path) -> None:
    history = LangChainHistory(Sessions(path).history(SessionKey(MASTER, 1)))
    parts: list[str | dict[str, object]] = [{"type": "reasoning", "reasoning": "Hm."}, {"type": "text", "text": "Yes"}, "!"]
    history.add_messages([HumanMessage(["Is it", {"type": "text", "text": " so?"}]), AIMessage(parts)])
    again = Sessions(path).history(SessionKey(MASTER, 1))
    assert again.exchanges() == again.window(3) == [Exchange("Is it so?", "Yes!", "Hm.")]


@pytest.mark.parametrize(
    "message",
    [
        ToolMessage("19 C", tool_call_id="call_1"),
        AIMessage("", tool_calls=[{"name": "look", "args": {}, "id": "call_1"}]),
        HumanMessage([{"type": "image_url", "image_url": {"url": "data:"}}]),
    ],
)
def test_what_a_session_cannot_keep_is_refused_whole(path: Path, message: BaseMessage) -> None:
    history = LangChainHistory(Sessions(path).history(SessionKey(MASTER, 1)))
    with pytest.raises(InvalidRequest, match=f"type {message.type}"):
        history.add_messages([HumanMessage("Hi"), message])
    # The file is as before, and can be read.
    assert Sessions(path).history(SessionKey(MASTER, 1)).messages == []


def test_an_answer_that_is_given_again_has_its_thoughts(path: Path) -> None:
    history = Sessions(path).history(SessionKey(MASTER, 1))
    name = RequestName("key:k", "digest")
    history.add_exchange(Exchange("q", "a", "Hm."), request=Answered(name, {"profile": "P"}))
    assert history.answered(name) == ("a", {"reasoning": "Hm.", "profile": "P"})
