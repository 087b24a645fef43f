"""--ollama: a second address on this machine, for clients that cannot send a key."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from contextlib import closing

import ollama
import pytest
import requests

from services.door import Door, parse_door
from tests.support.serving import Server

FRANCE = [{"role": "user", "content": "What is the capital of France?"}]


@pytest.fixture(scope="module")
def doored(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, str, str]]:
    """A server, the address of its door, and the id of the door's key."""
    first = Server(tmp_path_factory.mktemp("door") / "data").start()
    made = first.post(
        "/auth/key", {"name": "door", "profiles": ["Guide"], "scopes": ["answer", "models:read", "keys"]}
    ).json()
    first.stop()
    server = Server(first.data, "--ollama", f"127.0.0.1:0={made['id']}", key=first.key).start()
    [url] = re.findall(r"Ollama's clients find it at (\S+), as the key", server.output)
    yield server, url, made["id"]
    server.stop()


def test_clients_without_a_key_are_served(doored: tuple[Server, str, str]) -> None:
    server, url, key_id = doored
    with closing(ollama.Client(host=url)) as client:
        reply = client.chat("Guide", FRANCE, options={"temperature": 0, "num_predict": 50})
        assert reply.message.content == "The capital of France is Paris."
        assert [model.model for model in client.list().models] == ["Guide:latest"]
        with pytest.raises(ollama.ResponseError, match="Pirate"):
            client.chat("Pirate", FRANCE)
    # Whatever key is sent, it is the door's.
    assert requests.get(f"{url}/api/tags", headers={"Authorization": "Bearer ollama"}, timeout=10).status_code == 200
    assert [row["key"] for row in server.get("/auth/usage").json()["usage"]] == [key_id]


def test_it_says_that_it_is_there(doored: tuple[Server, str, str]) -> None:
    _, url, _ = doored
    for method in ("GET", "HEAD"):
        reply = requests.request(method, f"{url}/", timeout=10)
        assert (reply.status_code, reply.text) == (200, "Ollama is running" if method == "GET" else "")


def test_keys_are_not_minted_without_one(doored: tuple[Server, str, str]) -> None:
    server, url, _ = doored
    for method, path in (("POST", "/auth/key"), ("GET", "/auth/usage"), ("POST", "/models/model"), ("GET", "/metrics")):
        reply = requests.request(method, url + path, json={} if method == "POST" else None, timeout=10)
        assert (reply.status_code, reply.json()["error"]["code"]) == (403, "key_needed"), path
    # The server's own address asks for one as ever.
    assert requests.get(f"{server.url}/api/tags", timeout=10).status_code == 401


def test_pages_of_elsewhere_are_turned_away(doored: tuple[Server, str, str]) -> None:
    _, url, _ = doored
    body = {"model": "Guide", "messages": FRANCE}
    assert (
        requests.post(f"{url}/api/chat", json=body, headers={"Origin": "https://evil.example"}, timeout=10).status_code
        == 403
    )
    plain = requests.post(f"{url}/api/chat", data=b"{}", headers={"Content-Type": "text/plain"}, timeout=10)
    assert plain.status_code == 415
    assert requests.get(f"{url}/api/tags", headers={"Host": "evil.example"}, timeout=10).status_code == 421


def test_a_door_without_its_key_lets_nobody_in(serve: Callable[..., Server]) -> None:
    server = serve("--ollama", "127.0.0.1:0=77")
    [url] = re.findall(r"Nobody is let in at (http://127.0.0.1:\d+): there is no key with the id 77", server.log())
    reply = requests.get(f"{url}/api/tags", timeout=10)
    assert (reply.status_code, list(reply.json())) == (401, ["error"])


@pytest.mark.parametrize(
    "text", ["0.0.0.0:11434=1", "192.168.1.7:11434=1", "example.com:11434=1", "11434=1", "127.0.0.1:1", "::1:99999=1"]
)
def test_no_other_address_is_one(text: str) -> None:
    with pytest.raises(ValueError, match="ollama should"):
        parse_door(text)


def test_addresses_of_this_machine_are() -> None:
    assert parse_door("[::1]:11434=2") == Door("::1", 11434, "2")
    assert parse_door("localhost:0=0") == Door("localhost", 0, "0")
