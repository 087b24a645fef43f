"""Names of profiles and models are told to keys that may see them only, and hidden files are as if they were not there."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.support.in_process import Client
from tests.support.serving import Api
from tests.support.tiny import GUIDE

# Parts of names that a key of the profile "Guide" never asks for in full.
SECRETS = ("zebra", "Zebra")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """A server with a profile and a file that others are not to know of, both of them loaded, and hidden files."""
    folder = tmp_path_factory.mktemp("models")
    (folder / "guide.gguf").hardlink_to(GUIDE)
    for name in (
        "zebra-secret.gguf",
        ".hidden.gguf",
        ".folder/deep.gguf",
        "sub/.other.gguf",
        "half.gguf.part",
        "bare.gguf",
    ):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).hardlink_to(GUIDE)
    (folder / "zebra-broken.gguf").write_bytes(b"GGUF")
    files = Api(tmp_path_factory.mktemp("server") / "data")
    config = json.loads((files.data / "config.json").read_text())
    config["Zebra plan"] = {**config["Guide"], "model": "zebra-secret.gguf", "source": "hf:Zebra/Zebra/zebra.gguf"}
    config["Zebra gone"] = {**config["Guide"], "model": "zebra-gone.gguf"}
    (files.data / "config.json").write_text(json.dumps({**config, "SelectedModel": "Zebra plan"}))
    client = Client(files.data, models=folder)
    client.ask("Hello", model="Guide", memory_k=0)
    client.ask("Hello", model="Zebra plan", memory_k=0)
    yield client
    client.close()


def routes(client: Client) -> list[tuple[str, str]]:
    """Every route and method that the documentation names, filled in."""
    paths = client.get("/openapi.json", headers={"Authorization": client.key})
    if paths.status_code != 200:
        paths = client.get("/apidoc/openapi.json")
    assert paths.status_code == 200, paths.text
    filled = []
    for path, methods in paths.json()["paths"].items():
        for name in ("number", "name", "id_", "job_id", "owner"):
            path = path.replace("{" + name + "}", "1")
        filled += [(method.upper(), path) for method in methods if method in ("get", "post", "patch", "delete")]
    return filled


def bodies(model: str) -> list[dict[str, Any]]:
    """Bodies that name a model in every way that an endpoint takes one."""
    chat = [{"role": "user", "content": "Hi"}]
    few = {"model": model, "max_tokens": 1}
    return [
        {"prompt": "Hi", **few},
        {"messages": chat, **few},
        {"input": "Hi", "model": model},
        {"content": "Hi", "model": model},
        {"tokens": [1], "model": model},
        {"model": model},
        {"model": model, "model_config": "Guide"},
        {"model": "guide.gguf", "model_config": model},
        {"source": model},
        {"inputs": "Hi", "file_name": model, "parameters": {"max_tokens": 1}},
        {"inputs": "Hi", "file_name": f"x/{model}", "repo_id": "a/b"},
        {"name": "x", "profiles": [model]},
    ]


def test_no_reply_names_what_a_key_may_not_see(own: Client) -> None:
    """The key of one profile asks every route, for nothing and by every stem of the other's names."""
    scopes = ["answer", "models:read", "models:switch", "models:pull", "models:delete", "keys", "metrics"]
    key, _ = own.mint("narrow", profiles=["Guide"], scopes=scopes)
    told = []
    for method, path in routes(own):
        if path.startswith(("/openapi", "/docs", "/apidoc")):
            continue
        asked = [None] if method == "GET" else [None, *bodies("")]
        for body in asked:
            reply = own.request(method, path, key=key, json=body)
            if any(secret in reply.text for secret in SECRETS):
                told.append((method, path, body, reply.text[:200]))
    assert not told


@pytest.mark.parametrize("stem", ["zebra-secret", "zebra-gone", "zebra-broken", "zebra", "bare"])
def test_a_refusal_is_the_same_whether_it_is_there_or_not(own: Client, stem: str) -> None:
    """By the stem alone the file's ending, its profile and its faults are told to nobody who may not see them."""
    key, _ = own.mint(profiles=["Guide"], scopes=["answer", "models:read", "models:switch", "models:pull"])
    asked = {
        "/answer": 0,
        "/v1/chat/completions": 1,
        "/v1/embeddings": 2,
        "/tokenize": 3,
        "/detokenize": 4,
        "/models/unload": 5,
        "/models/model": 6,
        "/api": 9,
        "/models/pull": 8,
    }
    for path, number in asked.items():
        there, none = (own.post(path, bodies(name)[number], key=key) for name in (stem, "nothing-of-it"))
        for ending in (stem, f"{stem}.gguf"):
            same = own.post(path, bodies(ending)[number], key=key)
            assert same.text.replace(ending, "X") == none.text.replace("nothing-of-it", "X"), path
        assert there.status_code == none.status_code
        assert there.text.replace(stem, "X") == none.text.replace("nothing-of-it", "X"), path
    assert own.get(f"/v1/models/{stem}.gguf", key=key).status_code == 404


def test_a_key_that_may_list_no_models_sees_no_names(own: Client) -> None:
    key, _ = own.mint(scopes=["answer"])
    assert own.get("/status", key=key).json()["models"] == []
    assert own.get("/models", key=key).status_code == own.get("/v1/models", key=key).status_code == 403
    narrow, _ = own.mint(profiles=["Guide"])
    assert [each["file"] for each in own.get("/status", key=narrow).json()["models"]] == ["guide.gguf"]
    assert len(own.get("/status").json()["models"]) == 2
    listed = own.get("/models", key=narrow).json()
    assert (listed["models"], listed["selected"], listed["profiles"]) == (["guide.gguf"], "Guide", ["Guide"])


@pytest.mark.parametrize(
    "name", [".hidden.gguf", ".hidden", ".folder/deep.gguf", "sub/.other.gguf", "./.hidden.gguf", "half.gguf.part"]
)
def test_hidden_files_are_as_if_they_were_not_there(own: Client, name: str) -> None:
    paths = {"/answer": 0, "/v1/completions": 0, "/v1/embeddings": 2, "/tokenize": 3, "/models/model": 5, "/api": 9}
    for path, number in paths.items():
        refused = own.post(path, bodies(name)[number])
        assert refused.status_code == 404, (path, refused.text)
    lists = own.get("/models").text + own.get("/v1/models").text
    assert not [part for part in ("hidden", "deep.gguf", ".other", ".part") if part in lists]


def test_a_visible_link_may_lead_anywhere(own: Client) -> None:
    link = Path(own.models / "link.gguf")
    link.symlink_to(own.models / ".hidden.gguf")
    assert own.ask("Hello", model="link.gguf", memory_k=0)["result"]
    link.unlink()


def test_what_asks_without_a_key_is_told_nothing(own: Client) -> None:
    for path in ("/health", "/healthz", "/readyz", "/", "/metrics", "/status", "/models", "/v1/models"):
        assert "zebra" not in own.http.get(own.url + path).text.lower()
