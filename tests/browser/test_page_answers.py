"""The chat page in a browser: what a model writes, and how it is read."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.support.browsing import Chat
from tests.support.serving import Server
from tests.support.tiny import GUIDE, write_parrot_model

Serve = Callable[..., Server]
Visit = Callable[..., Chat]

EVIL = """Harmless <b>words</b>.

<script>window.broken = 1</script>

<img src="/page/chat/icon.svg" onerror="window.broken = 2" onload="window.broken = 3">

Inline <svg onload="window.broken = 4"></svg> and <iframe srcdoc="<script>parent.broken = 5</script>"></iframe>.

[A link](javascript:window.broken=6) and [another](https://example.org/ "title") and ![a picture](https://example.org/secret.png).

<style>body { display: none }</style> <form action="https://example.org/"><input name="key"></form>

| a | b |
|---|---|
| <img src=x onerror=window.broken=7> | 2 |

<details open ontoggle="window.broken = 8">

- [x] done <a href="data:text/html,<script>1</script>">here</a>

The end."""

CODE = """Here is how:

```python
def double(x):
    return 2 * x  # <b>not bold</b>
```

```js
const a = `<img src=x onerror="window.broken = 9">`;
```

```nolanguage
plain & simple
```

Use `double(2)`."""

THOUGHT = "<think>\nFirst <i>this</i>, then that.\n</think>\n\nThe answer is **42**."
# What could run, load or change something. A task's box can do nothing.
ACTIVE = (
    "script, img, svg:not(.icon), iframe, style, form, input:not([type=checkbox]:disabled), [onerror], [onload], [style]"
)


@pytest.fixture(scope="module")
def parrots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with two that write what they were told to."""
    folder = tmp_path_factory.mktemp("parrots")
    shutil.copy(GUIDE, folder)
    write_parrot_model(folder / "evil.gguf", EVIL)
    write_parrot_model(folder / "code.gguf", CODE)
    write_parrot_model(
        folder / "thinking.gguf", "<think>\nFirst <i>this</i>, then that.\n</think>\n\nThe answer is **42**."
    )
    return folder


@pytest.fixture(scope="module")
def parrot(tmp_path_factory: pytest.TempPathFactory, parrots: Path) -> Iterator[Server]:
    server = Server(tmp_path_factory.mktemp("parrot") / "data", models=parrots)
    for name in ("evil", "code", "thinking"):
        server.edit_config(name, model=f"{name}.gguf", template="{input}", temperature=0, max_tokens=1000)
    # The same model, whose thoughts the server reads.
    template = "{% for m in messages %}{{ m.content.split('</think>')[-1] }}\n{% endfor %}"
    server.edit_config("chat", model="thinking.gguf", chat_template=template, temperature=0, max_tokens=1000)
    server.start()
    yield server
    server.stop()


def test_what_a_model_writes_runs_nothing_and_loads_nothing(parrot: Server, visit: Visit) -> None:
    parrot.select("evil")
    chat = visit(parrot).enter()
    chat.ask("Attack me")
    assert chat.stored()[1][1] == EVIL

    def examine() -> None:
        answer = chat.answers.first
        expect(answer).to_contain_text("The end.")
        # Nothing of it is lost: it stands there as text.
        for words in (
            "<script>window.broken = 1</script>",
            'onerror="window.broken = 2"',
            "<iframe",
            "<style>",
            "ontoggle=",
        ):
            expect(answer).to_contain_text(words)
        assert answer.locator(ACTIVE).count() == 0
        expect(answer.get_by_role("link")).to_have_text(["another", "a picture"])
        assert answer.get_by_text("another").get_attribute("rel") == "noopener noreferrer"
        expect(answer.locator("td")).to_have_text(["<img src=x onerror=window.broken=7>", "2"])
        chat.page.wait_for_timeout(300)
        assert chat.page.evaluate("window.broken") is None

    examine()
    chat.page.reload()
    examine()
    assert not [url for url in chat.urls if not url.startswith(parrot.url)]


def test_a_prompt_is_text(server: Server, visit: Visit) -> None:
    chat = visit(server).enter()
    chat.ask("<img src=x onerror='window.broken = 1'> **What** is the capital of France?")
    expect(chat.prompts).to_have_text(["<img src=x onerror='window.broken = 1'> **What** is the capital of France?"])
    assert chat.page.evaluate("window.broken") is None
    # In the list, the title and the dialog for another name too.
    chat.choose("Rename", re.compile("^<img"))
    assert chat.page.evaluate("window.broken") is None


def test_code_is_coloured_and_copied(parrot: Server, visit: Visit) -> None:
    parrot.select("code")
    chat = visit(parrot, permissions=["clipboard-read", "clipboard-write"]).enter()
    chat.ask("Show me")
    answer = chat.answers.first
    expect(answer.locator(".hljs-keyword")).to_have_text(["def", "return", "const"])
    expect(answer.locator(".hljs-comment")).to_have_text("# <b>not bold</b>")
    expect(answer.locator(".code-head span")).to_have_text(["python", "js", "nolanguage"])
    expect(answer.locator("pre").nth(2)).to_have_text("plain & simple")
    assert chat.page.evaluate("window.broken") is None
    chat.button("Copy the code").first.click()
    expect(chat.page.locator("#announce")).to_have_text("Copied")
    assert chat.page.evaluate("navigator.clipboard.readText()") == "def double(x):\n    return 2 * x  # <b>not bold</b>"
    chat.button("Copy as Markdown").click()
    chat.wait_for("navigator.clipboard.readText().then((text) => text.startsWith('Here is how'))")
    assert chat.page.evaluate("navigator.clipboard.readText()") == CODE
    # Over plain HTTP from another machine there is no such clipboard, and the old way is taken.
    chat.page.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    chat.page.evaluate("document.addEventListener('copy', () => (window.copied = document.activeElement.value))")
    chat.prompts.first.hover()
    chat.button("Copy the message").click()
    chat.wait_for("window.copied === 'Show me'")


@pytest.mark.parametrize("profile", ["thinking", "chat"])
def test_a_reasoning_models_thoughts_are_folded(parrot: Server, visit: Visit, profile: str) -> None:
    parrot.select(profile)
    chat = visit(parrot).enter()
    chat.ask("What is the answer?")
    expect(chat.answers.locator("strong")).to_have_text("42")
    # They are the server's to read, or else the page's.
    assert ("<think>" in chat.stored()[1][1]) == (profile == "thinking")
    for again in (False, True):
        if again:
            chat.page.reload()
        thoughts = chat.page.get_by_text("First <i>this</i>, then that.")
        expect(thoughts).to_be_hidden()
        chat.page.get_by_text(re.compile("Thoughts|Thought for [0-9]+ s")).click()
        expect(thoughts).to_be_visible()
        expect(chat.answers).not_to_contain_text("think>")


def test_a_long_conversation_is_shown_whole(serve: Serve, visit: Visit, tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    messages = [{"type": ("human", "ai")[n % 2], "content": f"Message **{n}**"} for n in range(1001)]
    nested = {"type": "ai", "content": "> " * 3000 + "deep"}
    (data / "sessions.json").write_text(json.dumps({"1": {"name": "Long", "messages": [*messages, nested]}}))
    chat = visit(serve(data=data)).enter()
    chat.page.get_by_role("link", name="Long").click()
    # The end at once, then all of it; and what no parser takes is shown as it is.
    expect(chat.answers.last).to_contain_text("deep")
    expect(chat.answers.last).to_be_in_viewport(ratio=0.1)
    expect(chat.page.locator(".message")).to_have_count(1002)
    expect(chat.page.locator(".message.human .words").first).to_have_text("Message **0**")
    expect(chat.answers.locator("strong").first).to_have_text("1")
    chat.ask("Count to 3.")
    expect(chat.page.locator(".message")).to_have_count(1004)
    expect(chat.answers.last).to_have_text("1, 2, 3.")


def test_the_end_is_followed_until_the_reader_scrolls_up(endless: Server, visit: Visit) -> None:
    chat = visit(endless, viewport={"width": 500, "height": 400}).enter()
    chat.send("Go on and on")
    area = "document.getElementById('scroll')"
    chat.wait_for(f"{area}.scrollHeight > {area}.clientHeight + 200")
    at_end = f"{area}.scrollHeight - {area}.scrollTop - {area}.clientHeight < 60"
    chat.wait_for(at_end)
    chat.page.locator("#scroll").hover()
    chat.page.mouse.wheel(0, -150)
    chat.wait_for(f"!({at_end})")
    expect(chat.button("↓ To the end")).to_be_visible()
    top = chat.page.evaluate(f"{area}.scrollTop")
    height = chat.page.evaluate(f"{area}.scrollHeight")
    chat.wait_for(f"{area}.scrollHeight > {height + 60}")
    assert abs(chat.page.evaluate(f"{area}.scrollTop") - top) < 5
    chat.button("↓ To the end").click()
    chat.wait_for(at_end)
    height = chat.page.evaluate(f"{area}.scrollHeight")
    chat.wait_for(f"{area}.scrollHeight > {height + 60} && {at_end}")
    expect(chat.button("↓ To the end")).to_be_hidden()
    chat.button("Stop the answer").click()
    expect(chat.page.locator(".figures")).to_contain_text("stopped")
