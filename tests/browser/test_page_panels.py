"""The chat page in a browser: settings, models, keys, status; how it looks, and to whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Page, expect

from tests.support.browsing import Chat
from tests.support.hub import Hub
from tests.support.pictures import take_picture
from tests.support.serving import Server, wait_for
from tests.support.tiny import write_parrot_model

Serve = Callable[..., Server]
Visit = Callable[..., Chat]

PHONE = {"viewport": {"width": 390, "height": 844}, "has_touch": True, "is_mobile": True, "device_scale_factor": 2}
DESKTOP = {"viewport": {"width": 1280, "height": 800}}

TALK = """A prompt is read **once**. What is computed of it stays in the *KV cache*:

| kept in | until |
|---|---|
| the context | others need the room |
| RAM and disk | you delete the conversation |

```python
def first_token(new_words, cached):
    return time_to_read(new_words)  # not the whole talk
```"""


def test_settings_are_kept_for_each_conversation(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    panel = chat.panel("Settings")
    expect(panel.get_by_label("Temperature")).to_have_attribute("placeholder", "0")
    expect(panel.get_by_label("Memory")).to_have_attribute("placeholder", "5")
    chat.choose_model("Pirate")
    assert chat.ask("What is the capital of France?") == "Arr! The capital of France is Paris."
    expect(chat.page.locator(".figures")).to_contain_text("Pirate")
    pirates = chat.session
    # A new chat begins with the server's choice.
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.model).to_have_text("Guide")
    panel.get_by_label("Longest answer").fill("3")
    panel.get_by_label("Memory").fill("0")
    panel.get_by_label("Top p").fill("0.5")
    panel.get_by_label("Top p").blur()
    chat.ask("Count to 9.")
    expect(chat.page.locator(".cut")).to_contain_text("Answer cut at 3 tokens.")
    expect(chat.answers).to_have_text(["1, 2"])
    counted = chat.session
    chat.page.goto(f"{server.url}/#/{pirates}")
    expect(chat.model).to_have_text("Pirate")
    expect(panel.get_by_label("Longest answer")).to_have_value("")
    chat.page.goto(f"{server.url}/#/{counted}")
    chat.page.reload()
    panel = chat.panel("Settings")
    expect(panel.get_by_label("Longest answer")).to_have_value("3")
    # The model is no setting: it stays.
    chat.choose_model("Pirate")
    expect(panel.get_by_label("Longest answer")).to_have_value("3")
    chat.button("Reset to the profile's settings").click()
    expect(panel.get_by_label("Longest answer")).to_have_value("")
    assert chat.ask("What is the capital of Spain?") == "Arr! The capital of Spain is Madrid."


def test_a_conversation_is_saved_as_a_file(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("What is the capital of France?")
    chat.panel("Settings")
    with chat.page.expect_download() as saving:
        chat.button("Save the conversation as a file").click()
    assert saving.value.suggested_filename == "What is the capital of France.md"
    assert saving.value.path().read_text(encoding="utf-8") == (
        "# What is the capital of France?\n\n**You**\n\nWhat is the capital of France?\n\n"
        "**Answer**\n\nThe capital of France is Paris."
    )


def test_a_setting_that_cannot_be_is_not_taken(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    panel = chat.panel("Settings")
    field = panel.get_by_label("Temperature")
    field.fill("7")
    field.blur()
    assert not field.evaluate("field => field.checkValidity()")
    assert chat.ask("Count to 3.") == "1, 2, 3."
    tip = panel.get_by_role("tooltip").filter(has_text="likeliest word")
    expect(tip).to_be_hidden()
    panel.get_by_text("Temperature", exact=True).hover()
    expect(tip).to_be_visible()


def test_a_system_prompt_goes_before_the_conversation_and_loses_none_of_it(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("My name is Ana.")
    panel = chat.panel("Settings")
    panel.get_by_label("System prompt").fill("You are a pirate.")
    panel.get_by_label("System prompt").blur()
    assert chat.ask("What is the capital of France?") == "Arr! The capital of France is Paris."
    assert len(chat.stored()) == 4


def test_the_models_are_shown_switched_and_fetched(serve: Serve, models: Path, visit: Visit, hub: Hub) -> None:
    whole = (models / "guide.gguf").read_bytes()
    hub.files["maker/tiny"] = {"tiny.Q8_0.gguf": whole}
    (models / "broken.gguf").write_bytes(whole[:1000])
    server = serve(models=models)
    chat = visit(server).enter()
    panel = chat.panel("Models")
    rows = panel.locator(".rows").first.locator("li")
    expect(rows).to_have_count(3)
    expect(rows.filter(has_text="guide.gguf")).to_contain_text(
        "3.8 MB · reads up to 2048 tokens · 3.5 M weights · Q8_0 · llama"
    )
    expect(rows.filter(has_text="guide.gguf")).to_contain_text("in use")
    expect(rows.filter(has_text="broken.gguf").locator(".error").first).to_contain_text("cannot be used")

    hub.pause.clear()
    panel.get_by_label("Source").fill("hf:maker/tiny")
    panel.get_by_role("button", name="Fetch", exact=True).click()
    bar = panel.get_by_role("progressbar")
    expect(bar).to_have_attribute("max", str(len(whole)))
    chat.wait_for(f"document.querySelector('progress').value >= {len(whole) // 4}")
    expect(panel.locator(".amount")).to_contain_text("of 3.8 MB")
    assert chat.page.evaluate("document.querySelector('progress').value") < len(whole)
    hub.pause.set()
    expect(rows.filter(has_text="tiny.Q8_0.gguf")).to_be_visible()
    expect(bar).to_have_count(0)
    panel.get_by_label("Source").fill("hf:maker/none")
    panel.get_by_role("button", name="Fetch", exact=True).click()
    expect(panel.get_by_role("alert")).to_contain_text("no repository maker/none")

    choice = panel.get_by_label("Profile")
    expect(choice).to_have_value("Guide")
    expect(panel.locator("#use-facts")).to_have_text(
        "a template of its own · 2048 tokens at once · remembers 5 exchanges · temperature 0"
    )
    choice.select_option("SmolLM2")
    expect(panel.locator("#use-facts")).to_have_text(
        "its file is not on the server · the model's own chat format · remembers all that fits · temperature 0.2"
    )
    choice.select_option("Pirate")
    panel.get_by_role("button", name="Use it for everybody").click()
    expect(chat.page.locator("#toasts")).to_contain_text("guide.gguf answers everybody now, by the profile Pirate")
    assert server.get("/models").json()["selected"] == "Pirate"
    assert chat.ask("What is the capital of France?") == "Arr! The capital of France is Paris."
    expect(chat.page.locator(".figures")).to_contain_text("Pirate")


def test_an_empty_chat_says_that_its_model_is_tiny(serve: Serve, visit: Visit) -> None:
    server = serve()
    chat = visit(server).enter()
    line = chat.page.locator(".welcome .tiny")
    expect(line).to_contain_text("Guide is a tiny model for a first look. For real work, fetch a larger one.")
    chat.button("Show models").click()
    expect(chat.page.locator("#panel").get_by_role("heading", level=2)).to_have_text("Models")
    chat.ask("Count to 3.")
    expect(line).to_have_count(0)
    # A larger one needs no such line: this profile names a file that is not here.
    server.select("Qwen")
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.page.locator(".welcome")).to_be_visible()
    expect(line).to_be_hidden()


def test_the_line_below_an_answer_counts_what_was_left_out(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("Count to 3.")
    expect(chat.page.locator(".figures")).not_to_contain_text("left out")
    panel = chat.panel("Settings")
    panel.get_by_label("Memory").fill("0")
    panel.get_by_label("Memory").blur()
    chat.ask("Count to 9.")
    expect(chat.page.locator(".figures").last).to_contain_text("2 earlier messages left out")


def test_the_help_of_the_system_prompt_is_about_the_profile(serve: Serve, visit: Visit) -> None:
    server = serve()
    server.edit_config("Asked", model="guide.gguf", system_prompt="Give short answers.")
    server.edit_config("Bare", model="guide.gguf")
    chat = visit(server).enter()
    panel = chat.panel("Settings")
    system, memory = panel.get_by_label("System prompt"), panel.get_by_label("Memory")
    tip = panel.locator("#help-system_prompt")
    expect(system).to_have_attribute("placeholder", "None: the profile's own template")
    expect(tip).to_contain_text("This profile has a template of its own")
    chat.choose_model("Asked")
    expect(system).to_have_attribute("placeholder", "Give short answers.")
    expect(tip).to_contain_text("in the place of the profile's own")
    expect(memory).to_have_attribute("placeholder", "all that fits")
    chat.choose_model("Bare")
    expect(system).to_have_attribute("placeholder", "None")


def test_a_panel_that_does_not_come_says_so_and_comes_later(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.page.route("**/page/chat/status.js", lambda route: route.abort())
    panel = chat.panel("Status")
    expect(panel.get_by_role("alert")).to_contain_text("Close this, and open it again.")
    chat.page.unroute("**/page/chat/status.js")
    chat.button("Close the panel").click()
    expect(chat.panel("Status")).to_contain_text("answers at once")


def test_only_the_master_key_fetches_models_and_makes_keys(server: Server, visit: Visit) -> None:
    key, _ = server.mint("Bob", scopes=["answer", "models:read", "models:switch"])
    chat = visit(server, key=key).enter()
    expect(chat.button("Keys")).to_be_hidden()
    panel = chat.panel("Models")
    expect(panel.get_by_role("button", name="Use it for everybody")).to_be_visible()
    expect(panel.get_by_role("region", name="Suggested models")).to_contain_text("Apache-2.0")
    # Neither the form nor any of the catalog's buttons.
    expect(panel.get_by_role("button", name="Fetch")).to_have_count(0)
    expect(chat.page.locator(".tiny")).to_contain_text("For real work, ask for a larger one.")
    expect(chat.sessions).to_have_count(0)


def test_keys_are_made_shown_once_and_revoked(serve: Serve, visit: Visit) -> None:
    server = serve()
    chat = visit(server, permissions=["clipboard-read", "clipboard-write"]).enter()
    panel = chat.panel("Keys")
    panel.get_by_label("Name").fill("Ana")
    panel.get_by_role("button", name="Make a key").click()
    secret = panel.locator(".secret")
    expect(secret).to_have_text(re.compile(r"^hearth-[\w-]{43}$"))
    key = secret.inner_text()
    panel.get_by_role("button", name="Copy the key").click()
    expect(chat.page.locator("#announce")).to_have_text("Copied")
    assert chat.page.evaluate("navigator.clipboard.readText()") == key
    row = panel.locator(".rows li").filter(has_text="Ana")
    expect(row).to_contain_text("never used")
    expect(panel.locator(".rows li").filter(has_text="master")).to_contain_text("used just now")
    assert server.get("/auth", key=key).status_code == 200
    chat.page.keyboard.press("Escape")
    panel = chat.panel("Keys")
    expect(row).to_contain_text("used just now")
    assert key not in chat.page.content()
    row.get_by_role("button", name="Revoke the key Ana").click()
    assert server.get("/auth", key=key).status_code == 200
    row.get_by_role("button", name="Revoke the key Ana").click()
    expect(row).to_have_count(0)
    assert server.get("/auth", key=key).status_code == 401


def test_the_status_is_drawn_as_it_happens(shared_endless: Server, visit: Visit) -> None:
    # The memory is the master's to see.
    endless = shared_endless
    chat = visit(endless).enter()
    panel = chat.panel("Status")
    plots = panel.locator("figure")
    expect(plots).to_have_count(5)
    chat.send("Go on and on")
    waiting = endless.stream("me too")
    expect(plots.nth(0)).to_contain_text(re.compile(r"[1-9][\d.]* tokens/s written"))
    expect(plots.nth(1)).to_contain_text("1 under way, 1 in the queue")
    expect(plots.nth(2)).to_contain_text(re.compile(r"[1-9]\d* m?s waited for"))
    expect(plots.nth(3)).to_contain_text(re.compile(r"\d+ MB of the server"))
    expect(plots.nth(4)).to_contain_text("in memory")
    chat.wait_for("document.querySelector('polyline').getAttribute('points').split(' ').length >= 3")
    waiting.close()
    chat.button("Stop the answer").click()
    expect(plots.nth(1)).to_contain_text("0 under way, 0 in the queue")
    expect(panel).to_contain_text("random.gguf")
    assert chat.page.evaluate("document.querySelector('polyline').getAttribute('points')").count(",") >= 3


def test_on_a_phone_everything_is_in_reach(server: Server, visit: Visit) -> None:
    chat = visit(server, **PHONE).enter()
    chat.ask("What can you do?")
    assert chat.page.evaluate("document.documentElement.scrollWidth") <= 390
    expect(chat.page.get_by_role("link", name="New chat")).not_to_be_in_viewport()
    chat.button("Conversations").tap()
    expect(chat.page.get_by_role("link", name="New chat")).to_be_in_viewport()
    expect(chat.button("Options for What can you do?").first).to_be_in_viewport()
    chat.button("Models").tap()
    panel = chat.page.locator("#panel")
    expect(panel).to_contain_text("guide.gguf")
    box = panel.bounding_box()
    assert box
    assert (box["x"], box["width"]) == (0, 390)
    chat.button("Close the panel").tap()
    chat.button("Conversations").tap()
    chat.page.get_by_role("link", name="New chat").tap()
    expect(chat.page.get_by_role("link", name="New chat")).not_to_be_in_viewport()
    expect(chat.prompt).to_be_in_viewport()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [DESKTOP, PHONE], ids=["desktop", "phone"])
def test_nothing_stands_in_the_way_of_anybody(
    serve: Serve, models: Path, visit: Visit, size: dict[str, Any], scheme: str, tmp_path: Path
) -> None:
    """axe-core finds nothing serious, whatever is open; and this is how it looks."""
    write_parrot_model(models / "parrot.gguf", TALK)
    server = serve(models=models)
    server.edit_config("Explainer", model="parrot.gguf", template="{input}", temperature=0)
    server.ask("How do I give someone a key?", session_id=1)
    server.ask("What is the capital of Portugal?", session_id=2)
    login = visit(server, key="", color_scheme=scheme, **size).open()
    expect(login.page.get_by_label("Key", exact=True)).to_be_visible()
    _check(login.page)

    chat = visit(server, color_scheme=scheme, **size).enter()
    name = "phone" if size is PHONE else "desktop"
    _check(chat.page)
    chat.ask("What can you do?")
    chat.choose_model("Explainer")
    chat.ask("Why is the second answer quick?")
    expect(chat.page.locator(".hljs-keyword").first).to_be_visible()
    chat.page.mouse.move(1, 1)
    _check(chat.page)
    take_picture(chat.page, f"{name}-{scheme}.png")
    # The panels' colours are the desktop's.
    for panel in () if (size is PHONE and scheme == "dark") else ("Settings", "Models", "Keys", "Status"):
        if panel == "Settings":
            chat.page.locator("#open-settings").click()
        else:
            if size is PHONE:
                chat.button("Conversations").click()
                if panel == "Models":
                    _check(chat.page)
            chat.button(panel).click()
        expect(chat.page.locator("#panel-body > *").nth(1)).to_be_attached()
        if panel == "Status":
            expect(chat.page.locator("#panel")).to_contain_text("tokens/s")
        _check(chat.page)
        chat.button("Close the panel").click()
    server.edit_config("Gone", model="gone.gguf", template="{input}")
    server.select("Gone")
    chat.page.get_by_role("link", name="New chat").first.evaluate("link => link.click()")
    chat.send("Will this work?")
    expect(chat.button("Try again")).to_be_visible()
    _check(chat.page)
    if size is DESKTOP:
        # What comes and goes, too.
        chat.choose("Delete", "What can you do?")
        _check(chat.page)


def _check(page: Page) -> None:
    # Colours that are on their way to others are no colours yet.
    page.wait_for_timeout(250)
    # A page that has axe already need not read it again.
    if not page.evaluate("'axe' in window"):
        page.evaluate(Axe().axe_script)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    told = [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]]) for each in found]
    assert [each for each in told if each[1] in ("serious", "critical")] == []


def test_all_sampling_parameters_stand_behind_more(server: Server, visit: Visit) -> None:
    chat = visit(server, key=server.mint()[0]).enter()
    panel = chat.panel("Settings")
    expect(panel.get_by_label("Top k")).to_be_hidden()
    panel.get_by_text("More", exact=True).click()
    given = {"Top k": "1", "Min p": "0.1", "Repeat penalty": "1.1", "Presence penalty": "0.2", "Frequency penalty": "0.3"}
    for label, value in {**given, "Seed": "7", "Stop texts": "4\n5"}.items():
        panel.get_by_label(label).fill(value)
        panel.get_by_label(label).blur()
    with chat.page.expect_request("**/answer") as sent:
        chat.ask("Count to 9.")
    wanted = {"top_k": 1, "min_p": 0.1, "repeat_penalty": 1.1, "presence_penalty": 0.2, "frequency_penalty": 0.3}
    body: dict[str, Any] = sent.value.post_data_json or {}
    assert {name: body[name] for name in (*wanted, "seed", "stop")} == {**wanted, "seed": 7, "stop": ["4", "5"]}
    expect(chat.answers).not_to_contain_text("4")
    chat.page.reload()
    expect(chat.panel("Settings").get_by_label("Stop texts")).to_have_value("4\n5")


def test_the_theme_is_switched_and_kept(server: Server, visit: Visit) -> None:
    chat = visit(server, key=server.mint()[0], color_scheme="light").enter()
    ground = "getComputedStyle(document.body).backgroundColor"
    assert chat.page.evaluate(ground) == "rgb(255, 255, 255)"
    chat.panel("Settings").get_by_label("Appearance").select_option("dark")
    assert chat.page.evaluate(ground) == "rgb(27, 25, 23)"
    chat.page.reload()
    expect(chat.prompt).to_be_focused()
    assert chat.page.evaluate(ground) == "rgb(27, 25, 23)"
    chat.panel("Settings").get_by_label("Appearance").select_option("")
    assert chat.page.evaluate(ground) == "rgb(255, 255, 255)"


def test_a_new_chat_begins_with_an_assistant_or_with_ones_own_settings(server: Server, visit: Visit) -> None:
    lender, reader = server.mint("lender")[0], server.mint("reader")[0]
    chat = visit(server, key=lender).enter()
    panel = chat.panel("Settings")
    panel.get_by_label("Longest answer").fill("3")
    panel.get_by_label("Longest answer").blur()
    panel.get_by_text("New chats and assistants").click()
    panel.get_by_label("Name").fill("Brief")
    panel.get_by_label("First words").fill("Count to 9.\nHello")
    panel.get_by_label("Everybody").check()
    chat.button("Save the assistant").click()
    expect(panel.get_by_text("for everybody")).to_be_visible()
    # Another person begins with it, on a page of their own.
    other = visit(server, key=reader).enter()
    brief = other.button("Brief")
    brief.click()
    expect(brief).to_have_attribute("aria-pressed", "true")
    expect(brief).to_be_focused()
    other.button("Count to 9.").click()
    expect(other.prompt).to_be_focused()
    other.prompt.press("Enter")
    expect(other.answers).to_have_text(["1, 2"])
    wait_for(lambda: server.get(f"/answer/{other.session}", key=reader).json()["settings"] == {"max_tokens": 3})
    other.page.get_by_role("link", name="New chat").click()
    expect(other.panel("Settings").get_by_label("Longest answer")).to_have_value("")
    # One's own settings for every new chat, on another device too.
    panel.get_by_label("Longest answer").fill("2")
    panel.get_by_label("Longest answer").blur()
    chat.button("Begin every new chat with these settings").click()
    expect(chat.page.locator("#toasts")).to_contain_text("New chats begin with these settings")
    again = visit(server, key=lender).enter()
    expect(again.panel("Settings").get_by_label("Longest answer")).to_have_value("2")
    again.ask("Count to 9.")
    expect(again.answers).to_have_text(["1,"])
    assert server.get("/settings", key=lender).json() == {"new_chat": {"max_tokens": 2}}
    chat.button(re.compile("Delete Brief")).click()
    expect(chat.button("Brief")).to_have_count(0)
    _check(chat.page)
