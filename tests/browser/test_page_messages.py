"""What can be done with single messages on the page, against the real server."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import expect

from tests.support.browsing import Chat
from tests.support.serving import ENDLESS, Server, wait_for

Visit = Callable[..., Chat]
Serve = Callable[..., Server]


def talk(server: Server, visit: Visit) -> Chat:
    """A conversation of two exchanges, of somebody's own."""
    chat = visit(server, key=server.mint()[0]).enter()
    chat.ask("My name is Ana.")
    chat.ask("What is the capital of France?")
    return chat


def edit(chat: Chat, name: str, n: int, text: str, done: str) -> None:
    chat.page.locator(".message:visible .words, .message.ai:visible").nth(n).hover()
    chat.page.locator(".message:visible").nth(n).get_by_role("button", name=name).click()
    chat.page.locator(".edit textarea").fill(text)
    chat.button(done).click()


def test_any_prompt_is_edited_and_every_version_stays(server: Server, visit: Visit) -> None:
    chat = talk(server, visit)
    edit(chat, "Edit the prompt", 0, "My name is Bob.", "Ask again")
    expect(chat.answers).to_have_text(["Nice to meet you, Bob!"])
    versions = chat.page.get_by_role("group", name="Version 2 of 2")
    expect(versions).to_contain_text("2/2")
    # It goes on from there, and the other version with all that followed is a click away, after a reload and elsewhere too.
    chat.ask("What is my name?")
    chat.page.reload()
    expect(chat.answers).to_have_text(["Nice to meet you, Bob!", "Your name is Bob."])
    chat.prompts.first.hover()
    chat.button("Earlier version").click()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!", "The capital of France is Paris."])
    expect(chat.button("Earlier version")).to_be_hidden()
    chat.button("Later version").press("Enter")
    expect(chat.answers).to_have_text(["Nice to meet you, Bob!", "Your name is Bob."])


def test_any_answer_is_had_again_or_changed(server: Server, visit: Visit) -> None:
    chat = talk(server, visit)
    chat.button("Answer again").first.click()
    expect(chat.page.get_by_role("group", name="Version 2 of 2")).to_be_visible()
    expect(chat.answers).to_have_count(1)
    edit(chat, "Edit the answer", 1, "Hello *Ana*", "Save")
    expect(chat.answers).to_have_text(["Hello Ana"])
    expect(chat.page.get_by_role("group", name="Version 3 of 3")).to_be_visible()
    # The model reads what it was made to say.
    prompt = chat.server.get(f"/answer/{chat.session}/prompt?prompt=x", key=key_of(chat)).json()["prompt"]
    assert "Hello *Ana*" in prompt
    for number in (2, 1):
        chat.button("Earlier version").click()
        expect(chat.page.get_by_role("group", name=f"Version {number} of 3")).to_be_visible()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!", "The capital of France is Paris."])


def key_of(chat: Chat) -> str:
    return str(chat.page.evaluate("localStorage['hearth.key']"))


def test_a_message_is_deleted_when_it_is_pressed_twice(server: Server, visit: Visit) -> None:
    chat = talk(server, visit)
    chat.button("Delete the answer").last.click()
    expect(chat.button("Delete the answer: press again")).to_be_visible()
    expect(chat.answers).to_have_count(2)
    chat.button("Delete the answer: press again").click()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!"])
    expect(chat.prompts).to_have_count(2)
    chat.page.reload()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!"])
    assert "Paris" not in chat.server.get(f"/answer/{chat.session}", key=key_of(chat)).text


def test_an_answer_that_was_cut_is_continued(server: Server, visit: Visit) -> None:
    key = server.mint()[0]
    server.ask("Count to 9.", key=key, session_id=5, max_tokens=3)
    chat = visit(server, key=key).open("#/5")
    expect(chat.answers).to_have_text(["1, 2"])
    expect(chat.page.locator(".cut")).to_contain_text("Answer cut.")
    chat.button("Continue").click()
    expect(chat.answers).to_have_text(["1, 2, 3, 4, 5, 6, 7, 8, 9."])
    expect(chat.button("Continue")).to_have_count(0)
    assert server.get("/answer/5", key=key).json()["messages"][1]["content"] == "1, 2, 3, 4, 5, 6, 7, 8, 9."


def test_an_answer_is_copied_as_markdown_and_as_text(server: Server, visit: Visit) -> None:
    key = server.mint()[0]
    server.ask("Hi", key=key, session_id=5)
    server.patch("/answer/5/messages/1", {"content": "Some **bold** words"}, key=key)
    chat = visit(server, key=key, permissions=["clipboard-read", "clipboard-write"]).open("#/5")
    chat.button("Copy as Markdown").click()
    chat.wait_for("(async () => await navigator.clipboard.readText() === 'Some **bold** words')()")
    chat.button("Copy as text").click()
    chat.wait_for("(async () => await navigator.clipboard.readText() === 'Some bold words')()")


def test_a_first_prompt_that_failed_is_deleted(serve: Serve, visit: Visit) -> None:
    server = serve()
    chat = visit(server).enter()
    chat.send("x " * 4000)
    failure = chat.page.get_by_role("alert").filter(has_text="too long")
    expect(failure).to_be_visible()
    expect(chat.sessions).to_have_count(1)
    failure.get_by_role("button", name="Delete").click()
    expect(chat.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    expect(chat.sessions).to_have_count(0)
    expect(chat.prompt).to_have_value("")
    expect(chat.prompt).to_be_focused()


def test_reading_is_shown_and_what_is_forgotten_is_marked(serve: Serve, visit: Visit, models: Path) -> None:
    server = serve(models=models)
    template = "{% for message in messages %}{{ message.content }}{% endfor %}"
    profile = {**ENDLESS, "max_tokens": 60, "memory_k": None, "template": None, "chat_template": template}
    server.edit_config("Random", **profile)
    server.stop()
    server.pause = 0.7
    server.start()
    server.select("Random")
    chat = visit(server).enter()
    chat.send("one two three " * 900)
    expect(chat.page.locator(".state")).to_have_text(re.compile("Reading: [0-9]+ of [0-9,]+ tokens, about [0-9]+ s left"))
    assert chat.page.locator(".tail progress").evaluate("bar => bar.value / bar.max") < 1
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".state")).to_be_hidden()
    server.stop()
    server.pause = 0
    server.edit_config("Random", **{**profile, "n_ctx": 1024})
    server.start()
    for n in range(4):
        server.ask(f"{n} " + "one two three " * 60, session_id=9)
    wait_for(lambda: server.get("/answer/9").json()["window"] > 0)
    chat.page.goto(f"{server.url}/#/9")
    chat.page.reload()
    mark = chat.page.get_by_text("The model no longer reads what stands above.")
    expect(mark).to_have_count(1)
    above = mark.evaluate("mark => [...mark.parentElement.children].indexOf(mark)")
    assert above == 2 * server.get("/answer/9").json()["window"]
