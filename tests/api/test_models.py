from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from services.engine.machine import free_memory
from services.models.catalog import catalog
from tests.support.clustering import Cluster
from tests.support.hub import Hub
from tests.support.serving import ENDLESS, Server, Stream
from tests.support.tiny import GUIDE, write_embedding_model, write_parrot_model

Serve = Callable[..., Server]


def config_of(server: Server) -> dict[str, Any]:
    return dict(json.loads((server.data / "config.json").read_text(encoding="utf-8")))


def test_the_models_are_listed_with_what_each_is(server: Server) -> None:
    listed = server.get("/models").json()
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


def test_switching_changes_profile_and_model_at_once_and_for_good(serve: Serve, models: Path) -> None:
    shutil.copy(GUIDE, models / "other.gguf")
    server = serve(models=models)
    reply = server.post("/models/model", {"model": "other.gguf", "model_config": "Pirate"})
    assert reply.json() == {"model_status": True, "profile": "Pirate"}
    answer = server.ask("What is the capital of France?", memory_k=0)
    assert answer["result"] == "Arr! The capital of France is Paris."
    assert (answer["model"], answer["profile"]) == ("other.gguf", "Pirate")
    assert config_of(server)["SelectedModel"] == "Pirate"
    assert config_of(server)["Pirate"]["model"] == "other.gguf"
    server.stop()
    server.start()
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "Arr! 7 plus 5 is 12."
    assert server.post("/models/model/", {"model": "guide.gguf", "model_config": "Guide"}).status_code == 200
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


def test_a_file_replaced_under_the_same_name_is_loaded(serve: Serve, models: Path, tmp_path: Path) -> None:
    server = serve(models=models)
    before = server.ask("What is 7 plus 5?", memory_k=0)["result"]
    shutil.copy(models / "random.gguf", tmp_path / "new")
    (tmp_path / "new").rename(models / "guide.gguf")
    assert server.ask("What is 7 plus 5?", memory_k=0, max_tokens=20)["result"] != before


def test_a_name_is_stored_as_it_is_listed(serve: Serve) -> None:
    server = serve()
    assert server.post("/models/model", {"model": "./guide.gguf/", "model_config": "Pirate"}).status_code == 200
    assert config_of(server)["Pirate"]["model"] == "guide.gguf"


def test_a_model_that_keeps_no_context_is_refused(serve: Serve, models: Path) -> None:
    """An embedding model, say: llama.cpp loads it, and could not go on writing with it."""
    write_embedding_model(models / "embed.gguf")
    server = serve(models=models)
    reply = server.post("/models/model", {"model": "embed.gguf", "model_config": "Guide"})
    assert reply.status_code == 422
    assert "not a model that goes on writing" in reply.json()["message"]
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


def test_a_derived_key_may_switch(serve: Serve) -> None:
    server = serve()
    for scopes, status in ((["models:switch"], 200), (None, 403)):
        key, _ = server.mint(scopes=scopes)
        reply = server.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"}, key=key)
        assert reply.status_code == status


def test_an_answer_in_flight_finishes_on_the_old_model(serve: Serve, models: Path) -> None:
    server = serve(models=models)
    server.edit_config("Random", **{**ENDLESS, "max_tokens": 600})
    server.select("Random")
    stream = server.stream("Go on")
    first = stream.next()
    assert server.post("/models/model", {"model": "guide.gguf", "model_config": "Guide"}).status_code == 200
    assert server.ask("What is 7 plus 5?", memory_k=0)["model"] == "guide.gguf"
    *_, whole, done = stream.rest()
    assert first
    assert (whole["model"], whole["usage"]["completion_tokens"], done) == ("random.gguf", 600, "[DONE]")


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
        ({"model": "strange.gguf", "model_config": "Guide"}, 422, "model"),
        ({"model": "guide.gguf", "model_config": "Broken"}, 422, "model"),
        ({"model": "none.gguf"}, 404, "model"),
        ({"model": "cut.gguf"}, 422, "model"),
        ({"model": "strange.gguf"}, 422, "model"),
        ({"model_config": "Guide"}, 400, "model"),
        ({"model": 5, "model_config": "Guide"}, 400, "model"),
        ({"model": "", "model_config": "Guide"}, 400, "model"),
        ({"model": "guide.gguf", "model_config": "Guide", "extra": 1}, 400, "extra"),
    ],
)
def test_a_switch_that_cannot_be_changes_nothing(bad_models: Server, body: dict[str, Any], status: int, param: str) -> None:
    before = config_of(bad_models)
    reply = bad_models.post("/models/model", body)
    assert (reply.status_code, reply.json()["error"]["param"]) == (status, param), reply.text
    assert config_of(bad_models) == before
    assert bad_models.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


@pytest.fixture(scope="module")
def bad_models(tmp_path_factory: pytest.TempPathFactory) -> Any:
    folder = tmp_path_factory.mktemp("bad")
    models = folder / "models"
    models.mkdir()
    shutil.copy(GUIDE, models)
    (models / "text.gguf").write_text("I am no model")
    (models / "cut.gguf").write_bytes(GUIDE.read_bytes()[:1_000_000])
    # A whole GGUF file, of an architecture that llama.cpp does not know.
    strange = GUIDE.read_bytes().replace(b"\x05\0\0\0\0\0\0\0llama", b"\x05\0\0\0\0\0\0\0lxxxa", 1)
    (models / "strange.gguf").write_bytes(strange)
    server = Server(folder / "data", models=models)
    server.edit_config("Broken", model="guide.gguf", template="{input}", cache_type_v="q8_0", flash_attn=False)
    yield server.start()
    server.stop()


def test_a_damaged_file_is_named_before_llama_cpp_sees_it(bad_models: Server) -> None:
    reply = bad_models.post("/models/model", {"model": "cut.gguf", "model_config": "Guide"})
    assert "cut short" in reply.json()["message"]
    assert "cut short" in bad_models.get("/models").json()["details"]["cut.gguf"]["problem"]


def test_a_link_of_the_owners_is_a_model(serve: Serve, models: Path, tmp_path: Path) -> None:
    shutil.copy(GUIDE, tmp_path / "elsewhere.gguf")
    (models / "linked.gguf").symlink_to(tmp_path / "elsewhere.gguf")
    server = serve(models=models)
    assert server.post("/models/model", {"model": "linked.gguf", "model_config": "Guide"}).status_code == 200
    assert server.ask("What is 7 plus 5?", memory_k=0)["model"] == "linked.gguf"


def test_a_file_alone_selects_a_profile_of_it_or_makes_one(serve: Serve, models: Path) -> None:
    write_parrot_model(models / "parrot.gguf", "Hello!")
    server = serve(models=models)
    before = config_of(server)
    reply = server.post("/models/model", {"model": "parrot.gguf"})
    assert reply.json() == {"model_status": True, "profile": "parrot"}
    assert config_of(server) == {**before, "SelectedModel": "parrot", "parrot": {"model": "parrot.gguf"}}
    assert server.ask("Hi", temperature=0)["profile"] == "parrot"
    assert server.post("/models/model", {"model": "guide.gguf"}).json()["profile"] == "Guide"
    assert server.post("/models/model", {"model": "parrot.gguf"}).json()["profile"] == "parrot"
    assert len(config_of(server)) == len(before) + 1
    details = server.get("/models").json()["details"]
    assert details["parrot.gguf"]["note"] == "no chat template: goes on with a text"


def test_a_file_that_the_catalog_knows_gets_what_its_makers_advise(serve: Serve, models: Path) -> None:
    entry = catalog()[1]
    shutil.copy(GUIDE, models / entry.file)
    server = serve(models=models)
    made = server.post("/models/model", {"model": entry.file}).json()["profile"]
    assert config_of(server)[made] == entry.profile_values()


def test_the_catalog_is_told_with_what_fits_this_machine_and_what_is_here(serve: Serve, models: Path) -> None:
    entry = catalog()[0]
    shutil.copy(GUIDE, models / entry.file)
    (models / catalog()[1].file).write_bytes(GUIDE.read_bytes()[:1000])
    told = serve(models=models).get("/models").json()["catalog"]
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
    assert (told[2]["can"], told[2]["machine_gb"]) == (list(catalog()[2].can), catalog()[2].machine_gb)


def test_a_model_is_freed_from_memory_and_loaded_again_when_it_is_asked(serve: Serve) -> None:
    server = serve()
    assert server.get("/models").json()["loaded"] == ["guide.gguf"]
    for name in ("Guide", "guide", "guide.gguf"):
        server.ask("Hi", memory_k=0, max_tokens=1)
        reply = server.post("/models/unload", {"model": name})
        assert reply.json() == {"unloaded": True, "model": "guide.gguf"}
        assert server.get("/models").json()["loaded"] == []
        assert server.get("/health").json() == {"status": "ready"}
    reply = server.post("/models/unload", {"model": "Guide"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (404, "not_loaded")
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    done = [json.loads(line) for line in (server.data / "audit.jsonl").read_text().splitlines()]
    noted = [(line["model"], line["status"]) for line in done if line["did"] == "unload"]
    assert noted == [("guide.gguf", 200)] * 3 + [("guide.gguf", 404)]


def test_a_model_that_answers_stays_in_memory(endless: Server) -> None:
    stream = endless.stream("Go on", memory_k=0)
    assert stream.next()
    reply = endless.post("/models/unload", {"model": "Random"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "model_in_use")
    assert int(reply.headers["Retry-After"]) > 0
    assert stream.next()
    stream.close()
    deadline = time.monotonic() + 20
    while endless.post("/models/unload", {"model": "Random"}).status_code != 200:
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert "random.gguf" not in endless.get("/models").json()["loaded"]


def test_who_may_not_switch_frees_nothing(serve: Serve) -> None:
    server = serve()
    answers_only, _ = server.mint(scopes=["answer", "models:read"])
    assert server.post("/models/unload", {"model": "Guide"}, key=answers_only).status_code == 403
    for_another, _ = server.mint(scopes=["answer", "models:switch"], profiles=["Qwen"])
    reply = server.post("/models/unload", {"model": "guide.gguf"}, key=for_another)
    assert (reply.status_code, reply.json()["error"]["code"]) == (403, "profile_not_permitted")
    for_this, _ = server.mint(scopes=["answer", "models:switch"], profiles=["Pirate"])
    assert server.get("/models").json()["loaded"] == ["guide.gguf"]
    assert server.post("/models/unload", {"model": "guide.gguf"}, key=for_this).status_code == 200


def test_a_hand_edit_takes_effect_on_the_next_request(serve: Serve) -> None:
    server = serve()
    server.edit_config("Guide", template="You are a pirate.\n\n{chat_history}\nHuman: {input}\nAI:")
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"].startswith("Arr!")
    server.edit_config("Guide", n_ctx=128)
    refused = server.post("/answer", {"prompt": "window " * 200})
    assert "holds 128" in refused.json()["message"]
    server.select("Pirate")
    assert server.ask("What is 7 plus 5?", memory_k=0)["profile"] == "Pirate"


def test_a_broken_edit_is_reported_while_the_last_good_state_serves_on(serve: Serve) -> None:
    server = serve()
    path = server.data / "config.json"
    good = path.read_text()
    path.write_text(good.replace('"n_ctx": 2048,', '"n_ctx": 2048', 1))
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    assert "config.json, line 6, column 5" in server.get("/models").json()["config_problem"]
    assert "config.json, line 6, column 5" in server.log()
    switch = server.post("/models/model", {"model": "guide.gguf", "model_config": "Pirate"})
    assert (switch.status_code, switch.json()["error"]["code"]) == (500, "damaged_file")
    path.write_text(good)
    assert "config_problem" not in server.get("/models").json()


def test_an_edit_that_cannot_be_loaded_shows_in_health(serve: Serve) -> None:
    server = serve()
    server.edit_config("Guide", cache_type_v="q8_0", flash_attn=False)
    reply = server.post("/answer", {"prompt": "Hi"})
    assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_model")
    assert server.get("/health").json() == {"status": "down"}
    server.edit_config("Guide", flash_attn=True)
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    assert server.get("/health").json() == {"status": "ready"}


def test_without_a_model_the_server_starts_and_says_what_to_do(serve: Serve, tmp_path: Path) -> None:
    models = tmp_path / "none"
    models.mkdir()
    server = serve(models=models, ready=False)
    server.wait_for("down")
    assert server.get("/models").json()["models"] == []
    for stream in (False, True):
        reply = server.post("/answer", {"prompt": "Hi", "stream": stream})
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_model")
        assert "there is no file guide.gguf in the models folder" in reply.json()["message"]
        assert "POST /models/model" in reply.json()["message"]
    shutil.copy(GUIDE, models)
    assert server.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
    assert server.get("/health").json() == {"status": "ready"}


def test_the_workers_of_a_cluster_free_it(cluster: Cluster) -> None:
    cluster.worker()
    node = cluster.node()
    assert node.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."

    def loaded(wanted: list[str]) -> None:
        deadline = time.monotonic() + 20
        while node.get("/models").json()["loaded"] != wanted:
            assert time.monotonic() < deadline
            time.sleep(0.1)

    # What workers have loaded is told with their heartbeat.
    loaded(["guide.gguf"])
    assert node.post("/models/unload", {"model": "Guide"}).json() == {"unloaded": True, "model": "guide.gguf"}
    loaded([])
    assert node.post("/models/unload", {"model": "Guide"}).status_code == 404
    assert node.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."


def test_a_model_of_the_catalog_is_pulled_by_its_name(serve: Serve, models: Path) -> None:
    entry = next(entry for entry in catalog() if entry.source.startswith("hf:"))
    user, repo, file = entry.source.removeprefix("hf:").split("/", 2)
    hub = Hub()
    hub.files[f"{user}/{repo}"] = {file: GUIDE.read_bytes()}
    try:
        server = serve(models=models, environ=hub.env)
        *_, last, done = Stream(server.post("/models/pull", {"source": entry.name.lower()}, stream=True)).rest()
        assert (last["state"], last["file"], done) == ("done", entry.file, "[DONE]")
        told = {each["name"]: each["here"] for each in server.get("/models").json()["catalog"]}
        assert told[entry.name]
    finally:
        hub.close()
