from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.browsing import Chat, chromium
from tests.support.hub import Hub
from tests.support.serving import Server, wait_for


@pytest.fixture(scope="package")
def browser() -> Iterator[Browser]:
    """One for all tests of this folder. Longer, and its event loop would stay in the thread of all later tests."""
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Chat]]:
    """Opens the page for one person after the other, each in a browser of their own. None may complain."""
    chats: list[Chat] = []

    def come(server: Server, key: str | None = None, **options: Any) -> Chat:
        chats.append(Chat(browser.new_context(**options), server, key))
        return chats[-1]

    yield come
    complaints = [complaint for chat in chats for complaint in chat.complaints]
    for chat in chats:
        chat.context.close()
    assert complaints == []


@pytest.fixture
def endless(shared_endless: Server) -> Iterator[Server]:
    """The server whose model goes on talking, by a key of the test's own; what is left under way ends with that."""
    mine = copy.copy(shared_endless)
    mine.key, id_ = shared_endless.mint()
    yield mine
    shared_endless.delete(f"/auth/key/{id_}")
    wait_for(lambda: not any(shared_endless.get("/status").json()["answers"][n] for n in ("running", "waiting")))


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """A hub of the test's own, from which its servers fetch."""
    hub = Hub()
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    yield hub
    hub.close()
