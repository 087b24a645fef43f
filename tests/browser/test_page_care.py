"""The chat page in a browser: nothing that was said or typed is lost, whatever comes in between."""

from __future__ import annotations

import json
import re
from collections.abc import Callable

from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import expect

from tests.support.browsing import Chat
from tests.support.serving import Server, wait_for

Serve = Callable[..., Server]
Visit = Callable[..., Chat]


def test_what_another_device_has_said_is_not_replaced_unseen(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    server.ask("What is the capital of France?", session_id=int(chat.session))
    chat.button("Answer again").last.click()
    expect(chat.page.get_by_text("gone on elsewhere")).to_be_visible()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!", "The capital of France is Paris."])
    assert len(chat.stored()) == 4
    # Now that it is seen, it may be.
    chat.button("Answer again").last.click()
    expect(chat.page.get_by_role("group", name="Version 2 of 2")).to_be_visible()
    assert len(chat.stored()) == 4


def test_a_first_prompt_under_way_is_listed_and_found_again(endless: Server, visit: Visit) -> None:
    chat = visit(endless).enter()
    chat.send("Go on and on")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    session = chat.session
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.prompts).to_have_count(0)
    chat.page.get_by_role("link", name="Go on and on").click()
    expect(chat.prompts).to_have_text(["Go on and on"])
    chat.page.get_by_role("link", name="New chat").click()
    endless.post(f"/answer/{session}/stop")
    expect(chat.page.locator("#sessions time")).to_have_count(1)
    chat.page.get_by_role("link", name="Go on and on").click()
    # How it came about is known, though nobody looked when it ended.
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    chat.send("Go on")
    expect(chat.answers.last).to_have_text(re.compile(r"\S+\s+\S"))
    assert chat.page.locator("#scroll").get_attribute("aria-busy") == "true"
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_have_count(2)
    expect(chat.page.locator("#scroll")).to_have_attribute("aria-busy", "false")


def test_a_stopped_prompt_comes_back_before_what_was_typed_since(endless: Server, visit: Visit) -> None:
    busy = endless.stream("hold the slot")
    busy.next()
    chat = visit(endless).enter()
    chat.send("The first")
    expect(chat.page.locator(".state")).to_contain_text("number 1 in line")
    assert [each["id"] for each in Axe().run(chat.page).response["violations"]] == []
    chat.prompt.fill("The second")
    chat.page.keyboard.press("Escape")
    expect(chat.prompt).to_have_value("The first\n\nThe second")
    expect(chat.page.get_by_text("What would you like to know?")).to_be_visible()
    chat.page.reload()
    expect(chat.prompt).to_have_value("The first\n\nThe second")
    busy.close()


def test_a_failed_prompt_is_kept_over_reload_and_other_prompts(serve: Serve, visit: Visit) -> None:
    server = serve()
    server.edit_config("Gone", model="gone.gguf", template="{input}")
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    server.select("Gone")
    chat.send("What is my name?")
    failure = chat.page.get_by_role("alert").filter(has_text="gone.gguf")
    expect(failure).to_be_visible()
    chat.page.reload()
    expect(failure).to_be_visible()
    expect(chat.prompts).to_have_text(["My name is Ana.", "What is my name?"])
    server.select("Guide")
    assert chat.ask("Count to 3.") == "1, 2, 3."
    expect(chat.prompt).to_have_value("What is my name?")
    assert len(chat.stored()) == 4
    server.select("Gone")
    chat.prompt.fill("Never mind")
    chat.prompt.press("Enter")
    expect(failure).to_be_visible()
    chat.button("Edit").click()
    expect(chat.prompt).to_have_value("Never mind")
    expect(failure).to_have_count(0)
    expect(chat.prompts).to_have_count(2)


def test_a_prompt_that_is_being_edited_outlives_the_page(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    chat.prompts.last.hover()
    chat.button("Edit the prompt").last.click()
    field = chat.page.get_by_role("textbox", name="The prompt")
    expect(field).to_be_focused()
    field.fill("My name is Bob.")
    chat.page.reload()
    expect(field).to_have_value("My name is Bob.")
    chat.button("Ask again").click()
    expect(chat.answers).to_have_text(["Nice to meet you, Bob!"])
    expect(field).to_have_count(0)
    chat.page.reload()
    expect(chat.answers).to_have_count(1)
    expect(field).to_have_count(0)


def test_a_deleted_conversation_that_is_opened_again_stays(server: Server, visit: Visit) -> None:
    key = server.mint("Bob")[0]
    server.ask("My name is Ana.", key=key, session_id=1)
    chat = visit(server, key=key)
    chat.page.clock.install()
    chat.enter()
    chat.page.get_by_role("link", name="My name is Ana.").click()
    expect(chat.answers).to_have_count(1)
    chat.choose("Delete", "My name is Ana.")
    expect(chat.answers).to_have_count(0)
    chat.page.go_back()
    expect(chat.answers).to_have_count(1)
    expect(chat.button("Undo")).to_have_count(0)
    assert chat.ask("What is my name?") == "Your name is Ana."
    chat.page.clock.fast_forward(10_000)
    chat.page.wait_for_timeout(500)
    assert len(server.get("/answer/1", key=key).json()["messages"]) == 4


def test_a_name_that_was_given_stays_when_the_first_prompt_is_answered_anew(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("What is the capital of France?")
    name = chat.page.locator("#sessions [aria-current] .name")
    expect(name).to_have_text("What is the capital of France?")
    chat.prompts.last.hover()
    chat.button("Edit the prompt").last.click()
    field = chat.page.get_by_role("textbox", name="The prompt")
    field.fill("What is the capital of Spain?")
    field.press("Enter")
    expect(chat.answers).to_have_text(["The capital of Spain is Madrid."])
    # By its first words, as long as nobody has given it another.
    expect(name).to_have_text("What is the capital of Spain?")
    server.request("PATCH", f"/answer/{chat.session}", json={"name": "Capitals"})
    chat.button("Answer again").click()
    expect(name).to_have_text("Capitals")
    expect(chat.page.locator("#title")).to_have_text("Capitals")


def test_a_key_that_a_person_has_typed_is_good_whatever_its_letters(serve: Serve, visit: Visit) -> None:
    server = serve()
    key = "clé, ключ"
    # A server that runs takes it up.
    (server.data / "api_keys.json").write_text(json.dumps({"0": key}))
    chat = visit(server, key="").open()
    chat.page.get_by_label("Key", exact=True).fill(key)
    chat.page.keyboard.press("Enter")
    expect(chat.prompt).to_be_focused()
    assert chat.ask("Count to 3.") == "1, 2, 3."


def test_a_browser_that_keeps_nothing_can_chat(server: Server, visit: Visit) -> None:
    chat = visit(server, key="")
    names = "['getItem', 'setItem', 'removeItem']"
    forbid = f"for (const name of {names}) Storage.prototype[name] = () => {{ throw new Error('no') }};"
    chat.context.add_init_script(forbid)
    chat.open()
    chat.page.get_by_label("Key", exact=True).fill(server.key)
    chat.page.keyboard.press("Enter")
    expect(chat.prompt).to_be_focused()
    chat.choose_model("Pirate")
    assert chat.ask("What is the capital of France?") == "Arr! The capital of France is Paris."


def test_signing_out_in_one_page_signs_out_in_all(server: Server, visit: Visit) -> None:
    chat = visit(server, key="").open()
    chat.page.get_by_label("Key", exact=True).fill(server.key)
    chat.page.keyboard.press("Enter")
    expect(chat.prompt).to_be_focused()
    other = chat.context.new_page()
    other.goto(server.url)
    expect(other.get_by_label("Your message")).to_be_visible()
    chat.button("Sign out").click()
    expect(other.get_by_label("Key", exact=True)).to_be_visible()


def test_a_server_that_is_away_is_said_and_the_key_is_kept(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.page.route("**/auth", lambda route: route.abort())
    chat.page.reload()
    expect(chat.page.get_by_role("alert")).to_contain_text("The server does not answer.")
    chat.page.unroute("**/auth")
    chat.button("Continue").click()
    expect(chat.prompt).to_be_focused()


def test_a_second_page_shows_the_answer_under_way(endless: Server, visit: Visit) -> None:
    chat = visit(endless).enter()
    chat.send("Go on and on")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    other = chat.context.new_page()
    other.goto(chat.page.url)
    expect(other.locator(".message.ai .markdown")).to_have_text(re.compile(r"\S+\s+\S"))
    other.get_by_role("button", name="Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    expect(other.locator(".message.ai")).to_have_count(1)
    assert len(chat.stored()) == 2


def test_a_prompt_whose_page_was_closed_comes_back(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    # As a page leaves it that was closed some minutes ago, before its answers began.
    left = """(session, prompt, isFirst) => localStorage.setItem(`hearth.pending.0.${session}/${prompt.length}`,
        JSON.stringify({ name: String(prompt.length), at: Date.now() - 1e6, isFirst, body: { prompt, stream: true } }))"""
    chat.page.evaluate(f"({left})('777777', 'A first prompt', true)")
    chat.page.evaluate(f"({left})('{chat.session}', 'Another one', false)")
    chat.page.evaluate("sessionStorage.clear()")
    chat.page.reload()
    expect(chat.prompt).to_have_value("Another one")
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.prompt).to_have_value("A first prompt")
    assert [key for key in chat.page.evaluate("Object.keys(localStorage)") if "pending" in key] == []


def test_a_stop_that_nobody_hears_throws_nothing_away(endless: Server, visit: Visit) -> None:
    chat = visit(endless).enter()
    chat.send("Go on and on")
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    chat.context.set_offline(True)
    chat.button("Stop the answer").click()
    expect(chat.page.get_by_role("alert").filter(has_text="could not be stopped")).to_be_visible()
    expect(chat.answers).to_have_text(re.compile(r"\S+\s+\S"))
    chat.context.set_offline(False)
    chat.button("Try again").click()
    expect(chat.button("Stop the answer")).to_be_visible()
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
    assert len(chat.stored()) == 2


def test_deleting_a_conversation_leaves_no_word_of_it(serve: Serve, visit: Visit) -> None:
    server = serve()
    chat = visit(server).enter()
    chat.ask("My name is Zebulon.")
    wait_for(lambda: any(b"Zebulon" in path.read_bytes() for path in server.data.glob("hearth.sqlite*")))
    server.delete(f"/answer/{chat.session}")
    server.stop()
    for path in server.data.rglob("*"):
        assert not path.is_file() or b"Zebulon" not in path.read_bytes(), path
