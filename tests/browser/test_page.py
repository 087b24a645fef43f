"""The chat page in a browser: coming in, conversations, and asking."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import requests
from playwright.sync_api import expect

from tests.support.browsing import Chat
from tests.support.serving import Server, wait_for

Serve = Callable[..., Server]
Visit = Callable[..., Chat]


def test_a_key_is_asked_for_once_and_kept_in_the_browser_only(server: Server, visit: Visit) -> None:
    chat = visit(server, key="").open()
    key = chat.page.get_by_label("Key", exact=True)
    expect(key).to_be_focused()
    for wrong in ("hearth-wrong", "ключ"):
        key.fill(wrong)
        key.press("Enter")
        expect(chat.page.get_by_role("alert")).to_contain_text("This key is not valid")
    key.fill(f" {server.key} ")
    key.press("Enter")
    expect(chat.prompt).to_be_focused()
    chat.page.reload()
    expect(chat.prompt).to_be_focused()
    assert chat.ask("What is the capital of France?") == "The capital of France is Paris."
    assert any(url.endswith("/auth") for url in chat.urls)
    assert not [url for url in chat.urls if server.key in url or not url.startswith(server.url)]
    assert server.key not in server.log()
    assert server.key not in chat.page.content()
    chat.button("Sign out").click()
    expect(key).to_be_visible()
    assert chat.page.evaluate("Object.keys(localStorage)") == []


def test_a_revoked_key_is_asked_for_again(server: Server, visit: Visit) -> None:
    key, id_ = server.mint("Bob")
    chat = visit(server, key=key).enter()
    expect(chat.button("Keys")).to_be_hidden()
    server.delete(f"/auth/key/{id_}")
    chat.send("Hello")
    expect(chat.page.get_by_role("alert")).to_contain_text("no longer valid")
    chat.page.reload()
    expect(chat.page.get_by_role("alert")).to_contain_text("no longer valid")


def test_the_page_is_small_and_lets_nothing_in_from_elsewhere(server: Server, visit: Visit) -> None:
    page = requests.get(server.url, timeout=10)
    policy = page.headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe" not in policy
    assert "://" not in page.text
    chat = visit(server)
    sent = chat.context.new_cdp_session(chat.page)
    arrived: list[float] = []
    sent.send("Network.enable")
    sent.on("Network.loadingFinished", lambda event: arrived.append(event["encodedDataLength"]))
    chat.enter()
    # The colours come with the first code, and are not counted.
    chat.page.wait_for_timeout(600)
    assert 30_000 < sum(arrived) < 150_000
    chat.page.evaluate("import('/page/highlight/core.min.js')")
    for url in {url for url in chat.urls if "/page/" in url}:
        first = requests.get(url, timeout=10)
        assert first.headers["Content-Encoding"] == "gzip"
        again = requests.get(url, headers={"If-None-Match": first.headers["ETag"]}, timeout=10)
        assert (again.status_code, again.content) == (304, b"")


@pytest.mark.parametrize(
    ("path", "status"),
    [("/page/", 401), ("/page/marked/LICENSE", 404), ("/page/chat/index.html", 404), ("/page/chat", 404)],
)
def test_no_other_file_is_given(server: Server, path: str, status: int) -> None:
    assert requests.get(server.url + path, timeout=10).status_code == status


def test_sessions_are_listed_searched_renamed_and_deleted_with_a_way_back(serve: Serve, visit: Visit) -> None:
    server = serve()
    server.ask("Count to 3.", session_id=1)
    # They are listed by the second.
    time.sleep(1.1)
    server.ask("What is the capital of France?", session_id=2**62)
    chat = visit(server)
    chat.page.clock.install()
    chat.enter()
    names = chat.page.locator("#sessions .name")
    expect(names).to_have_text(["What is the capital of France?", "Count to 3."])
    expect(chat.page.locator("#sessions time").first).to_have_text("just now")
    search = chat.page.get_by_label("Search conversations")
    search.fill("PARIS")
    expect(names).to_have_text(["What is the capital of France?"])
    search.fill("nothing like it")
    expect(chat.page.get_by_text("No conversation has these words.")).to_be_visible()
    search.fill("")
    expect(names).to_have_count(2)

    chat.choose("Rename", "Count to 3.")
    chat.page.get_by_label("Name of the conversation").fill("Numbers")
    chat.page.keyboard.press("Enter")
    expect(names).to_have_text(["What is the capital of France?", "Numbers"])
    assert server.get("/answer/1").json()["name"] == "Numbers"

    chat.page.get_by_role("link", name="Numbers").click()
    expect(chat.answers).to_have_text(["1, 2, 3."])
    for action in ("Undo", ""):
        chat.choose("Delete", "Numbers")
        expect(names).to_have_count(1)
        expect(chat.answers).to_have_count(0)
        if action:
            chat.button(action).click()
            expect(names).to_have_count(2)
            expect(chat.answers).to_have_text(["1, 2, 3."])
            assert server.get("/answer/1").status_code == 200
    # Seven seconds are over.
    chat.page.clock.fast_forward(7500)
    deadline = time.monotonic() + 20
    while server.get("/answer/1").status_code != 404:
        assert time.monotonic() < deadline
        chat.page.wait_for_timeout(100)
    # A number beyond what JavaScript counts exactly.
    chat.page.get_by_role("link", name="What is the capital of France?").click()
    expect(chat.answers).to_have_text(["The capital of France is Paris."])
    chat.ask("Count to 3.")
    assert len(server.get(f"/answer/{2**62}").json()["messages"]) == 4


def test_leaving_the_page_deletes_what_was_to_be_deleted(serve: Serve, visit: Visit) -> None:
    server = serve()
    server.ask("Count to 3.", session_id=1)
    chat = visit(server).enter()
    chat.choose("Delete", "Count to 3.")
    expect(chat.sessions).to_have_count(0)
    chat.page.goto(f"{server.url}/health")
    deadline = time.monotonic() + 20
    while server.get("/answer/1").status_code != 404:
        assert time.monotonic() < deadline
        time.sleep(0.1)


def test_a_link_opens_a_conversation_which_outlives_reload_and_restart(serve: Serve, visit: Visit) -> None:
    server = serve()
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    chat.ask("What is my name?")
    said = ["Nice to meet you, Ana!", "Your name is Ana."]
    expect(chat.answers).to_have_text(said)
    expect(chat.page).to_have_title("My name is Ana. · Hearth")
    link = chat.page.url
    chat.page.reload()
    expect(chat.answers).to_have_text(said)
    expect(chat.prompts).to_have_text(["My name is Ana.", "What is my name?"])
    expect(chat.page.locator(".figures")).to_have_count(2)
    server.stop()
    server.flags = ("--port", server.url.rpartition(":")[2])
    server.start()
    other = visit(server)
    other.page.goto(link)
    expect(other.answers).to_have_text(said)
    other.page.goto(f"{server.url}/#/12345")
    expect(other.page.get_by_text("There is no such conversation.")).to_be_visible()


def test_under_an_answer_stands_how_it_came(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("What can you do?")
    figures = chat.page.locator(".figures")
    expect(figures).to_have_text(
        re.compile(r"^[\d.]+ tokens/s · \d+ of 20 prompt tokens cached · first token after [\d.]+ m?s · Guide$")
    )


def test_stop_really_stops_and_keeps_what_was_said(endless: Server, visit: Visit) -> None:
    chat = visit(endless).enter()
    chat.send("Go on and on")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    expect(chat.button("Send")).to_be_visible()
    # With one answer at a time, another is answered at once only if this one has ended.
    begun = time.monotonic()
    endless.ask("hi", max_tokens=1)
    assert time.monotonic() - begun < 10
    assert {"running": 0, "waiting": 0}.items() <= endless.get("/status").json()["answers"].items()
    (_, prompt), (kind, answer) = chat.stored()
    assert (prompt, kind) == ("Go on and on", "ai")
    shown = chat.answers.inner_text()
    assert re.sub(r"\W", "", answer)[:40] == re.sub(r"\W", "", shown)[:40]
    chat.page.reload()
    expect(chat.answers).to_have_count(1)


def test_escape_stops_before_the_first_word_and_gives_the_prompt_back(endless: Server, visit: Visit) -> None:
    busy = endless.stream("hold the slot")
    busy.next()
    chat = visit(endless).enter()
    chat.send("Wait for it")
    expect(chat.page.locator(".state")).to_have_text("Waiting: number 1 in line")
    chat.page.keyboard.press("Escape")
    expect(chat.prompt).to_have_value("Wait for it")
    expect(chat.answers).to_have_count(0)
    busy.close()
    assert endless.get("/sessions").json()["sessions"] == []


def test_the_last_prompt_is_answered_anew_and_edited(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    chat.ask("What is the capital of France?")
    expect(chat.button("Answer again")).to_have_count(2)
    chat.button("Answer again").last.click()
    expect(chat.page.get_by_role("group", name="Version 2 of 2")).to_be_visible()
    assert [content for _, content in chat.stored()] == [
        "My name is Ana.",
        "Nice to meet you, Ana!",
        "What is the capital of France?",
        "The capital of France is Paris.",
    ]
    chat.prompts.last.hover()
    chat.button("Edit the prompt").last.click()
    field = chat.page.get_by_role("textbox", name="The prompt")
    expect(field).to_have_value("What is the capital of France?")
    field.press("Escape")
    expect(field).to_have_count(0)
    chat.prompts.last.hover()
    chat.button("Edit the prompt").last.click()
    field.fill("What is my name?")
    field.press("Enter")
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!", "Your name is Ana."])
    expect(chat.page.locator(".figures")).to_have_count(2)
    # The words are shown a moment before the exchange is stored.
    wait_for(lambda: [content for _, content in chat.stored()][2:] == ["What is my name?", "Your name is Ana."])
    chat.page.reload()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!", "Your name is Ana."])


def test_the_keyboard_does_it_all(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.prompt.press_sequentially("Count")
    chat.prompt.press("Shift+Enter")
    chat.prompt.press_sequentially("to 3.")
    expect(chat.prompt).to_have_value("Count\nto 3.")
    chat.prompt.fill("Count to 3.")
    chat.prompt.press("Enter")
    expect(chat.answers).to_have_text(["1, 2, 3."])
    expect(chat.prompt).to_have_value("")
    chat.button("Settings").focus()
    chat.page.keyboard.press("/")
    expect(chat.prompt).to_be_focused()
    chat.page.keyboard.press("/")
    expect(chat.prompt).to_have_value("/")
    panel = chat.panel("Status")
    chat.page.keyboard.press("Escape")
    expect(panel).to_be_hidden()
    # An empty prompt is none.
    chat.prompt.fill("  ")
    chat.prompt.press("Enter")
    chat.page.wait_for_timeout(200)
    assert len(chat.stored()) == 2


def test_a_reload_in_the_middle_of_an_answer_loses_nothing(endless: Server, visit: Visit) -> None:
    chat = visit(endless).enter()
    chat.send("Go on and on")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    chat.page.reload()
    expect(chat.prompts).to_have_text(["Go on and on"])
    before = len(chat.answers.inner_text())
    chat.wait_for(f"document.querySelector('.message.ai .markdown').innerText.length > {before + 20}")
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    assert [kind for kind, _ in chat.stored()] == ["human", "ai"]


def test_a_killed_server_comes_back_to_its_reader(serve: Serve, models: Path, visit: Visit) -> None:
    server = serve(models=models, endless={"max_tokens": 600})
    server.select("Guide")
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    server.select("Random")
    chat.send("Go on")
    expect(chat.answers.last).to_have_text(re.compile(r"\S+\s+\S"))
    server.kill()
    expect(chat.page.locator(".state")).to_contain_text("The connection is lost")
    server.flags = ("--port", server.url.rpartition(":")[2])
    server.start()
    expect(chat.page.locator(".figures")).to_have_count(2, timeout=60_000)
    assert [content for _, content in chat.stored()][:3] == ["My name is Ana.", "Nice to meet you, Ana!", "Go on"]
    assert len(chat.stored()) == 4


def test_what_was_typed_and_not_sent_is_still_there(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("Count to 3.")
    chat.prompt.fill("half a thou")
    chat.button("New chat").or_(chat.page.get_by_role("link", name="New chat")).first.click()
    expect(chat.prompt).to_have_value("")
    chat.page.go_back()
    expect(chat.prompt).to_have_value("half a thou")
    chat.page.reload()
    expect(chat.prompt).to_have_value("half a thou")


def test_what_goes_wrong_is_said_and_can_be_tried_again(serve: Serve, models: Path, visit: Visit) -> None:
    server = serve(models=models)
    server.edit_config("Gone", model="gone.gguf", template="{input}")
    server.select("Gone")
    chat = visit(server).enter()
    chat.send("What is the capital of France?")
    expect(chat.page.get_by_role("alert").filter(has_text="gone.gguf")).to_be_visible()
    chat.button("Try again").click()
    expect(chat.page.get_by_role("alert").filter(has_text="gone.gguf")).to_be_visible()
    server.select("Guide")
    chat.button("Try again").click()
    expect(chat.answers).to_have_text(["The capital of France is Paris."])
    assert len(chat.stored()) == 2


def test_another_conversation_can_be_had_while_one_is_answered(serve: Serve, models: Path, visit: Visit) -> None:
    endless = serve(models=models, endless={"n_parallel": 2})
    chat = visit(endless).enter()
    chat.send("Go on and on")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    first = chat.session
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.prompts).to_have_count(0)
    chat.send("And another")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    chat.page.goto(f"{endless.url}/#/{first}")
    expect(chat.prompts).to_have_text(["Go on and on"])
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    assert len(chat.stored()) == 2
