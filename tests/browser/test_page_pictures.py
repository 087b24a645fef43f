"""The pictures of docs/page.md, of what they show on the real server."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from playwright.sync_api import expect

from tests.browser.test_page_files import attach, key_of
from tests.support import documents
from tests.support.browsing import Chat
from tests.support.pictures import take_picture
from tests.support.serving import Server

Visit = Callable[..., Chat]
DESKTOP = {"width": 1280, "height": 760}

FORMULAS = r"""The roots of $ax^2 + bx + c$ are

$$x_{1,2} = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$$

| case | roots |
|:--|--:|
| $b^2 > 4ac$ | 2 |
| $b^2 = 4ac$ | 1 |

- [x] derive them
- [ ] draw them[^1]

[^1]: A parabola is enough."""


@pytest.fixture
def chat(server: Server, visit: Visit) -> Chat:
    return visit(server, key=server.mint()[0], viewport=DESKTOP).enter()


def test_versions_of_an_answer(server: Server, chat: Chat) -> None:
    chat.ask("My name is Ana.")
    chat.ask("What is the capital of France?")
    chat.button("Answer again").last.click()
    expect(chat.page.get_by_role("group", name="Version 2 of 2")).to_be_visible()
    server.ask("Count to 9.", key=key_of(chat), session_id=int(chat.session), max_tokens=3)
    chat.page.reload()
    expect(chat.button("Continue")).to_be_visible()
    chat.prompts.last.hover()
    take_picture(chat.page, "page-versions.png")


def test_files_and_their_passages(chat: Chat) -> None:
    attach(chat, "handbook.pdf", documents.handbook_pdf())
    chat.ask("Who should be called if I am ill?")
    chat.page.locator(".citations summary").first.click()
    take_picture(chat.page, "page-files.png")


def test_formulas_tables_and_tasks(server: Server, chat: Chat) -> None:
    chat.ask("Hello")
    assert server.patch(f"/answer/{chat.session}/messages/1", {"content": FORMULAS}, key=key_of(chat)).status_code == 200
    chat.page.reload()
    expect(chat.page.locator("math")).not_to_have_count(0)
    take_picture(chat.page, "page-formulas.png")


def test_the_list_of_models(chat: Chat) -> None:
    chat.model.click()
    expect(chat.page.get_by_role("listbox")).to_be_visible()
    take_picture(chat.page, "page-models.png")


def test_folders_and_the_search(server: Server, chat: Chat) -> None:
    key = key_of(chat)
    for n, (words, change) in enumerate(
        (("What is the capital of Spain?", {"folder": "Travel"}), ("Count to 3.", {"pinned": True}), ("Hello", {})), 1
    ):
        server.ask(words, key=key, session_id=n)
        if change:
            server.patch(f"/answer/{n}", change, key=key)
    chat.page.reload()
    expect(chat.sessions.filter(has_text="Hello")).to_be_visible()
    chat.page.keyboard.press("Control+k")
    expect(chat.page.get_by_role("dialog").locator("input")).to_be_focused()
    chat.page.keyboard.type("Spain")
    expect(chat.page.get_by_role("dialog").get_by_text(re.compile("Spain")).first).to_be_visible()
    take_picture(chat.page, "page-search.png")


def test_the_settings(chat: Chat) -> None:
    panel = chat.panel("Settings")
    panel.get_by_text("More", exact=True).click()
    take_picture(chat.page, "page-settings.png")
