"""--ollama: a second address on this machine, for clients that cannot send a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing

import ollama
import pytest
import requests

from services.keyless import KeylessAddress, parse_keyless
from tests.support.serving import Server

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def keyless(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server, its keyless address, and the id of that one's key."""
    first = Server(tmp_path_factory.mktemp("keyless") / "data").start()
    made = first.post(
        "/auth/key", {"name": "keyless", "profiles": ["Guide"], "scopes": ["answer", "models:read", "keys"]}
    ).json()
    first.stop()
    server = Server(first.data, "--ollama", f"127.0.0.1:0={made['id']}", key=first.key).start()
    [url] = re.findall(r"Ollama's clients find it at (\S+), as the key", server.output)
    yield server, url, made["id"]
    server.stop()


def test_clients_without_a_key_are_served(keyless: tuple[Server, str, str]) -> None:
    server, url, key_id = keyless
    with closing(ollama.Client(host=url)) as client:
        reply = client.chat("Guide", FRANCE, options={"temperature": 0, "num_predict": 50})
        assert reply.message.content == "The capital of France is Paris."
        assert [model.model for model in client.list().models] == ["Guide:latest"]
        with pytest.raises(ollama.ResponseError, match="Pirate"):
            client.chat("Pirate", FRANCE)
    # Whatever key is sent, it counts as the one key.
    assert requests.get(f"{url}/api/tags", headers={"Authorization": "Bearer ollama"}, timeout=10).status_code == 200
    assert [row["key"] for row in server.get("/auth/usage").json()["usage"]] == [key_id]


def test_it_says_that_it_is_there(keyless: tuple[Server, str, str]) -> None:
    _, url, _ = keyless
    for method in ("GET", "HEAD"):
        reply = requests.request(method, f"{url}/", timeout=10)
        assert (reply.status_code, reply.text) == (200, "Ollama is running" if method == "GET" else "")


def test_keys_are_not_minted_without_one(keyless: tuple[Server, str, str]) -> None:
    server, url, _ = keyless
    for method, path in (("POST", "/auth/key"), ("GET", "/auth/usage"), ("POST", "/models/model"), ("GET", "/metrics")):
        reply = requests.request(method, url + path, json={} if method == "POST" else None, timeout=10)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "key_needed"), path
    # The server's own address asks for one as ever.
    assert requests.get(f"{server.url}/api/tags", timeout=10).status_code == 401


def test_pages_of_elsewhere_are_turned_away(keyless: tuple[Server, str, str]) -> None:
    _, url, _ = keyless
    body = {"model": "Guide", "messages": FRANCE}
    assert (
        requests.post(f"{url}/api/chat", json=body, headers={"Origin": "https://evil.example"}, timeout=10).status_code
        == 403
    )
    plain = requests.post(f"{url}/api/chat", data=b"{}", headers={"Content-Type": "text/plain"}, timeout=10)
    assert plain.status_code == 415
    assert requests.get(f"{url}/api/tags", headers={"Host": "evil.example"}, timeout=10).status_code == 421


def test_without_its_key_nobody_is_let_in(serve: Callable[..., Server]) -> None:
    server = serve("--ollama", "127.0.0.1:0=77")
    [url] = re.findall(r"Nobody is let in at (http://127.0.0.1:\d+): there is no key with the id 77", server.log())
    reply = requests.get(f"{url}/api/tags", timeout=10)
    assert (reply.status_code, list(reply.json())) == (401, ["error"])


@pytest.mark.parametrize(
    "text", ["0.0.0.0:11434=1", "192.168.1.7:11434=1", "example.com:11434=1", "11434=1", "127.0.0.1:1", "::1:99999=1"]
)
def test_no_other_address_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="ollama should"):
        parse_keyless(text)


def test_addresses_of_this_machine_are() -> None:
    assert parse_keyless("[::1]:11434=2") == KeylessAddress("::1", 11434, "2")
    assert parse_keyless("localhost:0=0") == KeylessAddress("localhost", 0, "0")
