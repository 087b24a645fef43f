"""Headless Chromium on the chat page."""

from __future__ import annotations

import re
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager

from playwright.sync_api import Browser, BrowserContext, ConsoleMessage, Locator, expect, sync_playwright

from tests.support.serving import Server

NAMES = ("chromium", "chromium-browser", "google-chrome")
SECONDS = 20_000
# The list of suggestions below Chromium's own address bar, which nobody sees here, is a web page in two processes for each
# window: more than half of what opening a page costs.
UNSEEN = ("WebUIOmniboxPopup", "WebUIOmniboxAimPopup", "WebUIOmniboxFullPopup")
# The last list wins: what Playwright turns off, as far as it matters to pages, stays off.
OFF = (
    "AvoidCorsURLLoaderRestartOnRedirect",
    "AvoidUnnecessaryBeforeUnloadCheckSync",
    "DestroyProfileOnBrowserClose",
    "HttpsFirstBalancedModeAutoEnable",
    "HttpsUpgrades",
    "NetworkTimeServiceQuerying",
    "OptimizationHints",
    "PaintHolding",
    "PreconnectToSearch",
    "ThirdPartyStoragePartitioning",
)
FLAGS = ("--no-sandbox", "--disable-dev-shm-usage", "--disable-gpu", f"--disable-features={','.join(OFF + UNSEEN)}")


@contextmanager
def chromium() -> Iterator[Browser]:
    """The system's own, without a window."""
    found = next((path for name in NAMES if (path := shutil.which(name))), None)
    assert found, "there is no Chromium: ./setup.sh test installs it"
    expect.set_options(timeout=SECONDS)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


class Chat:
    """The page of one person, signed in unless told otherwise. What the browser complains of is kept in `complaints`."""

    def __init__(self, context: BrowserContext, server: Server, key: str | None = None) -> None:
        self.context = context
        self.server = server
        self.complaints: list[str] = []
        self.urls: list[str] = []
        self.page = context.new_page()
        self.page.set_default_timeout(SECONDS)
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("console", self._hear)
        self.page.on("request", lambda request: self.urls.append(request.url))
        if key is None:
            key = server.key
        if key:
            # A frame without an origin has no storage.
            keep = f"localStorage.getItem('hearth.key') ?? localStorage.setItem('hearth.key', '{key}')"
            context.add_init_script(f"if (self === top) {keep}")

    def open(self, hash_: str = "") -> Chat:
        """Open the page, at a session where one is named."""
        self.page.goto(f"{self.server.url}/{hash_}")
        return self

    def enter(self) -> Chat:
        """The same, and wait until it is ready."""
        self.open()
        expect(self.prompt).to_be_focused()
        return self

    @property
    def prompt(self) -> Locator:
        return self.page.get_by_label("Your message")

    @property
    def answers(self) -> Locator:
        """The answers, the one under way included."""
        return self.page.locator(".message.ai:visible .markdown")

    @property
    def prompts(self) -> Locator:
        return self.page.locator(".message.human:visible .words")

    @property
    def sessions(self) -> Locator:
        return self.page.locator("#sessions li")

    @property
    def session(self) -> str:
        """The number of the session that is open."""
        found = re.search(r"#/(\d+)$", self.page.url)
        assert found, self.page.url
        return found[1]

    def button(self, name: str | re.Pattern[str]) -> Locator:
        return self.page.get_by_role("button", name=name, exact=isinstance(name, str))

    @property
    def model(self) -> Locator:
        """The button with the name of the model that answers."""
        return self.page.get_by_role("button", name=re.compile("^Model: "))

    def choose_model(self, name: str) -> None:
        """Choose the model that answers the open conversation."""
        self.model.click()
        option = self.page.get_by_role("option").filter(
            has=self.page.locator("strong", has_text=re.compile(f"^{re.escape(name)}$"))
        )
        option.click()
        expect(self.page.get_by_role("listbox")).to_be_hidden()

    def send(self, prompt: str) -> None:
        self.prompt.fill(prompt)
        self.prompt.press("Enter")

    def ask(self, prompt: str) -> str:
        """Send a prompt, and wait for the whole answer."""
        done = self.page.locator(".message.ai:visible .actions")
        n = done.count()
        self.send(prompt)
        expect(done).to_have_count(n + 1)
        return self.answers.last.inner_text()

    def choose(self, action: str, conversation: str | re.Pattern[str]) -> None:
        """Choose an action from the menu of a conversation in the list."""
        self.sessions.filter(has_text=conversation).first.get_by_role("button", name="Options for").click()
        self.page.get_by_role("menuitem", name=action).click()

    def wait_for(self, script: str) -> None:
        """Wait until a JavaScript expression is true. The page's policy does not let Playwright's own way through."""
        deadline = time.monotonic() + SECONDS / 1000
        while not self.page.evaluate(script):
            assert time.monotonic() < deadline, script
            self.page.wait_for_timeout(50)

    def stored(self) -> list[tuple[str, str]]:
        """The session's messages, as the server has them."""
        messages = self.server.get(f"/answer/{self.session}").json().get("messages", [])
        return [(message["type"], message["content"]) for message in messages]

    def panel(self, name: str) -> Locator:
        """Open a panel, and return it."""
        self.button(re.compile(f"^{name}")).first.click()
        panel = self.page.locator("#panel")
        expect(panel.get_by_role("heading", level=2)).to_have_text(name)
        return panel

    def _hear(self, message: ConsoleMessage) -> None:
        # A refused request is the page's to tell of, and the browser's habit to write down.
        if message.type in ("error", "warning") and "Failed to load resource" not in message.text:
            self.complaints.append(message.text)
