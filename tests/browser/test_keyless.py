"""Where no key is asked for: what any page of anywhere may not do through a visitor's browser, and no guest to others."""

from __future__ import annotations

import concurrent.futures
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import requests
from playwright.sync_api import Browser

from auth.guess_budget import GUESSES
from auth.guests import MAX_KEYS, USUAL_LIMITS, Guests, check_page, guest_limits
from auth.identity import Limits, Terms
from auth.usage import GUESTS
from services.bootstrap import open_keys, open_usage
from services.errors import Forbidden, RateLimitExceeded
from services.settings import Settings
from tests.server.test_hearth import Script, host
from tests.support.serving import ROOT

PAGE = "https://chat.example"
BODY: dict[str, Any] = {
    "inputs": [{"role": "user", "content": "What is the capital of France?"}],
    "file_name": "guide.gguf",
}
BODY |= {"parameters": {"top_k": 1, "max_tokens": 20}}
FORMS = (
    "text/plain",
    "application/x-www-form-urlencoded",
    "multipart/form-data; boundary=x",
    "",
    "text/plain;application/json",
)


class Keyless(Script):
    """A script's server that asks for no key at /api."""

    def ask(self, headers: dict[str, str] | None = None, **fields: Any) -> requests.Response:
        return requests.post(f"{self.url}/api", json={**BODY, **fields}, headers=headers, timeout=60)


def start(folder: Path, arguments: str = "", **env: str) -> Keyless:
    (folder / "data").mkdir(exist_ok=True)
    config = (ROOT / "data" / "config.example.json").read_text(encoding="utf-8")
    (folder / "data" / "config.json").write_text(config, encoding="utf-8")
    return Keyless(folder, host(f"use_token=False, {arguments}"), {"HEARTH_MODELS": str(ROOT / "models"), **env})


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Keyless]:
    script = start(tmp_path_factory.mktemp("keyless"), HEARTH_CORS_ORIGINS=PAGE)
    yield script
    script.end()


def refused(reply: requests.Response) -> tuple[int, str, str]:
    error = reply.json()["error"]
    return reply.status_code, error["param"], error["code"]


def test_who_is_no_browser_goes_on(keyless: Keyless) -> None:
    assert "Paris" in keyless.ask().json()["answer"]["content"]
    assert "Paris" in keyless.ask({"Content-Type": "application/json; charset=utf-8"}).json()["answer"]["content"]


def test_pages_of_elsewhere_are_refused(keyless: Keyless) -> None:
    port = keyless.url.rsplit(":", 1)[1]
    for origin in (
        "https://evil.example",
        "null",
        "http://localhost:1",
        "http://127.0.0.1",
        "",
        f"http://x@127.0.0.1:{port}",
    ):
        assert refused(keyless.ask({"Origin": origin})) == (403, "Origin", "origin_not_allowed"), origin
    for site in ("cross-site", "same-site", "Cross-Site", "something"):
        assert refused(keyless.ask({"Sec-Fetch-Site": site})) == (403, "Sec-Fetch-Site", "origin_not_allowed")
        own = {"Origin": keyless.url, "Sec-Fetch-Site": site}
        assert refused(keyless.ask(own)) == (403, "Origin", "origin_not_allowed")
    for named in (keyless.url, keyless.url.upper().replace("HTTP", "http")):
        assert keyless.ask({"Origin": named, "Sec-Fetch-Site": "same-origin"}).status_code == 200
    # The owner has named this one.
    reply = keyless.ask({"Origin": PAGE, "Sec-Fetch-Site": "cross-site"})
    assert (reply.status_code, reply.headers["Access-Control-Allow-Origin"]) == (200, PAGE)


def test_a_key_that_is_none_is_no_way_around(keyless: Keyless) -> None:
    for headers in ({"Authorization": "anything"}, {"X-Api-Key": "hearth-x"}):
        assert refused(keyless.ask({"Origin": "https://evil.example", **headers}))[0] == 403
    assert refused(keyless.ask({"Origin": "https://evil.example"}, token="anything"))[0] == 403


def test_what_pages_of_elsewhere_send_counts_for_nobody(tmp_path: Path) -> None:
    """Nor do keys of this server count as guests, or are refused for what guests sent."""
    script = start(tmp_path)

    def status(token: str) -> int:
        return script.ask(token=token, parameters={"top_k": 1, "max_tokens": 1}).status_code

    try:
        keys = open_keys(Settings(data=tmp_path / "data"), {})
        (tmp_path / "data" / "api_keys.json").write_text(json.dumps({"0": "a typed key", "a": "another"}))
        minted = keys.mint(Terms(name="Ana")).key
        foreign = {"Content-Type": "text/plain", "Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
        for n in range(MAX_KEYS + 5):
            body = json.dumps({"token": f"evil {n}", "inputs": "x"})
            assert requests.post(f"{script.url}/api", body, headers=foreign, timeout=60).status_code == 403
        body = json.dumps({"token": minted})
        # Neither a page's nor a guest's: it is refused for what it says.
        assert requests.post(f"{script.url}/api", body, headers=foreign, timeout=60).status_code == 400
        for token in ("my own name", minted, "a typed key"):
            assert status(token) == 200
        # Guests' names are guesses while there are typed keys that nobody has used: they stay guests.
        assert {status(f"guest {n}") for n in range(GUESSES + 5)} == {200}
        assert any(status(f"more {n}") == 429 for n in range(MAX_KEYS))
        assert status(minted) == 200
    finally:
        script.end()


def test_bodies_that_forms_can_send_are_refused(keyless: Keyless) -> None:
    for kind in FORMS:
        headers = {"Content-Type": kind} if kind else {}
        reply = requests.post(f"{keyless.url}/api", data=b'{"inputs": "Hi"}', headers=headers, timeout=60)
        assert refused(reply) == (415, "Content-Type", "unsupported_media_type"), kind


def test_with_a_key_everything_is_as_before(server: Any) -> None:
    """README's curl sends JSON as a form, and a page that knows a key is let in where its owner wants it."""
    form = {"Content-Type": "application/x-www-form-urlencoded", "Authorization": server.key}
    for path, body in (("/answer", b'{"prompt": "Count to 3."}'), ("/api", b'{"inputs": "Count to 3."}')):
        assert requests.post(server.url + path, data=body, headers=form, timeout=60).status_code == 200
    assert server.post("/answer", {"prompt": "Hi"}, headers={"Origin": "https://evil.example"}).status_code == 200


def test_a_page_in_a_browser_gets_nothing(browser: Browser, keyless: Keyless) -> None:
    """A page of this machine's own 127.0.0.1, on another port, by a form, by fetch, and without CORS."""
    counted, refusals = _requests_of_guests(keyless), _refusals(keyless)
    # A page that really comes from there: browsers keep others from this machine.
    elsewhere = ThreadingHTTPServer(("127.0.0.1", 0), _Page)
    threading.Thread(target=elsewhere.serve_forever, daemon=True).start()
    context = browser.new_context()
    try:
        page = context.new_page()
        page.goto(f"http://127.0.0.1:{elsewhere.server_port}/")
        outcomes = page.evaluate(
            """async ([url, body]) => {
                const outcomes = []
                for (const options of [
                    {mode: "no-cors", body}, {mode: "no-cors", body: new Blob([body])},
                    {body, headers: {"Content-Type": "application/json"}}, {body},
                ]) {
                    const sent = fetch(url, {method: "POST", ...options})
                    outcomes.push(await sent.then(response => response.type, () => "error"))
                }
                return outcomes
            }""",
            [f"{keyless.url}/api", '{"inputs": "Hi", "parameters": {"max_tokens": 3}}'],
        )
        assert "basic" not in outcomes
        page.set_content(
            f"""<form method=post action="{keyless.url}/api" enctype=text/plain>"""
            """<input name='{"inputs": "Hi", "file_name": "guide.gguf", "repo_id": "' value='"}'></form>"""
        )
        with page.expect_navigation() as sent:
            page.evaluate("document.forms[0].submit()")
        response = sent.value
        assert response
        assert response.status == 403
    finally:
        context.close()
        elsewhere.shutdown()
        elsewhere.server_close()
    assert _requests_of_guests(keyless) == counted
    # Two that a browser sends unasked, one that it lets the page read, and the form; before the third it asks.
    assert _refusals(keyless) >= refusals + 4


class _Page(BaseHTTPRequestHandler):
    """An empty page."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/html")
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Nothing."""


def _refusals(keyless: Keyless) -> int:
    log = keyless.folder / "data" / "audit.jsonl"
    return log.read_text(encoding="utf-8").count('"status": 403') if log.exists() else 0


def _requests_of_guests(keyless: Keyless) -> int:
    usage = open_usage(Settings(data=keyless.folder / "data"), {})
    try:
        return sum(row.used.requests for row in usage.rows(GUESTS))
    finally:
        usage.close()


def test_a_guests_limits_are_those_of_its_address(tmp_path: Path) -> None:
    """Another key with each request is no way around; another address has its own share."""
    script = start(tmp_path, "limits={'requests_per_minute': 4, 'parallel': 2}, ")
    try:
        replies = [script.ask({"Authorization": f"guess {n}"}) for n in range(7)]
        assert [reply.status_code for reply in replies] == [200] * 4 + [429] * 3
        assert replies[0].headers["x-ratelimit-remaining-requests"] == "3"
        assert refused(replies[-1])[1:] == ("requests_per_minute", "rate_limit_exceeded")
        with requests.Session() as other:
            other.mount("http://", _From("127.0.0.2"))
            assert other.post(f"{script.url}/api", json=BODY, timeout=60).status_code == 200
    finally:
        script.end()


def test_guests_answers_at_once_and_tokens_are_limited(tmp_path: Path) -> None:
    script = start(tmp_path, "limits={'requests_per_minute': None, 'tokens_per_day': 400, 'parallel': 2}, ")
    try:
        with concurrent.futures.ThreadPoolExecutor(8) as pool:
            asked = pool.map(lambda n: script.ask({"Authorization": str(n)}), range(8))
            assert {reply.status_code for reply in asked} <= {200, 429}
        replies = [script.ask({"Authorization": f"guess {n}"}) for n in range(20)]
        assert refused(replies[-1])[:2] == (429, "tokens_per_day")
    finally:
        script.end()


class _From(requests.adapters.HTTPAdapter):
    """Connects from another address of this machine."""

    def __init__(self, address: str) -> None:
        self._address = address
        super().__init__()

    def init_poolmanager(self, *arguments: Any, **named: Any) -> None:
        super().init_poolmanager(*arguments, source_address=(self._address, 0), **named)


def test_an_address_has_no_end_of_guests() -> None:
    guests, limits, scopes = Guests(), guest_limits(), frozenset[str]()
    ids = {guests.let_in("address:1.2.3.4", f"key {n}", scopes, limits).id for n in range(MAX_KEYS)}
    assert len(ids) == MAX_KEYS
    assert {guests.accounts(id_)[0].id for id_ in ids} == {guests.let_in("address:1.2.3.4", "", scopes, limits).id}
    with pytest.raises(RateLimitExceeded, match="send one of those, or none"):
        guests.let_in("address:1.2.3.4", "another", scopes, limits)
    assert guests.let_in("address:1.2.3.4", "key 0", scopes, limits).id in ids
    assert guests.let_in("address:1.2.3.5", "another", scopes, limits).id not in ids
    # One that is forgotten is limited yet, and as the gate limits others.
    assert Guests().accounts("guest-0123-4567")[0].limits == USUAL_LIMITS
    guests.let_in("address:1.2.3.4", "", scopes, Limits(parallel=1))
    assert guests.accounts("guest-0123-4567")[0].limits == Limits(parallel=1)


def test_limits_are_named() -> None:
    assert guest_limits() == USUAL_LIMITS
    assert guest_limits({"parallel": None, "max_tokens": 5}).given() == {
        "requests_per_minute": 120,
        "tokens_per_day": 1_000_000,
        "max_tokens": 5,
    }
    with pytest.raises(ValueError, match="guests have no limit 'requests'; they have requests_per_minute"):
        guest_limits({"requests": 5})
    with pytest.raises(ValueError, match="parallel: "):
        guest_limits({"parallel": 0})


@pytest.mark.parametrize(
    ("origin", "host", "is_own"),
    [
        ("https://ai.example", "ai.example", True),
        ("https://ai.example", "ai.example:443", True),
        ("http://ai.example:80", "ai.example", True),
        ("https://ai.example", "ai.example:80", False),
        ("http://ai.example:5000", "ai.example", False),
        ("http://[::1]:5000", "[::1]:5000", True),
        ("ftp://ai.example", "ai.example", False),
        ("http://[", "[", False),
        ("null", "", False),
        ("", "", False),
    ],
)
def test_an_origin_is_ones_own_by_its_host_and_port(origin: str, host: str, is_own: bool) -> None:
    if is_own:
        check_page(origin, "same-origin", host, ())
    else:
        with pytest.raises(Forbidden):
            check_page(origin, None, host, ())
    check_page(origin, "cross-site", host, ["*"])
