"""Files on the page: attached, answered from, cited; settings that follow a person, and drafts that are read ahead."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from playwright.sync_api import Route, expect

from tests.support import documents
from tests.support.browsing import Chat
from tests.support.real_models import smollm2
from tests.support.serving import Server, wait_for

Visit = Callable[..., Chat]
Serve = Callable[..., Server]

LAMP = "The lamp stands in the tower. Its keeper, Odile, lights it at dusk."


def key_of(chat: Chat) -> str:
    return str(chat.page.evaluate("localStorage['hearth.key']"))


def mine(server: Server, visit: Visit, **options: Any) -> Chat:
    return visit(server, key=server.mint()[0], **options).enter()


def attach(chat: Chat, name: str, content: bytes) -> None:
    with chat.page.expect_file_chooser() as chooser:
        chat.button("Attach files").click()
    chooser.value.set_files({"name": name, "mimeType": "application/octet-stream", "buffer": content})


def attached(chat: Chat) -> Any:
    return chat.page.get_by_role("list", name="Files").get_by_role("listitem")


def test_a_file_is_attached_asked_and_its_passage_opened(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    attach(chat, "lamp.pdf", documents.pdf([[LAMP], ["Bread is baked on Mondays."]]))
    expect(attached(chat)).to_have_text(["lamp.pdf"])
    chat.ask("Who lights the lamp?")
    sources = chat.page.get_by_role("region", name="Sources")
    expect(sources).to_contain_text("lamp.pdf · page 1")
    passage = sources.get_by_text(LAMP)
    expect(passage).to_be_hidden()
    sources.locator("summary").first.click()
    expect(passage).to_be_visible()
    # The file stays with the conversation, also on another device.
    other = visit(server, key=key_of(chat)).open(f"#/{chat.session}")
    expect(attached(other)).to_have_text(["lamp.pdf"])
    other.button("Remove lamp.pdf").click()
    expect(attached(other)).to_have_count(0)
    expect(other.prompt).to_be_focused()
    wait_for(lambda: server.get(f"/answer/{chat.session}", key=key_of(chat)).json()["settings"] == {})
    chat.page.reload()
    expect(chat.answers).to_have_count(1)
    expect(attached(chat)).to_have_count(0)


def test_what_cannot_be_read_is_said_and_not_attached(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    attach(chat, "photo.png", b"\x89PNG\r\n\x1a\n" + bytes(100))
    expect(chat.page.locator("#toasts")).to_contain_text("photo.png: files of the type .png")
    expect(attached(chat)).to_have_count(0)
    assert server.get("/files", key=key_of(chat)).json()["files"] == []


def test_files_are_dropped_and_long_pastes_become_files(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    chat.page.evaluate(
        """text => {
          const data = new DataTransfer();
          data.items.add(new File([text], "lamp.txt"));
          const about = { dataTransfer: data, bubbles: true, cancelable: true };
          const place = document.querySelector("#scroll");
          for (const kind of ["dragover", "drop"]) place.dispatchEvent(new DragEvent(kind, about));
        }""",
        LAMP,
    )
    expect(attached(chat)).to_have_text(["lamp.txt"])
    paste = """text => {
      const data = new DataTransfer();
      data.setData("text/plain", text);
      const about = { clipboardData: data, bubbles: true, cancelable: true };
      document.querySelector("#prompt").dispatchEvent(new ClipboardEvent("paste", about));
    }"""
    chat.page.evaluate(paste, "Short words.")
    expect(attached(chat)).to_have_count(1)
    chat.page.evaluate(paste, "Meeting notes: " + "a long story. " * 300)
    expect(attached(chat)).to_have_text(["lamp.txt", "Pasted text, Meeting notes a long story a.txt"])
    files = server.get("/files", key=key_of(chat)).json()["files"]
    assert sorted(file["characters"] > 4000 for file in files) == [False, True]


def test_settings_follow_a_person_to_another_device(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    panel = chat.panel("Settings")
    panel.get_by_label("Longest answer").fill("4")
    panel.get_by_label("Longest answer").blur()
    chat.ask("Count to 9.")
    wait_for(lambda: server.get(f"/answer/{chat.session}", key=key_of(chat)).json()["settings"] == {"max_tokens": 4})
    other = visit(server, key=key_of(chat)).open(f"#/{chat.session}")
    expect(other.answers).to_have_count(1)
    there = other.panel("Settings")
    expect(there.get_by_label("Longest answer")).to_have_value("4")
    there.get_by_label("Longest answer").fill("3")
    there.get_by_label("Longest answer").blur()
    wait_for(lambda: server.get(f"/answer/{chat.session}", key=key_of(chat)).json()["settings"] == {"max_tokens": 3})
    chat.page.reload()
    expect(chat.panel("Settings").get_by_label("Longest answer")).to_have_value("3")


def test_how_full_the_memory_is_stands_below(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    expect(chat.page.locator("#context")).to_be_hidden()
    chat.ask("My name is Ana.")
    usage = server.get(f"/answer/{chat.session}/prompt?prompt=x", key=key_of(chat)).json()
    expect(chat.page.locator("#context")).to_have_text(
        "Memory " + f"{round(100 * 29 / usage['n_ctx'])} % full", use_inner_text=True
    )
    chat.page.get_by_role("link", name="New chat").click()
    expect(chat.page.locator("#context")).to_be_hidden()


def test_a_long_prompt_is_read_while_it_is_written(serve: Serve, visit: Visit, models: Path) -> None:
    (models / "smol.gguf").symlink_to(smollm2())
    server = serve(models=models)
    server.edit_config("Smol", model="smol.gguf", max_tokens=8)
    server.select("Smol")
    server.ask("Hi", max_tokens=1)
    chat = visit(server).enter()
    words = "The lamp stands in the tower and the keeper lights it at dusk. " * 30
    chat.prompt.fill(words)
    wait_for(lambda: drafted(server) > 400)
    chat.prompt.press("Enter")
    expect(chat.page.locator(".message.ai:visible .actions")).to_have_count(1)
    figures = chat.page.locator(".figures").inner_text()
    cached, of = (int(each) for each in figures.split(" prompt tokens cached")[0].split("·")[-1].strip().split(" of "))
    assert cached > 0.9 * of, figures


def drafted(server: Server) -> float:
    lines = [
        line for line in server.get("/metrics").text.splitlines() if line.startswith("hearth_") and 'kind="draft"' in line
    ]
    return sum(float(line.split()[-1]) for line in lines)


def test_marks_in_an_answer_open_their_passages(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    attach(chat, "lamp.pdf", documents.pdf([[LAMP]]))
    chat.ask("Who lights the lamp?")
    # No model of the tests writes marks: as if the answer had been this.
    session, key = chat.session, key_of(chat)
    answer = "Odile does [1], not `x[1]`."
    assert server.patch(f"/answer/{session}/messages/1", {"content": answer}, key=key).status_code == 200
    owner = server.get("/auth/me", key=key).json()["id"]
    chat.page.evaluate(
        """([owner, session, result]) => {
          const [figures] = Object.values(JSON.parse(localStorage.getItem(`hearth.figures.${owner}.${session}`)));
          figures.citations[0].cited = true;
          localStorage.setItem(`hearth.late.${owner}.${session}`, JSON.stringify({ result, figures }));
        }""",
        [owner, session, answer],
    )
    chat.page.reload()
    mark = chat.button("Source 1")
    expect(mark).to_have_count(1)
    mark.press("Enter")
    expect(chat.page.get_by_role("region", name="Sources").get_by_text(LAMP)).to_be_visible()


def test_each_version_has_its_own_sources(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    chat.ask("My name is Ana.")
    attach(chat, "lamp.pdf", documents.pdf([[LAMP]]))
    expect(attached(chat)).to_have_text(["lamp.pdf"])
    chat.prompts.first.hover()
    chat.button("Edit the prompt").click()
    chat.page.locator(".edit textarea").fill("Who lights the lamp?")
    chat.button("Ask again").click()
    sources = chat.page.get_by_role("region", name="Sources")
    expect(sources).to_be_visible()
    chat.button("Earlier version").click()
    expect(chat.answers).to_have_text(["Nice to meet you, Ana!"])
    expect(sources).to_have_count(0)
    chat.button("Later version").click()
    expect(sources).to_be_visible()


def test_a_file_stays_with_the_conversation_for_which_it_was_chosen(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    server.ask("My name is Ana.", key=key_of(chat), session_id=1)
    held: list[Route] = []
    chat.page.route("**/files", lambda route: held.append(route))
    attach(chat, "lamp.txt", LAMP.encode())
    expect(attached(chat)).to_contain_text(["lamp.txt"])
    chat.page.goto(f"{server.url}/#/1")
    expect(chat.answers).to_have_count(1)
    expect(attached(chat)).to_have_count(0)
    held[0].continue_()
    wait_for(lambda: server.get("/files", key=key_of(chat)).json()["files"])
    chat.page.get_by_role("link", name="New chat").click()
    expect(attached(chat)).to_have_text(["lamp.txt"])
    assert server.get("/answer/1", key=key_of(chat)).json()["settings"] == {}


def test_a_second_press_deletes_no_other_message(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    chat.ask("My name is Ana.")
    held: list[Route] = []
    chat.page.route("**/messages/0", lambda route: held.append(route))
    chat.prompts.first.hover()
    chat.button("Delete the message").click()
    chat.button("Delete the message: press again").click()
    wait_for(lambda: chat.page.evaluate("1") and held)
    chat.button("Delete the message").click()
    chat.button("Delete the message: press again").click()
    held[0].continue_()
    expect(chat.prompts).to_have_count(0)
    assert [words for _, words in stored(server, chat)] == ["Nice to meet you, Ana!"]


def stored(server: Server, chat: Chat) -> list[tuple[str, str]]:
    messages = server.get(f"/answer/{chat.session}", key=key_of(chat)).json()["messages"]
    return [(message["type"], message["content"]) for message in messages]


def test_settings_are_not_overwritten_by_an_older_reply(server: Server, visit: Visit) -> None:
    chat = mine(server, visit)
    chat.ask("My name is Ana.")
    panel = chat.panel("Settings")
    held: list[Route] = []
    chat.page.route(
        f"**/answer/{chat.session}",
        lambda route: held.append(route) if route.request.method == "GET" else route.continue_(),
    )
    chat.page.evaluate(
        "dispatchEvent(new Event('visibilitychange')); document.dispatchEvent(new Event('visibilitychange'))"
    )
    chat.page.evaluate("window.dispatchEvent(new Event('visibilitychange'))")
    wait_for(lambda: chat.page.evaluate("1") and held)
    reply = held[0].fetch()
    panel.get_by_label("Top p").fill("0.9")
    panel.get_by_label("Top p").blur()
    wait_for(lambda: server.get(f"/answer/{chat.session}", key=key_of(chat)).json()["settings"] == {"top_p": 0.9})
    held[0].fulfill(response=reply)
    chat.page.wait_for_timeout(300)
    expect(panel.get_by_label("Top p")).to_have_value("0.9")
