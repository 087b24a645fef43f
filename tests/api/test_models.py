from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.engine.machine import free_memory
from services.models.catalog import catalog
from tests.support.hub import Hub
from tests.support.in_process import Client
from tests.support.serving import Stream
from tests.support.tiny import GUIDE, write_embedding_model, write_parrot_model

Open = Callable[..., Client]


def config_of(client: Client) -> dict[str, Any]:
    return dict(json.loads((client.data / "config.json").read_text(encoding="utf-8")))


def test_the_models_are_listed_with_what_each_is(client: Client) -> None:
    listed = client.get("/models").json()
    # A person may have fetched others into this checkout.
    assert "guide.gguf" in listed["models"]
    details = listed["details"]["guide.gguf"]
    assert (details["architecture"], details["quantization"], details["context_length"]) == ("llama", "Q8_0", 2048)
    assert (details["weights"], details["size"]) == (3_507_616, GUIDE.stat().st_size)
    assert (listed["selected"], listed["profiles"]) == ("Guide", ["Guide", "Pirate", "SmolLM2", "Qwen"])
    how = listed["profile_details"]
    assert (how["Guide"]["prompted_by"], how["Guide"]["memory_k"], how["Guide"]["n_ctx"]) == ("template", 5, 2048)
    assert (how["SmolLM2"]["prompted_by"], how["SmolLM2"]["memory_k"]) == ("chat template", None)
    assert (how["SmolLM2"]["n_ctx"], how["SmolLM2"]["system_prompt"]) == (
        "auto",
        "You are a helpful, friendly assistant. Give short and correct answers.",
    )


def test_the_abilities_of_files_and_profiles_are_told(open_client: Open, model_folder: Path) -> None:
    template = "{% if tools %}{{ tools }}{% endif %}{% for m in messages %}{{ m.content }}{% endfor %}"
    write_parrot_model(model_folder / "parrot.gguf", "Hello!")
    write_embedding_model(model_folder / "vectors.gguf")
    client = open_client(models=model_folder)
    client.edit_config("Handy", model="guide.gguf", chat_template=template)
    client.edit_config("Meaning", model="vectors.gguf")
    listed = client.get("/models").json()
    of_files = {name: details["capabilities"] for name, details in listed["details"].items()}
    assert (of_files["parrot.gguf"], of_files["vectors.gguf"]) == (["completion"], ["embeddings"])
    of_profiles = {name: details["capabilities"] for name, details in listed["profile_details"].items()}
    assert of_profiles["Handy"] == ["completion", "tools"]
    assert of_profiles["Meaning"] == ["embeddings"]
    # Of a file that is not here nothing is known.
    assert of_profiles["Qwen"] is None


def test_a_name_is_stored_as_it_is_listed(client: Client) -> None:
    assert client.post("/models/model", {"model": "./guide.gguf/", "model_config": "Pirate"}).status_code == 200
    assert config_of(client)["Pirate"]["model"] == "guide.gguf"


def test_a_derived_key_may_switch(client: Client) -> None:
    for scopes, status in ((["models:switch"], 200), (None, 403)):
        key, _ = client.mint(scopes=scopes)
        reply = client.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}, key=key)
        assert reply.status_code == status


@pytest.mark.parametrize(
    ("body", "status", "param"),
    [
        ({"model": "none.gguf", "model_config": "Guide"}, 404, "model"),
        ({"model": "guide.gguf", "model_config": "None"}, 404, "model_config"),
        ({"model": "guide.gguf", "model_config": "SelectedModel"}, 404, "model_config"),
        ({"model": "../config.json", "model_config": "Guide"}, 400, "model"),
        ({"model": "/etc/passwd", "model_config": "Guide"}, 400, "model"),
        ({"model": "text.gguf", "model_config": "Guide"}, 422, "model"),
        ({"model": "cut.gguf", "model_config": "Guide"}, 422, "model"),
        ({"model": "none.gguf"}, 404, "model"),
        ({"model": "cut.gguf"}, 422, "model"),
        ({"model_config": "Guide"}, 400, "model"),
        ({"model": 5, "model_config": "Guide"}, 400, "model"),
        ({"model": "", "model_config": "Guide"}, 400, "model"),
        ({"model": "guide.gguf", "model_config": "Guide", "extra": 1}, 400, "extra"),
    ],
)
def test_a_switch_that_cannot_be_changes_nothing(bad_models: Client, body: dict[str, Any], status: int, param: str) -> None:
    before = config_of(bad_models)
    reply = bad_models.post("/models/model", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
    assert config_of(bad_models) == before
    assert bad_models.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


@pytest.fixture
def bad_models(open_client: Open, tmp_path: Path) -> Client:
    folder = tmp_path / "bad"
    folder.mkdir()
    shutil.copy(GUIDE, folder)
    (folder / "text.gguf").write_text("I am no model")
    (folder / "cut.gguf").write_bytes(GUIDE.read_bytes()[:1_000_000])
    return open_client(models=folder)


def test_a_link_of_the_owners_is_a_model(open_client: Open, model_folder: Path, tmp_path: Path) -> None:
    shutil.copy(GUIDE, tmp_path / "elsewhere.gguf")
    (model_folder / "linked.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    client = open_client(models=model_folder)
    assert client.post("/models/model", {"model": "linked.gguf", "model_config": "Guide"}).status_code == 200
    assert client.ask("What is 7 plus 5?", memory_k=0)["model"] == "linked.gguf"


def test_a_file_alone_selects_a_profile_of_it_or_makes_one(open_client: Open, model_folder: Path) -> None:
    write_parrot_model(model_folder / "parrot.gguf", "Hello!")
    client = open_client(models=model_folder)
    before = config_of(client)
    reply = client.post("/models/model", {"model": "parrot.gguf"})
    assert reply.json() == {"model_status": True, "profile": "parrot"}
    assert config_of(client) == {**before, "SelectedModel": "parrot", "parrot": {"model": "parrot.gguf"}}
    assert client.ask("Hi", temperature=0)["profile"] == "parrot"
    assert client.post("/models/model", {"model": "guide.gguf"}).json()["profile"] == "Guide"
    assert client.post("/models/model", {"model": "parrot.gguf"}).json()["profile"] == "parrot"
    assert len(config_of(client)) == len(before) + 1
    details = client.get("/models").json()["details"]
    assert details["parrot.gguf"]["note"] == "no chat template: goes on with a text"


def test_a_profile_that_has_the_files_name_and_another_file_stays_as_it_is(open_client: Open, model_folder: Path) -> None:
    write_parrot_model(model_folder / "parrot.gguf", "Hello!")
    client = open_client(models=model_folder)
    client.edit_config("parrot", model="guide.gguf", template="Mine: {input}")
    before = config_of(client)
    assert client.post("/models/model", {"model": "parrot.gguf"}).json()["profile"] == "parrot 2"
    assert config_of(client) == {**before, "SelectedModel": "parrot 2", "parrot 2": {"model": "parrot.gguf"}}


def test_a_profile_that_gets_another_file_while_its_first_is_loaded_keeps_that(
    open_client: Open, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parrot_model(model_folder / "parrot.gguf", "Hello!")
    client = open_client(models=model_folder)
    client.edit_config("Bird", model="parrot.gguf")
    lease = client.backend.lease

    def edited(*arguments: Any) -> Any:
        client.edit_config("Bird", model="guide.gguf")
        return lease(*arguments)

    monkeypatch.setattr(client.backend, "lease", edited)
    assert client.post("/models/model", {"model": "parrot.gguf"}).json()["profile"] == "parrot"
    after = config_of(client)
    assert (after["Bird"], after["parrot"]) == ({"model": "guide.gguf"}, {"model": "parrot.gguf"})
    assert after["SelectedModel"] == "parrot"


def test_a_file_that_the_catalog_knows_gets_what_its_makers_advise(open_client: Open, model_folder: Path) -> None:
    entry = catalog()[1]
    shutil.copy(GUIDE, model_folder / entry.file)
    client = open_client(models=model_folder)
    made = client.post("/models/model", {"model": entry.file}).json()["profile"]
    assert config_of(client)[made] == entry.profile_values()


def test_the_catalog_is_told_with_what_fits_this_machine_and_what_is_here(open_client: Open, model_folder: Path) -> None:
    entry = catalog()[0]
    shutil.copy(GUIDE, model_folder / entry.file)
    (model_folder / catalog()[1].file).write_bytes(GUIDE.read_bytes()[:1000])
    told = open_client(models=model_folder).get("/models").json()["catalog"]
    assert [each["name"] for each in told] == [each.name for each in catalog()]
    assert [each["here"] for each in told] == [True] + [False] * (len(told) - 1)
    # What is free changes meanwhile, if by less than this.
    free, margin = free_memory(), 2**30
    for each in told:
        if abs(each["needs_bytes"] - free) > margin:
            assert each["fits"] == (each["needs_bytes"] < free), each["name"]
    fitting = [each["name"] for each in told if each["fits"]]
    assert [each["name"] for each in told if each["best"]] == fitting[-1:]
    assert told[1]["source"] == catalog()[1].source
    assert [told[0][key] for key in ("quantization", "fast_on")] == ["Q4_1", []]
    # All others are fast on every CPU that is known.
    assert {tuple(each["fast_on"]) for each in told[1:]} == {("AVX2", "DOTPROD")}
    assert (told[2]["can"], told[2]["machine_gb"]) == (list(catalog()[2].can), catalog()[2].machine_gb)


def test_who_may_not_switch_frees_nothing(client: Client) -> None:
    answers_only, _ = client.mint(scopes=["answer", "models:read"])
    assert client.post("/models/unload", {"model": "Guide"}, key=answers_only).status_code == 403
    for_another, _ = client.mint(scopes=["answer", "models:switch"], profiles=["Qwen"])
    reply = client.post("/models/unload", {"model": "guide.gguf"}, key=for_another)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "profile_not_permitted")
    for_this, _ = client.mint(scopes=["answer", "models:switch"], profiles=["Pirate"])
    assert client.get("/models").json()["loaded"] == ["guide.gguf"]
    assert client.post("/models/unload", {"model": "guide.gguf"}, key=for_this).status_code == 200


def test_a_hand_edit_takes_effect_on_the_next_request(client: Client) -> None:
    client.edit_config("Guide", template="You are a pirate.\n\n{chat_history}\nHuman: {input}\nAI:")
    assert client.ask("What is 7 plus 5?", memory_k=0)["result"].startswith("Arr!")
    client.edit_config("Guide", n_ctx=128)
    refused = client.post("/answer", {"prompt": "window " * 200})
    assert "is 128 tokens" in refused.json()["message"]
    client.select("Pirate")
    assert client.ask("What is 7 plus 5?", memory_k=0)["profile"] == "Pirate"


def test_a_broken_edit_is_reported_while_the_last_good_state_serves_on(
    client: Client, caplog: pytest.LogCaptureFixture
) -> None:
    path = client.data / "config.json"
    good = path.read_text()
    path.write_text(good.replace('"n_ctx": 2048,', '"n_ctx": 2048', 1))
    assert client.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    assert "config.json, line 6, column 5" in client.get("/models").json()["config_problem"]
    assert "config.json, line 6, column 5" in caplog.text
    switch = client.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"})
    assert (switch.status_code, switch.json()["error"]["code"]) == (500, "damaged_file")
    path.write_text(good)
    assert "config_problem" not in client.get("/models").json()


def test_without_a_model_the_server_starts_and_says_what_to_do(open_client: Open, tmp_path: Path) -> None:
    models = tmp_path / "none"
    models.mkdir()
    client = open_client(models=models)
    assert client.get("/health").json() == {"status": "down"}
    assert client.get("/models").json()["models"] == []
    for stream in (False, True):
        reply = client.post("/answer", {"prompt": "Hi", "stream": stream})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_model")
        assert "there is no file guide.gguf in the models folder" in reply.json()["message"]
        assert "POST /models/model" in reply.json()["message"]
    shutil.copy(GUIDE, models)
    assert client.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    assert client.get("/health").json() == {"status": "ready"}


def test_a_model_of_the_catalog_is_pulled_by_its_name(
    open_client: Open, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = next(entry for entry in catalog() if entry.source.startswith("hf:"))
    user, repo, file = entry.source.removeprefix("hf:").split("/", 2)
    hub = Hub()
    hub.files[f"{user}/{repo}"] = {file: GUIDE.read_bytes()}
    try:
        for name, value in hub.env.items():
            monkeypatch.setenv(name, value)
        client = open_client(models=model_folder)
        *_, last, done = Stream(client.post("/models/pull", {"source": entry.name.lower()}, stream=True)).rest()
        assert (last["state"], last["file"], done) == ("done", entry.file, "[DONE]")
        told = {each["name"]: each["here"] for each in client.get("/models").json()["catalog"]}
        assert told[entry.name]
    finally:
        hub.close()
