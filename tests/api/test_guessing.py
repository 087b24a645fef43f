"""Typed keys beside guesses: who has the right one is let in, and a guess costs whoever guesses."""

from __future__ import annotations

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from auth import guesses, hashing
from auth.addresses import source_of
from auth.guess_budget import GUESSES, GuessBudget
from auth.identity import Terms
from auth.keys import KeyStore
from services.errors import RateLimitExceeded, Unavailable
from tests.support.in_process import Client

TYPED = "open sesame"


@pytest.fixture(autouse=True)
def quarter(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter of scrypt's work: requests wait for each other still, and a busy machine is not kept so for long."""
    monkeypatch.setitem(hashing._SCRYPT, "n", hashing._SCRYPT["n"] // 4)


def type_master(client: Client) -> None:
    """Type the master key into the file, as a person does, and start anew; `client.key` is another, known one."""
    key, _ = client.mint()
    stored = json.loads((client.data / "api_keys.json").read_text())
    (client.data / "api_keys.json").write_text(json.dumps({**stored, "0": TYPED}))
    assert client.get("/auth", key=key).status_code == 200
    client.key = key
    # What was typed is stretched now; after a start nothing is proven.
    client.restart()


def test_the_first_requests_with_a_typed_key_all_get_in(client: Client) -> None:
    type_master(client)
    with ThreadPoolExecutor(12) as pool:
        assert list(pool.map(lambda _: client.get("/auth", key=TYPED).status_code, range(12))) == [200] * 12


def test_guesses_are_few_and_touch_no_known_key(client: Client) -> None:
    type_master(client)
    assert client.get("/auth", key=TYPED).status_code == 200
    with ThreadPoolExecutor(30) as pool:
        replies = list(pool.map(lambda n: client.get("/auth", key=f"guess {n}"), range(60)))
    statuses = [reply.status_code for reply in replies]
    assert set(statuses) <= {401, 429, 503}
    assert statuses.count(401) <= GUESSES
    for n in range(GUESSES):
        statuses.append(client.get("/auth", key=f"another {n}").status_code)
    refused = client.get("/auth", key="yet another")
    assert (refused.status_code, refused.json()["error"]["code"]) == (429, "too_many_guesses")
    assert 1 <= int(refused.headers["Retry-After"]) <= 61
    assert statuses.count(401) <= GUESSES
    # From the same address: what is known is let in, and what is known to be wrong is told so.
    for key in (TYPED, client.key):
        assert client.get("/auth", key=key).status_code == 200


def test_a_client_with_an_old_key_uses_up_nobodys_guesses(tmp_path: Path) -> None:
    (tmp_path / "api_keys.json").write_text(json.dumps({"0": TYPED}))
    store = KeyStore(tmp_path / "api_keys.json")
    for _ in range(3 * GUESSES):
        assert store.check("old key", "192.0.2.1") is None
    assert store.check(TYPED, "192.0.2.1")


def test_a_guess_costs_its_own_address_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(guesses, "stretch", lambda key, salt: f"scrypt:{salt.hex()}:{'0' * 64}")
    (tmp_path / "api_keys.json").write_text(json.dumps({"0": TYPED}))
    store = KeyStore(tmp_path / "api_keys.json")
    known = store.mint(Terms()).key
    for n in range(GUESSES):
        assert store.check(f"guess {n}", f"2001:db8::{n}") is None
    with pytest.raises(RateLimitExceeded):
        store.check("one more", "2001:db8::ffff")
    assert store.check("one more", "2001:db8:0:1::1") is None
    assert store.check(known, "2001:db8::1")


def test_the_lines_of_one_address_are_no_reason_to_refuse_another(tmp_path: Path) -> None:
    (tmp_path / "api_keys.json").write_text(json.dumps({"0": TYPED}))
    store = KeyStore(tmp_path / "api_keys.json")

    def guess(n: int) -> str:
        try:
            return str(store.check(f"guess {n}", "192.0.2.1"))
        except Unavailable as error:
            return error.code

    with ThreadPoolExecutor(8) as pool:
        running = [pool.submit(guess, n) for n in range(40)]
        right = store.check(TYPED, "192.0.2.2")
        assert right
        assert right.is_master
        assert {each.result() for each in running} <= {"None", "too_busy", "rate_limit_exceeded", "too_many_guesses"}


def test_whom_an_address_stands_for() -> None:
    assert source_of("192.0.2.1") == source_of("::ffff:192.0.2.1") == "192.0.2.1"
    assert source_of("2001:db8::1") == source_of("2001:db8::2%eth0") != source_of("2001:db8:0:1::1")
    assert source_of(None) == ""


def type_several(client: Client, n_keys: int) -> None:
    """The same with so many typed keys beside the master's, none of them proven."""
    type_master(client)
    stored = json.loads((client.data / "api_keys.json").read_text())
    pupils = {f"{n:016x}": f"pupil {n}" for n in range(n_keys)}
    (client.data / "api_keys.json").write_text(json.dumps({**stored, **pupils}))
    client.restart()


def test_a_whole_class_gets_in_at_once(client: Client) -> None:
    """All their requests come from one address, and some of them came wrong before."""
    type_several(client, 30)
    assert [client.get("/auth", key=f"mistyped {n}").status_code for n in range(3)] == [401] * 3
    with ThreadPoolExecutor(30) as pool:
        assert list(pool.map(lambda n: client.get("/auth", key=f"pupil {n}").status_code, range(30))) == [200] * 30
    stored = json.loads((client.data / "api_keys.json").read_text())
    assert len({entry["hash"].split(":")[1] for entry in stored.values() if entry["hash"].startswith("scrypt:")}) == 1


def test_a_right_key_gets_in_beside_a_guesser_of_its_address(client: Client) -> None:
    type_master(client)
    ends = threading.Event()

    def guess(number: int) -> None:
        n = 0
        while not ends.is_set():
            n += 1
            client.get("/auth", key=f"guess {number} {n}")
            ends.wait(0.02)

    guessers = [threading.Thread(target=guess, args=(n,)) for n in range(4)]
    for each in guessers:
        each.start()
    try:
        for n in range(GUESSES + 1):
            client.get("/auth", key=f"one more guess {n}")
        statuses = []
        for _ in range(5):
            reply = client.get("/auth", key=TYPED)
            statuses.append(reply.status_code)
            if reply.status_code == 200:
                break
            # On a busy machine the line may be full, too.
            assert reply.status_code == 503 or "if yours is right, try again in" in reply.json()["message"]
            time.sleep(int(reply.headers["Retry-After"]))
    finally:
        ends.set()
        for each in guessers:
            each.join()
    assert statuses[-1] == 200, statuses


def test_who_comes_again_goes_first_in_the_order_of_coming() -> None:
    budget, now = GuessBudget(), 100.0

    def ask(key: bytes) -> int:
        """Seconds after which it may come again; 0: it is checked now, and wrong."""
        try:
            budget.ask("a", key, now, takes=True)
        except RateLimitExceeded as error:
            return error.retry_after or 0
        budget.spend("a", now)
        return 0

    assert [ask(b"%d" % n) for n in range(GUESSES + 1)] == [0] * GUESSES + [1]
    assert [ask(key) for key in (b"x", b"y")] == [1, 1]
    now += 1
    assert [ask(key) for key in (b"x", b"y", b"new")] == [0, 1, 2]
    now += 1
    assert [ask(key) for key in (b"new", b"y")] == [2, 0]
    # Whoever was told so and stays away holds up nobody for long.
    now += 60
    assert [ask(b"later %d" % n) for n in range(GUESSES + 1)] == [0] * GUESSES + [1]


@pytest.mark.parametrize("kind", ["text/plain", "application/json"])
def test_a_page_of_elsewhere_guesses_nothing_for_its_visitor(client: Client, kind: str) -> None:
    type_master(client)
    foreign = {"Origin": "https://evil.example", "Sec-Fetch-Site": "cross-site"}
    for n in range(2 * GUESSES):
        body = json.dumps({"token": f"guess {n}", "inputs": "Hi"})
        reply = client.http.post(f"{client.url}/api", body, headers={**foreign, "Content-Type": kind})
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "origin_not_allowed")
    for path in ("/auth", "/answer", "/v1/models"):
        assert client.get(path, key="guess", headers=foreign).status_code == 403
    assert client.get("/auth", key=TYPED).status_code == 200
    # Who has the key may ask from anywhere, as before; and a page of this server's own may be wrong.
    assert client.get("/auth", key=TYPED, headers=foreign).status_code == 200
    own = {"Origin": client.url, "Sec-Fetch-Site": "same-origin"}
    assert client.get("/auth", key="guess", headers=own).status_code == 401
