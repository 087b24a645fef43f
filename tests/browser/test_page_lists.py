"""The chat page in a browser: the list of conversations, shortcuts, files, paper, and the page as an app."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import requests
from PIL import Image
from playwright.sync_api import Locator, Page, expect
from pypdf import PdfReader

from tests.browser.test_page_panels import DESKTOP, PHONE, _check
from tests.support.browsing import Chat
from tests.support.serving import Server, wait_for

Serve = Callable[..., Server]
Visit = Callable[..., Chat]


@pytest.fixture
def mine(server: Server) -> Server:
    """The shared server by a key of the test's own, without conversations."""
    return _by_own_key(server)


def _by_own_key(server: Server) -> Server:
    own = Server(server.data)
    own.url = server.url
    own.key, _ = server.mint("Ana")
    return own


def group(chat: Chat, title: str) -> Locator:
    """A group of the list."""
    return chat.page.locator(f'.list-group[data-title="{title}"]')


def focused(page: Page) -> str:
    """The name of what has the focus."""
    return str(page.evaluate("document.activeElement.ariaLabel ?? document.activeElement.textContent")).strip()


@pytest.mark.parametrize(
    ("days", "title"),
    [(0, "Today"), (1, "Yesterday"), (6, "Previous 7 days"), (20, "Previous 30 days"), (400, None)],
)
def test_conversations_are_grouped_by_their_dates(mine: Server, visit: Visit, days: int, title: str | None) -> None:
    mine.ask("Count to 3.", session_id=1)
    chat = visit(mine)
    begun = datetime.now()  # noqa: DTZ005
    chat.page.clock.install(time=begun + timedelta(days=days))
    chat.enter()
    titles = chat.page.locator("#sessions h2")
    expect(titles).to_have_text([title or begun.strftime("%B %Y")])


def test_pins_and_folders_are_made_by_the_keyboard_alone(mine: Server, visit: Visit) -> None:
    for number, prompt in enumerate(("Count to 3.", "Count to 4.", "Count to 5."), 1):
        mine.ask(prompt, session_id=number)
    chat = visit(mine).enter()
    press = chat.page.keyboard.press
    chat.page.get_by_role("link", name="Count to 3.").focus()
    press("Shift+F10")
    menu = chat.page.get_by_role("menu")
    expect(menu.get_by_role("menuitem")).to_have_text(["Rename", "Pin", "Move to folder…", "Delete"])
    press("ArrowDown")
    press("Enter")
    expect(group(chat, "Pinned").locator(".name")).to_have_text(["Count to 3."])
    expect(chat.page.get_by_role("link", name="Count to 3.")).to_be_focused()
    # Closed without a choice, it gives the focus back; and an answer under way goes on.
    press("ContextMenu")
    expect(menu).to_be_visible()
    press("Escape")
    expect(menu).to_have_count(0)
    expect(chat.page.get_by_role("link", name="Count to 3.")).to_be_focused()

    chat.page.get_by_role("link", name="Count to 4.").focus()
    press("ArrowRight")
    assert focused(chat.page) == "Options for Count to 4."
    press("Enter")
    for _ in range(2):
        press("ArrowUp")
    press("Enter")
    chat.page.get_by_label("New folder").fill("Sums")
    press("Enter")
    expect(group(chat, "Sums").locator(".name")).to_have_text(["Count to 4."])
    expect(chat.page.get_by_role("link", name="Count to 4.")).to_be_focused()
    chat.choose("Move to folder", "Count to 5.")
    chat.page.get_by_role("dialog").get_by_role("button", name="Sums").click()
    expect(group(chat, "Sums").locator(".name")).to_have_count(2)
    expect(group(chat, "Today")).to_have_count(0)

    # A folder that is folded stays so.
    chat.page.get_by_role("button", name="Sums").focus()
    press("ArrowLeft")
    expect(group(chat, "Sums").locator(".name")).to_have_count(0)
    chat.page.reload()
    folder = chat.page.get_by_role("button", name="Sums")
    expect(folder).to_have_attribute("aria-expanded", "false")
    folder.click()
    expect(group(chat, "Sums").locator(".name")).to_have_count(2)
    expect(folder).to_be_focused()
    chat.choose("Unpin", "Count to 3.")
    expect(group(chat, "Today").locator(".name")).to_have_text(["Count to 3."])
    chat.choose("Move to folder", "Count to 4.")
    chat.page.get_by_role("dialog").get_by_role("button", name="No folder").click()
    expect(group(chat, "Today").locator(".name")).to_have_count(2)
    listed = {each["name"]: (each["pinned"], each["folder"]) for each in mine.get("/sessions").json()["sessions"]}
    assert listed == {"Count to 3.": (False, ""), "Count to 4.": (False, ""), "Count to 5.": (False, "Sums")}


def test_conversations_are_dragged_into_groups(mine: Server, visit: Visit) -> None:
    for number, prompt in enumerate(("Count to 3.", "Count to 4.", "Count to 5."), 1):
        mine.ask(prompt, session_id=number)
    mine.patch("/answer/1", {"pinned": True})
    mine.patch("/answer/2", {"folder": "Sums"})
    chat = visit(mine).enter()
    item = chat.sessions.filter(has_text="Count to 5.")
    item.drag_to(group(chat, "Sums"))
    expect(group(chat, "Sums").locator(".name")).to_have_count(2)
    item.drag_to(group(chat, "Pinned"))
    expect(group(chat, "Pinned").locator(".name")).to_have_count(2)
    # Where there is no folder yet, there is a place for one.
    item.hover()
    chat.page.mouse.down()
    chat.page.mouse.move(40, 300, steps=3)
    fresh = chat.page.get_by_text("Drop here for a new folder")
    expect(fresh).to_be_visible()
    fresh.hover()
    chat.page.mouse.up()
    expect(fresh).to_be_hidden()
    chat.page.get_by_label("New folder").fill("Numbers")
    chat.page.keyboard.press("Enter")
    wait_for(lambda: "Numbers" in {each["folder"] for each in mine.get("/sessions").json()["sessions"]})


def test_hundreds_of_conversations_are_one_tab_stop(mine: Server, visit: Visit) -> None:
    moment = "2026-01-05T10:00:00+00:00"
    talk = [{"type": "human", "content": "Hello"}, {"type": "ai", "content": "Hello!"}]
    sessions = [{"name": f"Talk {n}", "created": moment, "updated": moment, "messages": talk} for n in range(250)]
    _import(mine, sessions)
    chat = visit(mine).enter()
    expect(chat.sessions).to_have_count(200)
    press = chat.page.keyboard.press
    first = chat.page.locator("#sessions a").first
    chat.button("Models").focus()
    press("Shift+Tab")
    expect(first).to_be_focused()
    press("Shift+Tab")
    assert not chat.page.evaluate("document.activeElement.closest('#sessions')")
    press("Tab")
    expect(first).to_be_focused()
    press("ArrowDown")
    expect(chat.page.locator("#sessions a").nth(1)).to_be_focused()
    press("End")
    expect(chat.button("Show more of 250")).to_be_focused()
    press("Enter")
    expect(chat.sessions).to_have_count(250)
    expect(chat.page.locator("#sessions a").nth(200)).to_be_focused()
    press("Home")
    expect(first).to_be_focused()
    press("Enter")
    expect(chat.page.locator("#sessions a[aria-current]")).to_have_count(1)
    # The one that is open is where the list is entered.
    press("End")
    chat.prompt.focus()
    chat.page.reload()
    expect(chat.page.locator("#sessions a[tabindex='0']")).to_have_attribute("aria-current", "page")


def test_what_was_searched_for_is_shown_where_it_was_said(mine: Server, visit: Visit) -> None:
    mine.ask("What is the capital of France?", session_id=1)
    mine.ask("Count to 3.", session_id=2)
    chat = visit(mine).enter()
    chat.page.get_by_label("Search conversations").fill("paris")
    expect(chat.sessions).to_have_count(1)
    expect(chat.page.locator(".snippet mark")).to_have_text("Paris")
    chat.page.get_by_label("Search conversations").fill("CAPITAL")
    expect(chat.page.locator(".name mark")).to_have_text("capital")
    chat.page.get_by_label("Search conversations").fill("(.*")
    none = chat.page.get_by_text("No conversation has these words.")
    expect(none).to_be_visible()
    # It stands where the conversations would.
    box, field = none.bounding_box(), chat.page.get_by_label("Search conversations").bounding_box()
    assert box
    assert field
    assert 0 < box["y"] - field["y"] < 120


def test_an_empty_list_says_what_it_is_for(mine: Server, visit: Visit) -> None:
    chat = visit(mine).enter()
    expect(chat.page.get_by_text("No conversations yet. Each one that you begin will be listed here.")).to_be_visible()
    chat.page.keyboard.press("Control+k")
    expect(chat.page.get_by_text("There are no conversations yet.")).to_be_visible()


def test_a_conversation_is_found_from_anywhere(mine: Server, visit: Visit) -> None:
    mine.ask("What is the capital of France?", session_id=1)
    mine.ask("Count to 3.", session_id=2)
    chat = visit(mine).enter()
    press = chat.page.keyboard.press
    chat.button("Settings").focus()
    press("Control+k")
    field = chat.page.get_by_role("combobox", name="Search all conversations")
    options = chat.page.get_by_role("option")
    expect(field).to_be_focused()
    expect(options).to_have_count(2)
    field.fill("paris")
    expect(options).to_have_count(1)
    expect(options.locator(".snippet mark")).to_have_text("Paris")
    press("Escape")
    expect(field).to_have_count(0)
    expect(chat.button("Settings")).to_be_focused()

    press("Control+k")
    expect(options).to_have_count(2)
    press("ArrowDown")
    expect(options.nth(1)).to_have_attribute("aria-selected", "true")
    chosen = options.nth(1).get_attribute("id")
    expect(field).to_have_attribute("aria-activedescendant", str(chosen))
    press("Enter")
    expect(chat.answers).to_have_count(1)
    expect(chat.prompt).to_be_focused()
    # The same key closes it.
    press("Control+k")
    expect(field).to_be_focused()
    press("Control+k")
    expect(field).to_have_count(0)
    press("Control+Shift+O")
    expect(chat.page.get_by_text("What would you like to know?")).to_be_visible()
    expect(chat.prompt).to_be_focused()


def test_the_shortcuts_are_listed_and_the_list_is_skipped(mine: Server, visit: Visit) -> None:
    chat = visit(mine).enter()
    chat.prompt.press("?")
    expect(chat.prompt).to_have_value("?")
    chat.button("Settings").focus()
    chat.page.keyboard.press("?")
    dialog = chat.page.get_by_role("dialog", name="Keyboard shortcuts")
    for keys in ("CtrlK", "CtrlShiftO", "ShiftF10"):
        expect(dialog.locator("dd").filter(has_text=re.compile(f"^{keys}$"))).to_be_visible()
    chat.page.keyboard.press("Escape")
    expect(dialog).to_have_count(0)
    expect(chat.button("Settings")).to_be_focused()
    chat.button("Shortcuts").click()
    chat.button("Close").click()
    expect(dialog).to_have_count(0)

    before = chat.page.url
    skip = chat.page.get_by_role("link", name="Skip to the conversation")
    skip.focus()
    expect(skip).to_be_in_viewport()
    chat.page.keyboard.press("Enter")
    expect(chat.page.get_by_role("log")).to_be_focused()
    assert chat.page.url == before


def test_all_conversations_are_taken_out_and_brought_in(server: Server, mine: Server, visit: Visit, tmp_path: Path) -> None:
    mine.ask("What is the capital of France?", session_id=1)
    mine.patch("/answer/1", {"folder": "Capitals"})
    chat = visit(mine).enter()
    transfer = chat.button("Export or import conversations")
    with chat.page.expect_download() as saving:
        transfer.click()
        chat.page.get_by_role("menuitem", name="Export all").click()
    assert re.fullmatch(r"hearth-conversations \d{4}-\d\d-\d\d\.json", saving.value.suggested_filename)
    text = saving.value.path().read_text(encoding="utf-8")
    assert json.loads(text)["format"] == "hearth-sessions"
    saved = tmp_path / "saved.json"
    saved.write_text(text)

    other = visit(_by_own_key(server)).enter()
    _choose_file(other, saved)
    expect(other.page.locator("#toasts")).to_contain_text("1 conversation was imported.")
    expect(group(other, "Capitals").locator(".name")).to_have_text(["What is the capital of France?"])
    other.page.get_by_role("link", name="What is the capital of France?").click()
    expect(other.answers).to_have_text(["The capital of France is Paris."])

    saved.write_text("# Not this")
    _choose_file(other, saved)
    expect(other.page.locator("#toasts")).to_contain_text("it is not a file of conversations")
    saved.write_bytes(b"PK\x03\x04")
    _choose_file(other, saved)
    expect(other.page.locator("#toasts")).to_contain_text("Unpack it")
    saved.write_text('{"some": "thing"}')
    _choose_file(other, saved)
    expect(other.page.locator("#toasts .error")).to_have_count(3)
    expect(other.sessions).to_have_count(1)


def _choose_file(chat: Chat, path: Path) -> None:
    with chat.page.expect_file_chooser() as choosing:
        chat.button("Export or import conversations").click()
        chat.page.get_by_role("menuitem", name="Import").click()
    choosing.value.set_files(path)


def _import(server: Server, sessions: list[dict[str, Any]]) -> None:
    reply = server.post("/sessions/import", {"format": "hearth-sessions", "version": 1, "sessions": sessions})
    assert reply.json()["imported"] == len(sessions), reply.text


def test_on_paper_there_is_the_conversation_alone(mine: Server, visit: Visit) -> None:
    code = f"[A link](https://example.org/far)\n\n```python\nx = 1  # {'a long line ' * 20}END\n```"
    messages = []
    for n in range(120):
        # Of so many lengths that some prompt would end just where a page does.
        messages += [
            {"type": "human", "content": "A line\n" * (n % 3) + f"Prompt number {n}."},
            {"type": "ai", "content": code if n % 40 == 0 else f"Answer number {n}."},
        ]
    _import(mine, [{"name": "Numbers", "messages": messages}])
    (session,) = mine.get("/sessions").json()["sessions"]
    chat = visit(mine, color_scheme="dark").open(f"#/{session['session_id']}")
    expect(chat.answers).to_have_count(120)
    pages = [page.extract_text() for page in PdfReader(io.BytesIO(chat.page.pdf(format="A4"))).pages]
    assert len(pages) > 4
    whole = "\n".join(pages)
    assert whole.startswith("Numbers")
    assert whole.count("END") == 3
    for unwanted in ("New chat", "Models", "Ask something", "Settings", "example.org"):
        assert unwanted not in whole
    for page in pages:
        assert not re.search(r"(Prompt number \d+\.|A line)$", page.strip())
    chat.page.emulate_media(media="print")
    colours = chat.page.evaluate("[getComputedStyle(document.body).color, getComputedStyle(document.body).backgroundColor]")
    assert colours == ["rgb(0, 0, 0)", "rgb(255, 255, 255)"]


def test_the_page_can_be_installed(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    # Chromium's own opinion of the manifest.
    session = chat.context.new_cdp_session(chat.page)
    assert session.send("Page.getAppManifest")["errors"] == []
    errors = session.send("Page.getInstallabilityErrors")["installabilityErrors"]
    # A test's browser is a private window, in which nothing is installed.
    assert [error["errorId"] for error in errors] == ["in-incognito"]
    reply = requests.get(f"{server.url}/page/chat/hearth.webmanifest", timeout=10)
    assert reply.headers["Content-Type"].startswith("application/manifest+json")
    for icon in reply.json()["icons"]:
        picture = requests.get(server.url + icon["src"], timeout=10)
        assert picture.headers["Content-Type"].startswith(icon["type"])
        if icon["type"] == "image/png":
            assert "x".join(map(str, Image.open(io.BytesIO(picture.content)).size)) == icon["sizes"]


def test_a_server_that_is_away_leaves_a_page_that_says_so(serve: Serve, visit: Visit) -> None:
    server = serve()
    chat = visit(server).enter()
    chat.ask("Count to 3.")
    chat.wait_for("navigator.serviceWorker.controller !== null")
    link = chat.page.url
    # While the server is there, all comes from it, and nothing that was said is kept.
    kept = (
        "caches.keys().then((names) => Promise.all(names.map((name) => caches.open(name).then((cache) => cache.keys()))))"
    )
    names = chat.page.evaluate(f"{kept}.then((found) => found.flat().map(({{ url }}) => new URL(url).pathname))")
    assert sorted(names) == [f"/page/chat/{name}" for name in ("icon.svg", "offline.css", "offline.html", "offline.js")]
    server.stop()
    chat.page.reload()
    expect(chat.page.get_by_role("heading", name="Your Hearth server cannot be reached")).to_be_visible()
    _check(chat.page)
    chat.button("Try again").click()
    expect(chat.page.get_by_role("status")).to_contain_text("It cannot be reached yet.")
    server.flags = ("--port", server.url.rpartition(":")[2])
    server.start()
    # It comes back by itself, to where it was.
    expect(chat.answers).to_have_text(["1, 2, 3."])
    assert chat.page.url == link


def test_a_message_that_comes_up_covers_nothing_and_can_be_closed(mine: Server, visit: Visit) -> None:
    for _ in range(3):
        mine.ask("What can you do?", session_id=1)
    mine.ask("Count to 3.", session_id=2)
    chat = visit(mine, viewport={"width": 900, "height": 420}).open("#/1")
    expect(chat.page.get_by_role("button", name="Answer again").last).to_be_in_viewport(ratio=1)
    for closing in ("by its button", "from inside", "from elsewhere"):
        chat.choose("Delete", "Count to 3.")
        toast = chat.page.locator(".toast")
        expect(toast).to_be_visible()
        expect(chat.page.get_by_role("button", name="Answer again").last).to_be_in_viewport(ratio=1)
        places = [each.bounding_box() for each in (chat.page.locator("#scroll"), toast, chat.page.locator("#composer"))]
        for upper, lower in pairwise(places):
            assert upper
            assert lower
            assert upper["y"] + upper["height"] <= lower["y"] + 0.5
        if closing == "by its button":
            chat.button("Close this message").click()
        else:
            (chat.button("Undo") if closing == "from inside" else chat.page.get_by_role("log")).focus()
            chat.page.keyboard.press("Escape")
        expect(toast).to_have_count(0)
        # It is deleted then, and nobody waits for it.
        wait_for(lambda: mine.get("/answer/2").status_code == 404)
        mine.ask("Count to 3.", session_id=2)
        chat.page.reload()
        expect(chat.sessions).to_have_count(2)


def test_a_message_stays_while_somebody_is_at_it(mine: Server, visit: Visit) -> None:
    mine.ask("Count to 3.", session_id=2)
    chat = visit(mine)
    chat.page.clock.install()
    chat.enter()
    chat.choose("Delete", "Count to 3.")
    chat.button("Undo").focus()
    chat.page.clock.fast_forward(60_000)
    chat.button("Undo").click()
    expect(chat.sessions).to_have_count(1)
    assert mine.get("/answer/2").status_code == 200


def test_copied_is_said_and_shown(mine: Server, visit: Visit) -> None:
    chat = visit(mine, permissions=["clipboard-read", "clipboard-write"]).enter()
    chat.ask("Count to 3.")
    copy = chat.button("Copy as Markdown")
    copy.click()
    expect(copy).to_have_text("Copied")
    expect(chat.page.get_by_role("status").filter(has_text="Copied")).to_be_attached()
    expect(copy).to_have_text("")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_the_list_and_what_it_opens_are_for_everybody(
    mine: Server, visit: Visit, size: dict[str, Any], scheme: str
) -> None:
    for number, prompt in enumerate(("Count to 3.", "Count to 4.", "What is the capital of France?"), 1):
        mine.ask(prompt, session_id=number)
    mine.patch("/answer/1", {"pinned": True})
    mine.patch("/answer/2", {"folder": "Sums"})
    chat = visit(mine, color_scheme=scheme, **size).enter()
    if size is PHONE:
        chat.button("Conversations").tap()
    expect(group(chat, "Pinned")).to_be_visible()
    _check(chat.page)
    chat.button("Options for Count to 4.").click()
    _check(chat.page)
    chat.page.get_by_role("menuitem", name="Move to folder").click()
    expect(chat.page.get_by_role("dialog")).to_be_visible()
    _check(chat.page)
    chat.page.keyboard.press("Escape")
    search = chat.page.get_by_label("Search conversations")
    assert _contrast(search) >= 4.5
    search.fill("count")
    expect(chat.page.locator("#sessions mark").first).to_be_visible()
    _check(chat.page)
    for key in ("Control+k", "?"):
        chat.button("Shortcuts").focus()
        chat.page.keyboard.press(key)
        expect(chat.page.get_by_role("dialog")).to_be_visible()
        _check(chat.page)
        chat.page.keyboard.press("Escape")
        expect(chat.page.get_by_role("dialog")).to_have_count(0)
    chat.choose("Delete", "Count to 4.")
    _check(chat.page)


def _contrast(field: Locator) -> float:
    """The contrast of a field's placeholder with its ground, as WCAG 2 counts it."""
    colours = field.evaluate(
        "field => [getComputedStyle(field, '::placeholder').color, getComputedStyle(field).backgroundColor]"
    )
    lights = sorted(_luminance([int(part) for part in re.findall(r"\d+", colour)[:3]]) for colour in colours)
    return (lights[1] + 0.05) / (lights[0] + 0.05)


def _luminance(colour: list[int]) -> float:
    parts = [part / 255 for part in colour]
    red, green, blue = (part / 12.92 if part <= 0.04045 else ((part + 0.055) / 1.055) ** 2.4 for part in parts)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue
