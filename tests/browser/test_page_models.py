"""The chat page in a browser: which model answers, the list of them at the top, and the panel that fetches and switches."""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, Route, expect

from services.models.catalog import catalog
from tests.support.browsing import Chat
from tests.support.hub import Hub
from tests.support.serving import Server
from tests.support.tiny import write_embedding_model, write_parrot_model

Serve = Callable[..., Server]
Visit = Callable[..., Chat]

PHONE = {"viewport": {"width": 360, "height": 740}, "has_touch": True, "is_mobile": True}
# A chat template for tools, and for thoughts.
ABLE = (
    "{% if tools %}{{ tools }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    "{% if add_generation_prompt %}<think>{% endif %}"
)


def open_list(chat: Chat) -> Locator:
    """Open the list of models."""
    chat.model.click()
    listed = chat.page.get_by_role("listbox", name="Models")
    expect(listed).to_be_focused()
    return listed


def chosen(chat: Chat) -> str | None:
    """The choice that the browser keeps for the open conversation."""
    kept = chat.page.evaluate(
        "Object.entries(localStorage).filter(([name]) => name.startsWith('hearth.settings.') && "
        "name.endsWith(`.${location.hash.slice(2) || 'new'}`)).map(([, value]) => JSON.parse(value).model ?? null)"
    )
    return kept[0] if kept else None


def suggestion(panel: Locator, name: str) -> Locator:
    """The row of a suggested model, to be seen."""
    row = panel.get_by_role("region", name="Suggested models").locator("li").filter(has_text=name)
    expect(row).to_be_attached()
    if not row.is_visible():
        panel.get_by_text("More", exact=True).click()
    return row


def test_the_list_says_of_each_model_what_it_is_and_can_do(serve: Serve, models: Path, visit: Visit) -> None:
    write_embedding_model(models / "vectors.gguf")
    server = serve(models=models)
    server.edit_config("Thinker", model="guide.gguf", chat_template=ABLE)
    server.edit_config("Meaning", model="vectors.gguf")
    (models / "broken.gguf").write_bytes(b"GGUF")
    server.edit_config("Broken", model="broken.gguf")
    chat = visit(server).enter()
    expect(chat.model).to_have_text("Guide")
    expect(chat.model).to_have_accessible_name("Model: Guide, the server's choice")
    options = open_list(chat).get_by_role("option")
    expect(options.locator("strong")).to_have_text(
        ["The server's choice", "Guide", "Pirate", "Thinker", "SmolLM2", "Qwen", "Broken"]
    )
    expect(options.nth(0)).to_have_attribute("aria-selected", "true")
    expect(options.nth(1)).to_contain_text("server's choice")
    expect(options.nth(1)).to_contain_text("guide.gguf · 3.8 MB")
    expect(options.nth(1).locator(".faint").last).to_have_text("reads files")
    expect(options.nth(3).locator(".faint").last).to_have_text("calls tools · thinks first · reads files")
    expect(options.nth(5)).to_contain_text("Its file qwen2.5-1.5b-instruct-q4_k_m.gguf is not on the server.")
    expect(options.nth(5)).to_have_attribute("aria-disabled", "true")
    expect(options.nth(6)).to_contain_text("Its file broken.gguf is damaged.")
    # What cannot answer cannot be chosen.
    options.nth(5).click(force=True)
    expect(chat.page.get_by_role("listbox")).to_be_visible()
    assert chosen(chat) is None


def test_a_model_is_chosen_for_one_conversation(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    open_list(chat).get_by_role("option", name="Pirate").click()
    expect(chat.page.get_by_role("listbox")).to_be_hidden()
    expect(chat.model).to_be_focused()
    expect(chat.model).to_have_accessible_name("Model: Pirate")
    assert chat.ask("What is the capital of France?") == "Arr! The capital of France is Paris."
    assert chosen(chat) == "Pirate"
    pirates = chat.session
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.model).to_have_text("Guide")
    chat.page.goto(f"{server.url}/#/{pirates}")
    expect(chat.model).to_have_text("Pirate")
    # What else is set stays, and is kept beside it.
    panel = chat.panel("Settings")
    panel.get_by_label("Longest answer").fill("3")
    panel.get_by_label("Longest answer").blur()
    expect(chat.model).to_have_text("Pirate")
    open_list(chat).get_by_role("option", name=re.compile("^The server's choice")).click()
    expect(chat.model).to_have_text("Guide")
    expect(panel.get_by_label("Longest answer")).to_have_value("3")
    assert chat.ask("Count to 9.") == "1, 2"


def test_the_list_is_gone_through_by_keyboard(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    keys = chat.page.keyboard
    chat.model.focus()
    keys.press("ArrowDown")
    listed = chat.page.get_by_role("listbox")
    expect(listed).to_be_focused()
    active = listed.locator(".active strong")
    for key, name in (
        *(("ArrowDown", "Guide"), ("End", "Qwen"), ("ArrowDown", "Qwen"), ("Home", "The server's choice")),
        *(("ArrowUp", "The server's choice"), ("p", "Pirate"), ("Home", "The server's choice")),
    ):
        keys.press(key)
        expect(active).to_have_text(name)
    # It says so to those who hear the page.
    assert listed.get_attribute("aria-activedescendant") == listed.locator(".active").get_attribute("id")
    keys.type("gu")
    expect(active).to_have_text("Guide")
    # A file that is not on the server is gone past, and not chosen.
    keys.press("End")
    keys.press("Enter")
    expect(listed).to_be_visible()
    keys.press("Escape")
    expect(listed).to_be_hidden()
    expect(chat.model).to_be_focused()
    assert chosen(chat) is None
    keys.press("Enter")
    keys.press("p")
    keys.press("ArrowUp")
    keys.press("ArrowDown")
    keys.press(" ")
    expect(listed).to_be_hidden()
    expect(chat.model).to_have_text("Pirate")
    keys.press("Enter")
    expect(active).to_have_text("Pirate")
    keys.press("Tab")
    expect(listed).to_be_hidden()
    expect(chat.page.locator("#open-settings")).to_be_focused()
    open_list(chat).get_by_role("option").nth(1).hover()
    expect(active).to_have_text("Guide")
    chat.page.get_by_role("log").click()
    expect(listed).to_be_hidden()
    open_list(chat)
    chat.model.click()
    expect(listed).to_be_hidden()


def test_a_profile_that_is_gone_is_named_as_such(serve: Serve, visit: Visit) -> None:
    server = serve()
    server.edit_config("Parrot", model="guide.gguf", template="{input}")
    chat = visit(server).enter()
    open_list(chat).get_by_role("option", name="Parrot").click()
    path = server.data / "config.json"
    config = json.loads(path.read_text())
    del config["Parrot"]
    path.write_text(json.dumps(config))
    # It is found out once the list is opened.
    listed = open_list(chat)
    expect(chat.model).to_have_text("Parrot (gone)")
    expect(listed.get_by_role("option").last).to_contain_text("no such model any more")
    expect(listed).to_be_focused()
    listed.get_by_role("option", name=re.compile("^The server's choice")).click()
    expect(chat.model).to_have_text("Guide")
    expect(open_list(chat)).not_to_contain_text("Parrot")


def test_a_key_that_lists_no_models_has_no_list(server: Server, visit: Visit) -> None:
    key, _ = server.mint(scopes=["answer"])
    chat = visit(server, key=key).enter()
    assert chat.ask("Count to 3.") == "1, 2, 3."
    expect(chat.model).to_be_hidden()


def test_a_missing_file_is_told_in_a_persons_words(serve: Serve, visit: Visit) -> None:
    server = serve()
    key, _ = server.mint()
    chat = visit(server, key=key).enter()
    server.select("Qwen")
    chat.send("Hello")
    failure = chat.page.locator(".failure")
    expect(failure).to_contain_text("this model's file is not on the server. Ask whoever runs it")
    expect(failure).not_to_contain_text("main.py")


def test_a_button_uses_a_file_and_no_other_profile_is_changed(serve: Serve, models: Path, visit: Visit) -> None:
    (models / "random.gguf").unlink()
    write_parrot_model(models / "parrot.gguf", "Hello!")
    write_embedding_model(models / "vectors.gguf")
    server = serve(models=models)
    # One of the file's name, and of another file.
    server.edit_config("parrot", model="guide.gguf", template="{input}")
    before = json.loads((server.data / "config.json").read_text())
    chat = visit(server).enter()
    panel = chat.panel("Models")
    rows = panel.get_by_role("list", name="Models on this server").locator("li")
    expect(rows).to_have_count(3)
    parrot = rows.filter(has_text="parrot.gguf")
    expect(parrot).to_contain_text("no chat template: goes on with a text")
    # The one in use needs no button, and what makes vectors answers nobody.
    expect(panel.get_by_role("button", name=re.compile("^Use this file"))).to_have_count(1)
    expect(rows.filter(has_text="vectors.gguf")).to_contain_text("makes vectors")
    button = parrot.get_by_role("button", name="Use this file: parrot.gguf")
    button.focus()
    chat.page.keyboard.press("Enter")
    said = "parrot.gguf answers everybody now, by the profile parrot 2, which was made for it"
    expect(chat.page.locator("#toasts")).to_contain_text(said)
    expect(parrot).to_contain_text("in use")
    expect(parrot).to_be_focused()
    expect(panel.get_by_label("Profile")).to_have_value("parrot 2")
    expect(chat.model).to_have_text("parrot 2")
    after = json.loads((server.data / "config.json").read_text())
    assert after == {**before, "SelectedModel": "parrot 2", "parrot 2": {"model": "parrot.gguf"}}
    assert chat.ask("Hi").startswith("Hello!")


def test_a_row_keeps_the_focus_while_the_list_is_asked_for_again(serve: Serve, models: Path, visit: Visit) -> None:
    chat = visit(serve(models=models)).enter()
    panel = chat.panel("Models")
    button = panel.get_by_role("button", name="Use this file: random.gguf")
    button.focus()
    for _ in range(2):
        with chat.page.expect_response("**/models"):
            pass
    expect(button).to_be_focused()


def test_the_best_models_come_first_and_the_others_behind_a_button(server: Server, visit: Visit) -> None:
    n_fitting = 7
    names = [entry.name for entry in catalog()]

    def fitted(route: Route) -> None:
        reply = route.fetch()
        body = reply.json()
        for n, entry in enumerate(body["catalog"]):
            entry["fits"], entry["best"] = n < n_fitting, n == n_fitting - 1
        route.fulfill(response=reply, json=body)

    chat = visit(server).enter()
    chat.page.route("**/models", fitted)
    panel = chat.panel("Models")
    region = panel.get_by_role("region", name="Suggested models")
    shown = region.locator("li:visible strong")
    expect(shown).to_have_text(names[n_fitting - 5 : n_fitting][::-1])
    expect(region.locator("li").first).to_contain_text("the best that fits")
    region.get_by_text("More", exact=True).focus()
    chat.page.keyboard.press("Enter")
    expect(shown).to_have_count(len(names))
    chat.button("Close the panel").click()
    n_fitting = 0
    chat.panel("Models")
    expect(region).to_contain_text("None of these fits")
    expect(shown).to_have_count(len(names))


def test_one_button_fetches_a_model_and_has_everybody_use_it(serve: Serve, models: Path, visit: Visit, hub: Hub) -> None:
    entry = next(entry for entry in catalog() if entry.source.startswith("hf:"))
    _, _, path = entry.source.partition(":")
    user, repo, file = path.split("/", 2)
    whole = (models / "guide.gguf").read_bytes()
    hub.files[f"{user}/{repo}"] = {file: whole}
    server = serve(models=models)
    chat = visit(server).enter()
    panel = chat.panel("Models")
    row = suggestion(panel, entry.name)
    for fact in (entry.licence, entry.about, f"for a machine with {entry.machine_gb} GB"):
        expect(row).to_contain_text(fact)
    hub.pause.clear()
    button = row.get_by_role("button")
    expect(button).to_have_accessible_name(f"Fetch and use {entry.name}")
    button.focus()
    chat.page.keyboard.press("Enter")
    expect(button).to_have_accessible_name(f"Fetching… {entry.name}")
    expect(button).to_be_focused()
    expect(row.get_by_role("progressbar")).to_have_attribute("max", str(len(whole)))
    # It goes on while something else is looked at.
    chat.button("Close the panel").click()
    panel = chat.panel("Models")
    expect(button).to_have_accessible_name(f"Fetching… {entry.name}")
    hub.pause.set()
    profile = entry.file.removesuffix(".gguf")
    said = f"{entry.name} answers everybody now, by the profile {profile}, which was made for it"
    expect(chat.page.locator("#toasts")).to_contain_text(said)
    expect(row).to_contain_text("in use")
    expect(row.get_by_role("button")).to_be_hidden()
    listed = server.get("/models").json()
    assert listed["selected"] == profile
    assert listed["profile_details"][profile]["source"] == entry.source
    assert (server.models / entry.file).read_bytes() == whole

    # What is here is used, without fetching it again.
    server.select("Guide")
    expect(row.get_by_role("button")).to_have_accessible_name(f"Use {entry.name}")
    n_requests = len(hub.requests)
    row.get_by_role("button").click()
    expect(row).to_contain_text("in use")
    assert server.get("/models").json()["selected"] == profile
    assert len(hub.requests) == n_requests


def test_what_cannot_be_fetched_says_why_at_its_place(serve: Serve, models: Path, visit: Visit, hub: Hub) -> None:
    entry = next(entry for entry in catalog() if entry.source.startswith("hf:"))
    chat = visit(serve(models=models)).enter()
    panel = chat.panel("Models")
    row = suggestion(panel, entry.name)
    row.get_by_role("button").click()
    expect(row.locator(".error")).to_contain_text("has no repository")
    expect(row.get_by_role("button")).to_have_accessible_name(f"Fetch and use {entry.name}")
    assert hub.requests


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [{}, PHONE], ids=["desktop", "phone"])
def test_the_list_and_the_panel_stand_in_nobodys_way(
    serve: Serve, models: Path, visit: Visit, size: dict[str, Any], scheme: str
) -> None:
    long = "A-model-of-a-rather-long-name-7B-Instruct-Q4_K_M"
    server = serve(models=models)
    server.edit_config(long, model="guide.gguf", chat_template=ABLE)
    chat = visit(server, color_scheme=scheme, **size).enter()
    chat.ask("What can you do?")
    listed = open_list(chat)
    expect(listed.get_by_role("option")).to_have_count(6)
    _check(chat.page)
    listed.get_by_role("option", name=long).click()
    expect(chat.model).to_have_text("A-model-of-a-rather-long-name-7B-Instruct")
    inside = _boxes(chat.page, "header > *:not([hidden]), header .picker > button")
    assert all(x >= 0 and x + width <= chat.page.viewport_size["width"] for x, width in inside)  # type: ignore[index]
    # One after the other, and none below another.
    side_by_side = _boxes(chat.page, "header > *")
    seen = [box for box in side_by_side if box[1]]
    assert all(x + width <= after for (x, width), (after, _) in itertools.pairwise(seen)), seen
    assert len(seen) == (4 if size else 3)
    assert min(width for _, width in seen) >= 30
    _check(chat.page)
    if size:
        chat.button("Conversations").click()
    chat.button("Models").click()
    expect(chat.page.get_by_role("region", name="Suggested models").locator("li").first).to_be_attached()
    _check(chat.page)


def _boxes(page: Page, selector: str) -> list[list[float]]:
    """Where elements begin and how wide they are, from left to right."""
    boxes = "[...document.querySelectorAll(selector)].map((each) => each.getBoundingClientRect())"
    script = f"(selector) => {boxes}.map(({{ x, width }}) => [x, width])"
    return sorted(page.evaluate(script, selector))


def _check(page: Page) -> None:
    # Colours that are on their way to others are no colours yet.
    page.wait_for_timeout(250)
    page.evaluate(Axe().axe_script)
    found = page.evaluate("axe.run({ resultTypes: ['violations'] })")["violations"]
    told = [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]]) for each in found]
    assert [each for each in told if each[1] in ("serious", "critical")] == []
