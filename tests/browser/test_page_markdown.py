"""The chat page in a browser: formulas, footnotes, tasks, tables, directions and diagrams in what a model writes."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import requests
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, expect

from tests.support.browsing import Chat
from tests.support.serving import Server

Visit = Callable[..., Chat]
Show = Callable[..., Chat]

PHONE = {"viewport": {"width": 360, "height": 740}}
FORMULAS = r"""Inline $x_{1,2} = \frac{-b \pm \sqrt{b^2 - 4ac}}{2a}$, \(a_1 * b_1 * c\), **bold $a*b**c$ end** and $a < b$.

$$
\begin{aligned}
f'(x) &= g(x) \\
- g(x) &= \int_0^\infty e^{-t^2}\,dt
\end{aligned}
$$

Then \[ y = z \] follows.

| Norm | Value |
|------|------:|
| $|x|_1$ | 2 |
"""
MONEY = r"""It costs $5 and $10. Either $20 now or in US$, or 30$. Spaces $ a$ and $a $ too. A `$x$` in code, and \$y\$.

    $indented$

```sh
echo $HOME $PATH $$
```

$open

and closed$
"""
EVIL = r"""$\href{javascript:window.broken=1}{a}$ $\url{https://example.org/}$ $\includegraphics{https://example.org/a.png}$

$\class{toasts}{x}$ $\id{toasts}{x}$ $\style{position:fixed}{x}$

$$\begin{equation}\label{toasts} x = 1 \end{equation}$$

See $\ref{toasts}$ and $\kern-500em\colorbox{red}{over everything}$ and $\text{<img src=x onerror="window.broken=2">}$.

$\frac{1}{$ and $\nosuchthing{x}$"""
WIDE = "Wide:\n\n$$ " + " + ".join(f"a_{{{n}}}" for n in range(60)) + " = 0 $$"
FOOTNOTES = """A claim.[^second] Another.[^First] The claim again.[^SECOND] Nothing.[^nowhere]

[^first]: The one, *defined* first.
[^second]: The other,
    in two lines.

    And two paragraphs.
[^unused]: Nobody refers to it.

The end."""
TASKS = """- [x] done **well** and `so`
- [ ] not [yet](https://example.org/)
  - below

1. [x] loose

   more of it
"""
TABLE = """| Left | Centre | Right | None |
|:-----|:------:|------:|------|
| a | b | 1 | internationalization incomprehensibilities |
| supercalifragilisticexpialidocious | antidisestablishmentarianism | 2 | c |
"""
DIRECTIONS = """مرحبا بالعالم[^ar]

[^ar]: حاشية

- عنصر `code` أول
- English item

1. שלום

   עולם

> اقتباس

| اسم | قيمة |
|---|---|
| أ | 1 |

$x$ هو متغير

---"""
DIAGRAMS = """```mermaid
flowchart LR
  A[Begin] --> B[Finish]
  click A href "https://example.org/"
```

```mermaid
flowchart LR
  A -->
```"""
ATTACK = """```mermaid
flowchart LR
  A["<img src='https://example.org/a.png' onerror='top.broken=self.broken=1'>"] --> B[the end]
  click B href "https://example.org/" "Come" _top
```"""
TEXTS = {
    "formulas": FORMULAS,
    "money": MONEY,
    "evil": EVIL,
    "wide": WIDE,
    "footnotes": FOOTNOTES,
    "tasks": TASKS,
    "table": TABLE,
    "directions": DIRECTIONS,
    "diagrams": DIAGRAMS,
    "attack": ATTACK,
    "all": "\n\n".join((FORMULAS, WIDE, r"$\wrong$", FOOTNOTES, TASKS, TABLE, DIRECTIONS, DIAGRAMS)),
}


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server with a conversation for each of the texts, which is twice in it."""
    data = tmp_path_factory.mktemp("told") / "data"
    data.mkdir()
    conversations = {
        str(n): {"name": name, "messages": [{"type": kind, "content": text} for kind in ("human", "ai") * 2]}
        for n, (name, text) in enumerate(TEXTS.items(), start=1)
    }
    (data / "sessions.json").write_text(json.dumps(conversations))
    server = Server(data)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def show(told: Server, visit: Visit) -> Show:
    """Opens the conversation of this name, and waits until its answers are there."""

    def come(name: str, **options: Any) -> Chat:
        chat = visit(told, **options).open(f"#/{list(TEXTS).index(name) + 1}")
        expect(chat.answers).to_have_count(2)
        return chat

    return come


def written(chat: Chat, text: str) -> Any:
    """What the page makes of a text, as an element of the page, seconds that it took included."""
    return chat.page.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/page/chat/markdown.js");
            const begun = performance.now();
            const view = new MarkdownView();
            document.getElementById("messages").replaceChildren(view.element);
            view.show(text);
            return (performance.now() - begun) / 1000;
        }""",
        text,
    )


def css(locator: Locator, name: str) -> str:
    return str(locator.evaluate("(element, name) => getComputedStyle(element)[name]", name))


def test_formulas_are_typeset(show: Show) -> None:
    chat = show("formulas")
    answer = chat.answers.last
    expect(answer.locator(".math > math")).to_have_count(5)
    expect(answer.locator(".math-display > math[display=block]")).to_have_count(2)
    # Nothing in them was read as Markdown: no emphasis, no list, no cell too many.
    expect(answer.locator("em, li, hr, h2")).to_have_count(0)
    expect(answer.locator("strong")).to_have_count(1)
    expect(answer.locator("strong math mo")).to_have_text(["\u2217"] * 3)
    expect(answer.locator("tbody td")).to_have_count(2)
    expect(answer.locator("td math")).to_have_text("|x|1")
    expect(answer.locator("mtr")).to_have_count(2)
    expect(answer.locator("mfrac msqrt msup")).to_have_text("b2")
    assert not [url for url in chat.urls if not url.startswith(chat.server.url)]


def test_copying_an_answer_gives_its_source(show: Show) -> None:
    chat = show("formulas", permissions=["clipboard-read", "clipboard-write"])
    expect(chat.answers.last.locator("math").first).to_be_visible()
    chat.button("Copy as Markdown").last.click()
    expect(chat.page.locator("#announce")).to_have_text("Copied")
    assert chat.page.evaluate("navigator.clipboard.readText()") == FORMULAS
    # As text it has no signs of Markdown, and formulas stay what they are.
    chat.button("Copy as text").last.click()
    chat.wait_for("navigator.clipboard.readText().then((text) => !text.includes('**bold'))")
    text = chat.page.evaluate("navigator.clipboard.readText()")
    assert text.startswith(FORMULAS.split(", **bold", 1)[0])
    assert "bold $a*b**c$ end" in text
    expect(chat.answers.last.locator("math")).to_have_count(7)


def test_money_and_code_are_no_formulas_and_load_nothing(show: Show) -> None:
    chat = show("money")
    answer = chat.answers.last
    first = answer.locator("p").first
    expect(first).to_have_text(
        "It costs $5 and $10. Either $20 now or in US$, or 30$. Spaces $ a$ and $a $ too. A $x$ in code, and $y$."
    )
    expect(answer.locator("pre")).to_have_text(["$indented$", "echo $HOME $PATH $$"])
    expect(answer.locator(".hljs-variable").first).to_be_visible()
    expect(answer.locator(".math, .math-display, math")).to_have_count(0)
    assert not [url for url in chat.urls if any(name in url for name in ("temml", "noto", "mermaid", "diagram/"))]


def test_a_formula_does_nothing_but_show_itself(show: Show) -> None:
    chat = show("evil")
    answer = chat.answers.last
    wrong = answer.locator(".math-wrong")
    expect(wrong).to_have_count(9)
    expect(wrong.last).to_have_text(r"$\nosuchthing{x}$")
    expect(wrong.last).to_have_attribute("title", r"Unsupported function name: \nosuchthing at position 1: \nosuchthing{x}")
    expect(wrong.first).to_contain_text(r"\href{javascript:window.broken=1}")
    expect(answer.locator("math").last).to_contain_text('<img src=x onerror="window.broken=2">')
    expect(answer.locator("a, img, [id], [href], .toasts")).to_have_count(0)
    assert chat.page.evaluate("document.getElementById('toasts').parentElement.parentElement.className === 'chat'")
    # What it moves out of its place is cut off, and covers nothing.
    assert chat.page.evaluate("document.elementsFromPoint(50, 300).every((each) => !each.closest('.markdown'))")
    assert css(answer.locator(".block").first, "overflowX") == "clip"
    assert chat.page.evaluate("window.broken") is None
    assert not [url for url in chat.urls if not url.startswith(chat.server.url)]


@pytest.mark.parametrize(
    "text",
    [
        "$" * 30_000,
        "$a " * 10_000,
        r"\( x " * 10_000,
        r"**a \(b " * 5_000,
        "| a |\n|---|\n" + "| $x \\| | \n" * 2_000,
        "[^a]: b\n" * 5_000,
        r"$\def\a{\a\a}\a$",
        r"$\def\a{" + "x" * 200 + "}" + r"\a" * 40 + "$",
        r"$\def\a{" + "x" * 2_000 + "}" + r"\a" * 900 + "$",
        "$" + "x^{" * 1_200 + "}" * 1_200 + "$",
        "$" + r"\color{red}" * 400 + "x$",
        "$" + "x" * 20_000 + "$",
    ],
    ids=lambda text: text[:12],
)
def test_a_text_made_to_take_long_is_shown_soon(show: Show, text: str) -> None:
    chat = show("tasks")
    assert written(chat, text) < 5
    chat.wait_for("document.querySelector('.math:not(.math-wrong):not(:has(math))') === null")
    assert chat.page.evaluate("document.getElementsByTagName('*').length") < 60_000


def test_a_growing_answer_stays_calm(show: Show) -> None:
    chat = show("formulas")
    expect(chat.answers.last.locator("math").first).to_be_visible()
    text = "First **words**.\n\n$$\na_1\n=\nb * c * d\n- e\n$$\n\nLast $x_y + z_w$."
    seen = chat.page.evaluate(
        """async (text) => {
            const { MarkdownView } = await import("/page/chat/markdown.js");
            const view = new MarkdownView();
            document.getElementById("messages").replaceChildren(view.element);
            const seen = [];
            for (let end = 20; end <= text.length; end += 1) {
                view.show(text.slice(0, end));
                const first = view.element.firstElementChild;
                const formula = view.element.children[1];
                seen.push({ end, first: first === (seen.first ??= first), formula: formula?.innerText ?? "",
                    isOpen: Boolean(formula?.querySelector(".plain")),
                    wrong: view.element.querySelectorAll("li, h1, h2, hr, em").length });
                await null;
            }
            return seen;
        }""",
        text,
    )
    assert len(seen) > 30
    assert all(each["first"] and not each["wrong"] for each in seen)
    # Until its end comes it stands there as it was written.
    within = [each for each in seen if text.index("a_1") < each["end"] < text.index("\n$$\n\nLast") + 3]
    assert within
    for each in within:
        assert each["isOpen"]
        assert each["formula"].split() == text[18 : each["end"]].split()
    expect(chat.page.locator(".math-display > math")).to_have_count(1)
    expect(chat.page.locator(".math > math")).to_have_count(1)


def test_a_wide_formula_scrolls_in_a_frame_of_its_own(show: Show) -> None:
    chat = show("wide", **PHONE)
    frame = chat.answers.last.get_by_role("group", name="Formula")
    expect(frame).to_be_visible()
    assert frame.evaluate("(element) => element.scrollWidth > element.clientWidth + 500")
    assert chat.page.evaluate("document.getElementById('scroll').scrollWidth") <= 360
    frame.focus()
    chat.page.keyboard.press("ArrowRight")
    chat.wait_for("document.activeElement.scrollLeft > 0")
    # So does one in a line that cannot be broken; a short one is no stop on the way.
    parts = "+".join(f"a_{{{n}}}" for n in range(60))
    written(chat, rf"- In a line $\frac{{{parts}}}{{2}}$ of words, $x$" + "\n\n$$ x $$")
    expect(chat.page.get_by_role("group", name="Formula")).to_have_count(1)
    expect(chat.page.locator(".math-wide").locator("mfrac")).to_be_visible()
    expect(chat.page.locator("math")).to_have_count(3)
    assert chat.page.evaluate("document.getElementById('scroll').scrollWidth") <= 360


def test_footnotes_lead_there_and_back(show: Show) -> None:
    chat = show("footnotes")
    address = chat.page.url
    answer = chat.answers.last
    notes = answer.get_by_role("region", name="Footnotes").get_by_role("listitem")
    expect(notes).to_have_count(3)
    expect(notes.nth(0)).to_contain_text("And two paragraphs.")
    expect(notes.nth(1)).to_contain_text("The one, defined first.")
    expect(notes.nth(2)).to_contain_text("Nobody refers to it.")
    words = answer.locator("p").first
    expect(words).to_have_text("A claim.1 Another.2 The claim again.1 Nothing.[^nowhere]")
    expect(answer.locator(".block p").nth(1)).to_have_text("The end.")
    # By the keyboard, to the second answer's own footnotes.
    reference = words.locator("a").nth(2)
    reference.focus()
    chat.page.keyboard.press("Enter")
    expect(notes.nth(0)).to_be_focused()
    expect(notes.nth(0)).to_be_in_viewport()
    notes.nth(0).get_by_label("Back to place 2 of footnote 1").click()
    expect(reference).to_be_focused()
    words.get_by_label("Footnote 2").click()
    expect(notes.nth(1)).to_be_focused()
    assert chat.page.url == address
    assert chat.page.evaluate("history.length") <= 2
    ids = chat.page.evaluate("[...document.querySelectorAll('[id]')].map((each) => each.id)")
    assert len(ids) == len(set(ids))


def test_a_footnote_that_comes_late_numbers_what_was_written_before(show: Show) -> None:
    chat = show("footnotes")
    shown = chat.page.evaluate(
        """async () => {
            const { MarkdownView } = await import("/page/chat/markdown.js");
            const view = new MarkdownView();
            const shown = ["One.[^b]\\n\\nTwo.", "One.[^b]\\n\\nTwo.\\n\\n[^b]: Three"].map((text) => {
                view.show(text);
                return [view.element.innerText.replace(/\\s+/g, " ").trim(), view.element.children[1]];
            });
            return [shown[0][0], shown[1][0], shown[0][1] === shown[1][1]];
        }"""
    )
    assert shown == ["One.[^b] Two.", "One.1 Two. Three ↩", True]


def test_tasks_are_boxes_that_nobody_ticks(show: Show) -> None:
    chat = show("tasks")
    answer = chat.answers.last
    boxes = answer.get_by_role("checkbox")
    expect(boxes).to_have_count(3)
    done = answer.get_by_role("checkbox", name="done well and so", exact=True)
    expect(done).to_be_checked()
    expect(done).to_be_disabled()
    expect(answer.get_by_role("checkbox", name="not yet", exact=True)).not_to_be_checked()
    expect(answer.get_by_role("checkbox", name="loose", exact=True)).to_be_checked()
    answer.get_by_text("done").click(force=True)
    expect(done).to_be_checked()
    assert css(answer.locator("li").first, "listStyleType") == "none"


@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_tables_keep_their_alignment_and_their_words(show: Show, options: dict[str, Any]) -> None:
    chat = show("table", **options)
    cells = chat.answers.last.locator("tbody tr").first.locator("td")
    assert [css(cells.nth(n), "textAlign") for n in range(4)] == ["left", "center", "right", "start"]
    lines = """(cell) => cell.textContent.split(" ").map((word) => {
        const range = document.createRange();
        const at = cell.textContent.indexOf(word);
        range.setStart(cell.firstChild, at);
        range.setEnd(cell.firstChild, at + word.length);
        return range.getClientRects().length;
    })"""
    table = chat.answers.last.locator("td")
    assert {n for cell in table.all() for n in cell.evaluate(lines)} == {1}
    frame = chat.answers.last.get_by_role("region", name="Table")
    if options:
        assert frame.evaluate("(element) => element.scrollWidth > element.clientWidth")
    assert chat.page.evaluate("document.getElementById('scroll').scrollWidth <= innerWidth")


def test_each_block_runs_in_its_own_direction(show: Show) -> None:
    chat = show("directions")
    answer = chat.answers.last
    assert answer.locator("p:not([dir]), li:not([dir]), td:not([dir]), th:not([dir])").count() == 0
    paragraphs = answer.locator("> .block > p")
    assert [css(each, "direction") for each in paragraphs.all()] == ["rtl", "rtl"]
    items = answer.locator("li")
    assert [css(each, "direction") for each in items.all()] == ["rtl", "ltr", "rtl", "rtl"]
    # The marks stand in the room on the side where the words begin.
    assert css(items.nth(0), "marginRight") == css(items.nth(1), "marginLeft") != "0px"
    assert css(items.nth(0), "marginLeft") == css(items.nth(1), "marginRight") == "0px"
    quote = answer.locator("blockquote")
    assert (css(quote, "borderRightWidth"), css(quote, "borderLeftWidth")) == ("3px", "0px")
    assert css(answer.locator("table"), "direction") == "rtl"
    assert css(answer.locator("code"), "direction") == "ltr"


def test_a_diagram_is_drawn_when_somebody_asks_for_it(show: Show) -> None:
    chat = show("diagrams")
    answer = chat.answers.last
    draw = answer.get_by_role("button", name="Draw the diagram")
    expect(draw).to_have_count(2)
    assert not [url for url in chat.urls if "mermaid" in url]
    toggle = answer.locator(".draw").first
    toggle.focus()
    chat.page.keyboard.press("Enter")
    drawing = answer.frame_locator("iframe").locator("svg")
    expect(drawing).to_contain_text("Begin")
    expect(drawing).to_contain_text("Finish")
    expect(toggle).to_have_text("Show the code")
    expect(toggle).to_be_focused()
    expect(answer.locator("pre").first).to_be_hidden()
    height = answer.locator("iframe").evaluate("(frame) => frame.clientHeight")
    assert 60 < height < 600
    frame = chat.page.frames[1]
    assert frame.evaluate("self.origin") == "null"
    assert frame.evaluate("document.documentElement.scrollHeight <= innerHeight")
    chat.page.keyboard.press("Enter")
    expect(answer.locator("pre").first).to_be_visible()
    expect(answer.locator("iframe")).to_be_hidden()
    # One that is not right says so, and stays code.
    answer.locator(".draw").last.click()
    expect(answer.get_by_role("alert")).to_contain_text("This cannot be drawn. Parse error on line 3")
    expect(answer.locator(".draw").last).to_have_text("Draw the diagram")
    assert not [url for url in chat.urls if not url.startswith(chat.server.url)]


def test_a_diagram_that_attacks_stays_in_its_frame(show: Show) -> None:
    chat = show("attack")
    refused: list[str | None] = []
    chat.page.on("requestfailed", lambda request: refused.append(request.failure))
    answer = chat.answers.last
    answer.locator(".draw").click()
    expect(answer.frame_locator("iframe").locator("svg")).to_contain_text("the end")
    frame = chat.page.frames[1]
    assert frame.evaluate("self.broken") is None
    frame.get_by_text("the end").click()
    expect(answer.frame_locator("iframe").locator("svg")).to_contain_text("the end")
    assert frame.locator("#drawing [href]").count() == 0
    assert chat.page.evaluate("window.broken") is None
    assert len(chat.context.pages) == 1
    # What it tried, the frame's policy forbade.
    assert refused == ["csp"] * len([url for url in chat.urls if not url.startswith(chat.server.url)])
    assert chat.complaints
    assert all("Content Security Policy" in each or "sandboxed" in each for each in chat.complaints)
    chat.complaints.clear()


def test_a_diagrams_frame_is_let_nothing_by_its_policy(told: Server) -> None:
    reply = requests.get(f"{told.url}/page/diagram/frame.html", timeout=10)
    policy = reply.headers["Content-Security-Policy"].split("; ")
    assert reply.headers["Content-Type"].startswith("text/html")
    assert {"sandbox allow-scripts", "default-src 'none'", "script-src 'self'", "frame-ancestors 'self'"} <= set(policy)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("options", [{}, PHONE], ids=["desktop", "phone"])
def test_all_of_it_is_for_everybody(show: Show, scheme: str, options: dict[str, Any]) -> None:
    chat = show("all", color_scheme=scheme, **options)
    answer = chat.answers.last
    if not options:
        answer.locator(".draw").first.click()
        expect(answer.locator(".draw").first).to_have_text("Show the code")
    expect(answer.locator("math").last).to_be_visible()
    found = Axe().run(chat.page).response["violations"]
    told = [(each["id"], each["impact"], [node["html"][:200] for node in each["nodes"]]) for each in found]
    assert [each for each in told if each[1] in ("serious", "critical")] == []
    # Rules are as quiet as all other lines.
    assert css(answer.locator("hr").first, "borderTopColor") == css(chat.page.locator("header").first, "borderBottomColor")
