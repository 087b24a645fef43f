"""Fetching models: from a hub on the loopback that cuts, lies and refuses, and from what Ollama keeps on disk."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from services.models.download import ARRIVING, begun
from tests.support.commands import run_command
from tests.support.forked import MAIN, Forked, fork
from tests.support.hub import Hub
from tests.support.serving import ROOT, Server, Stream
from tests.support.splitting import split_model
from tests.support.tiny import GUIDE

DATA = GUIDE.read_bytes()
REPO, NAME = "Hearth/guide-GGUF", "guide-q8_0.gguf"
SOURCE = f"hf:{REPO}/{NAME}"


@pytest.fixture
def hub() -> Iterator[Hub]:
    hub = Hub()
    hub.files[REPO] = {NAME: DATA, "README.md": b"# Guide"}
    yield hub
    hub.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "pulled"
    folder.mkdir()
    return folder


def pull(hub: Hub, folder: Path, what: str, **options: Any) -> subprocess.CompletedProcess[str]:
    """`main.py pull`, as a person types it."""
    config = folder.parent / "data"
    if not config.exists():
        config.mkdir()
        (config / "config.json").write_bytes((ROOT / "data" / "config.example.json").read_bytes())
    flags = options.pop("flags", ())
    # What other programs keep on this machine is looked for in places of the test's own.
    home = {"HOME": str(folder.parent), "HF_HOME": str(folder.parent / "hf")}
    environ = {**home, **hub.env, **options.pop("env", {})}
    return run_command("pull", what, "--models", folder, "--data", config, *flags, environ=environ, timeout=90, **options)


@contextmanager
def pulling(hub: Hub, folder: Path, what: str) -> Iterator[Forked]:
    """`main.py pull` that has begun; at the end it is killed."""
    config = folder.parent / "data"
    config.mkdir()
    (config / "config.json").write_bytes((ROOT / "data" / "config.example.json").read_bytes())
    arguments = ["pull", what, "--models", str(folder), "--data", str(config)]
    environ = {**os.environ, "HF_HOME": str(folder.parent / "hf"), **hub.env}
    with Path(os.devnull).open("w") as nothing:
        process = fork(MAIN, arguments, environ, nothing.fileno(), 2)
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def test_a_file_is_pulled_and_checked(hub: Hub, folder: Path) -> None:
    done = pull(hub, folder, SOURCE)
    assert done.returncode == 0, done.stderr
    assert "guide-q8_0.gguf is there and whole" in done.stdout.replace("\n", "")
    assert (folder / NAME).read_bytes() == DATA
    assert not begun(folder)
    again = pull(hub, folder, SOURCE)
    assert again.returncode == 0
    assert len(hub.ranges()) == 1


def test_a_profile_says_where_its_model_comes_from(hub: Hub, folder: Path) -> None:
    hub.files["Qwen/Qwen2.5-1.5B-Instruct-GGUF"] = {"qwen2.5-1.5b-instruct-q4_k_m.gguf": DATA}
    assert pull(hub, folder, "Qwen").returncode == 0
    assert (folder / "qwen2.5-1.5b-instruct-q4_k_m.gguf").read_bytes() == DATA
    refused = pull(hub, folder, "Guide")
    assert refused.returncode == 1
    assert 'the profile "Guide" does not say where its model comes from' in refused.stderr


def test_the_best_file_of_a_repository_is_taken(hub: Hub, folder: Path) -> None:
    hub.files[REPO] = {"x-f16.gguf": b"", "x-Q4_K_M.gguf": DATA, "x-Q8_0.gguf": b"", "mmproj-x.gguf": b""}
    assert pull(hub, folder, f"hf:{REPO}").returncode == 0
    assert [path.name for path in folder.glob("*.gguf")] == ["x-Q4_K_M.gguf"]


def test_a_cut_connection_is_taken_up_where_it_ended(hub: Hub, folder: Path) -> None:
    hub.cut_after = 1_000_000
    done = pull(hub, folder, SOURCE)
    assert done.returncode == 0, done.stderr
    assert (folder / NAME).read_bytes() == DATA
    # Up to 128 KB of each million are lost with the connection.
    assert [int((range_ or "bytes=0-")[6:-1]) // 800_000 for range_ in hub.ranges()] == [0, 1, 2, 3, 4]


def test_an_ended_pull_goes_on_from_where_it_was(hub: Hub, folder: Path) -> None:
    hub.pause.clear()
    with pulling(hub, folder, SOURCE) as process:
        half = len(DATA) // 2
        # What the client reads comes in blocks.
        while not (notes := begun(folder)) or notes[0]["received"] < half - 2**20:
            assert process.poll() is None
            time.sleep(0.05)
        assert notes[0] == {**notes[0], "file": NAME, "source": SOURCE, "size": len(DATA), "state": "arriving"}
    hub.pause.set()
    (left,) = begun(folder)
    assert left["state"] == "interrupted"
    assert not list(folder.glob("*.gguf"))
    assert pull(hub, folder, SOURCE).returncode == 0
    assert hub.ranges()[-1] == f"bytes={left['received']}-"
    assert (folder / NAME).read_bytes() == DATA


@pytest.mark.parametrize(
    "what", ["{url}/{repo}", "{url}/{repo}/blob/v1/{name}", "{url}/{repo}/resolve/main/{name}?download=true"]
)
def test_a_page_of_the_hub_can_be_pulled(hub: Hub, folder: Path, what: str) -> None:
    done = pull(hub, folder, what.format(url=hub.url, repo=REPO, name=NAME))
    assert done.returncode == 0, done.stderr
    assert (folder / NAME).read_bytes() == DATA


def test_a_repository_and_a_file_need_no_prefix(hub: Hub, folder: Path, tmp_path: Path) -> None:
    assert pull(hub, folder, REPO).returncode == 0
    assert (folder / NAME).read_bytes() == DATA
    asked = len(hub.requests)
    (tmp_path / "mine.gguf").write_bytes(DATA)
    assert pull(hub, folder, str(tmp_path / "mine.gguf")).returncode == 0
    assert (folder / "mine.gguf").read_bytes() == DATA
    assert len(hub.requests) == asked


def test_a_quantization_is_chosen_by_its_name(hub: Hub, folder: Path) -> None:
    hub.files[REPO] = {"a/x-q8_0.gguf": DATA, "x-UD-Q4_K_M.gguf": b"", "x-f16.gguf": b""}
    missing = pull(hub, folder, f"hf:{REPO}:Q5_K_M")
    assert missing.returncode == 1
    assert f"the repository {REPO} has no file of the quantization Q5_K_M; it has F16, Q8_0, UD-Q4_K_M" in missing.stderr
    assert pull(hub, folder, f"hf:{REPO}:Q8_0").returncode == 0
    assert (folder / "x-q8_0.gguf").read_bytes() == DATA


@pytest.fixture
def parts(hub: Hub, tmp_path: Path) -> dict[str, bytes]:
    """A model in three files, the only one of the hub's repository."""
    (tmp_path / "parts").mkdir()
    files = {path.name: path.read_bytes() for path in split_model(GUIDE, tmp_path / "parts", "guide-Q8_0", (10, 20, 0))}
    hub.files[REPO] = {f"Q8_0/{name}": data for name, data in files.items()}
    return files


def test_a_model_in_several_files_is_pulled_whole(hub: Hub, folder: Path, parts: dict[str, bytes]) -> None:
    hub.cut_after = 1_000_000
    done = pull(hub, folder, f"hf:{REPO}:Q8_0")
    assert done.returncode == 0, done.stderr
    assert "guide-Q8_0-00001-of-00003.gguf is there and whole" in done.stdout.replace("\n", "")
    assert {path.name: path.read_bytes() for path in folder.glob("*.gguf")} == parts
    assert not begun(folder)
    n_asked = len(hub.ranges())
    assert pull(hub, folder, f"hf:{REPO}/Q8_0/guide-Q8_0-00002-of-00003.gguf").returncode == 0
    assert len(hub.ranges()) == n_asked


def test_a_model_in_several_files_is_gone_on_with(hub: Hub, folder: Path, parts: dict[str, bytes]) -> None:
    """It is ended within the second file: the first is not fetched again, and no file has its name before all are there."""
    first, second, third = parts
    hub.pauses = second
    hub.pause.clear()
    with pulling(hub, folder, f"hf:{REPO}") as process:
        enough = len(parts[first]) + len(parts[second]) // 2
        while not (notes := begun(folder)) or notes[0]["received"] < enough - 2**18:
            assert process.poll() is None
            time.sleep(0.05)
        size = sum(map(len, parts.values()))
        source = f"hf:{REPO}/Q8_0/{first}"
        assert notes == [{**notes[0], "file": first, "source": source, "size": size, "state": "arriving"}]
    hub.pause.set()
    assert not list(folder.glob("*.gguf"))
    half = (folder / ARRIVING / f"{second}.part").stat().st_size
    assert 0 < half < len(parts[second])
    assert pull(hub, folder, f"hf:{REPO}").returncode == 0
    asked = [
        (path.rpartition("/")[2], range_)
        for method, path, range_ in hub.requests
        if method == "GET" and "/resolve/" in path
    ]
    assert asked == [(first, None), (second, None), (second, f"bytes={half}-"), (third, None)]
    assert {path.name: path.read_bytes() for path in folder.glob("*.gguf")} == parts


def test_a_damaged_part_alone_is_fetched_again(hub: Hub, folder: Path, parts: dict[str, bytes]) -> None:
    first, second, _ = parts
    hub.damaged.add(second)
    done = pull(hub, folder, f"hf:{REPO}")
    assert (done.returncode, f"the checksum of {second} is wrong" in done.stderr) == (1, True)
    assert not list(folder.glob("*.gguf"))
    hub.damaged.clear()
    assert pull(hub, folder, f"hf:{REPO}").returncode == 0
    assert {path.name: path.read_bytes() for path in folder.glob("*.gguf")} == parts
    assert sum(first in path for method, path, _ in hub.requests if method == "GET" and "/resolve/" in path) == 1


def test_a_part_that_the_hub_lacks_is_named(hub: Hub, folder: Path, parts: dict[str, bytes]) -> None:
    first, second, _ = parts
    del hub.files[REPO][f"Q8_0/{second}"]
    done = pull(hub, folder, f"hf:{REPO}/Q8_0/{first}")
    assert (done.returncode, f"{REPO} has no file Q8_0/{second}" in done.stderr) == (1, True)
    assert "has no GGUF file" in pull(hub, folder, f"hf:{REPO}").stderr


def test_a_wrong_checksum_throws_away_what_came(hub: Hub, folder: Path) -> None:
    hub.digest = "ab" * 32
    done = pull(hub, folder, SOURCE)
    assert done.returncode == 1
    assert f"the checksum of {NAME} is wrong" in done.stderr
    assert not list(folder.rglob("*.gguf"))
    assert not list((folder / ARRIVING).glob("*.part"))


def test_what_is_no_model_is_thrown_away(hub: Hub, folder: Path) -> None:
    hub.files[REPO][NAME] = b"<html>" * 1000
    done = pull(hub, folder, SOURCE)
    assert (done.returncode, "not a GGUF file" in done.stderr) == (1, True)
    assert not list(folder.rglob("*.gguf"))


def test_what_changes_at_the_source_is_fetched_anew(hub: Hub, folder: Path) -> None:
    (folder / ARRIVING).mkdir()
    (folder / ARRIVING / f"{NAME}.part").write_bytes(b"x" * 1000)
    note = {"file": NAME, "source": SOURCE, "size": len(DATA), "digest": "ab" * 32}
    (folder / ARRIVING / f"{NAME}.json").write_text(json.dumps(note))
    assert pull(hub, folder, SOURCE).returncode == 0
    assert hub.ranges() == [None]


def test_a_file_that_is_there_is_not_written_over(hub: Hub, folder: Path) -> None:
    (folder / NAME).write_bytes(b"mine")
    done = pull(hub, folder, SOURCE)
    assert (done.returncode, "move it away first" in done.stderr) == (1, True)
    assert (folder / NAME).read_bytes() == b"mine"


def test_too_large_a_file_is_refused_before_it_comes(hub: Hub, folder: Path) -> None:
    hub.size = 10**15
    done = pull(hub, folder, SOURCE)
    assert done.returncode == 1
    assert f"{NAME} needs 1000000.0 GB more, and the disk of" in done.stderr
    assert not hub.ranges()


def test_a_disk_that_fills_up_is_named_and_gone_on_from(hub: Hub, folder: Path) -> None:
    done = pull(hub, folder, SOURCE, prefix=["prlimit", "--fsize=2000000"])
    assert done.returncode == 1
    assert f"{NAME} could not be written: File too large. What has arrived is kept" in done.stderr
    assert pull(hub, folder, SOURCE).returncode == 0
    assert hub.ranges()[-1] == "bytes=2000000-"
    assert (folder / NAME).read_bytes() == DATA


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("hf:Nobody/nothing/x.gguf", "the hub has no repository Nobody/nothing"),
        (f"hf:{REPO}/gone.gguf", f"{REPO} has no file gone.gguf"),
        (f"hf:{REPO}@v9/{NAME}", f"{REPO} has no revision v9"),
        ("hf:Hearth/secret/x.gguf", "asks for its owner's permission"),
        ("hf:Hearth/empty", "has no GGUF file"),
        ("nope", 'there is no profile "nope"'),
        ("ftp:x", "names no source of models"),
    ],
)
def test_what_cannot_be_had_is_named(hub: Hub, folder: Path, source: str, says: str) -> None:
    hub.gated.add("Hearth/secret")
    hub.files["Hearth/empty"] = {"README.md": b""}
    done = pull(hub, folder, source)
    assert done.returncode == 1
    assert says in done.stderr
    assert "Traceback" not in done.stderr


def test_a_hub_that_cannot_be_reached_is_named(hub: Hub, folder: Path) -> None:
    hub.close()
    done = pull(hub, folder, SOURCE)
    assert (done.returncode, "the hub cannot be reached" in done.stderr) == (1, True)


def test_what_ollama_keeps_is_found_and_checked(hub: Hub, folder: Path, tmp_path: Path) -> None:
    ollama = tmp_path / "ollama"
    digest = write_ollama(ollama, "somewhere.example/library/guide/latest", DATA)
    env = {"OLLAMA_MODELS": str(ollama)}
    assert pull(hub, folder, "ollama:guide", env=env).returncode == 0
    assert (folder / "guide.gguf").read_bytes() == DATA
    missing = pull(hub, folder, "ollama:guide:7b", env=env)
    assert "Ollama has no model guide:7b on this machine" in missing.stderr
    (folder / "guide.gguf").unlink()
    (ollama / "blobs" / f"sha256-{digest}").write_bytes(DATA[:-1] + b"x")
    assert "the checksum of guide.gguf is wrong" in pull(hub, folder, "ollama:guide", env=env).stderr
    assert not hub.requests


def write_ollama(folder: Path, manifest: str, blob: bytes) -> str:
    """What `ollama pull` leaves on disk; return the blob's digest."""
    digest = hashlib.sha256(blob).hexdigest()
    (folder / "blobs").mkdir(parents=True)
    (folder / "blobs" / f"sha256-{digest}").write_bytes(blob)
    path = folder / "manifests" / manifest
    path.parent.mkdir(parents=True)
    layers = [
        {"mediaType": "application/vnd.ollama.image.license", "digest": "sha256:00"},
        {"mediaType": "application/vnd.ollama.image.model", "digest": f"sha256:{digest}", "size": len(blob)},
    ]
    path.write_text(json.dumps({"schemaVersion": 2, "layers": layers}))
    return digest


def test_a_pull_over_http_tells_its_progress(
    hub: Hub, serve: Callable[..., Server], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    server = serve(models=models)
    hub.pause.clear()
    stream = Stream(server.post("/models/pull", {"source": SOURCE}, stream=True))
    first = stream.next()
    assert first == {**first, "file": NAME, "source": SOURCE, "size": len(DATA), "state": "arriving"}
    (listed,) = server.get("/models").json()["arriving"]
    assert (listed["file"], listed["state"]) == (NAME, "arriving")
    assert NAME not in server.get("/models").json()["models"]
    # Another caller follows the same pull.
    other: list[Any] = []
    thread = threading.Thread(
        target=lambda: other.extend(Stream(server.post("/models/pull", {"source": SOURCE}, stream=True)).rest())
    )
    thread.start()
    time.sleep(0.5)
    hub.pause.set()
    events = stream.rest()
    thread.join()
    assert events[-1] == other[-1] == "[DONE]"
    assert events[-2] == {**first, "received": len(DATA), "state": "done"}
    assert len(hub.ranges()) == 1
    listed = server.get("/models").json()
    assert NAME in listed["models"]
    assert listed["arriving"] == []
    assert server.post("/models/model", {"model": NAME, "model_config": "Guide"}).status_code == 200
    assert server.ask("What is the capital of France?")["model"] == NAME


def test_only_the_master_key_pulls(hub: Hub, server: Server) -> None:
    key, _ = server.mint()
    assert server.post("/models/pull", {"source": SOURCE}, key=key).status_code == 403


def test_errors_before_anything_arrives_have_their_status(
    hub: Hub, serve: Callable[..., Server], models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in hub.env.items():
        monkeypatch.setenv(name, value)
    server = serve(models=models)
    for source, status in (("hf:Nobody/x/y.gguf", 404), ("x", 404), ("x:y", 400), (f"hf:{REPO}/{NAME}x", 400)):
        reply = server.post("/models/pull", {"source": source})
        assert (reply.status_code, reply.json()["error"]["param"]) == (status, "source")
    hub.digest = "ab" * 32
    hub.pause.clear()
    threading.Timer(1, hub.pause.set).start()
    events = Stream(server.post("/models/pull", {"source": SOURCE}, stream=True)).rest()
    assert events[-1]["error"]["code"] == "wrong_checksum"


def test_a_hub_cannot_lead_to_what_only_this_machine_can_reach(hub: Hub, folder: Path) -> None:
    other = Hub()
    other.files[REPO] = {NAME: DATA}
    port = other.url.rsplit(":", 1)[1]
    path = f"/{REPO}/resolve/main/{NAME}"
    cases = [
        (f"http://localhost:{port}{path}", (), "the hub leads to localhost"),
        (f"http://localhost:{port}{path}", ("--pull-hosts", "localhost"), "no public address"),
        (f"http://127.0.0.2:{port}{path}", ("--pull-hosts", "*"), "127.0.0.2, which is no public address"),
        (f"http://[::1]:{port}{path}", ("--pull-hosts", "*"), "no public address"),
        (f"http://[::ffff:10.0.0.1]:{port}{path}", ("--pull-hosts", "*"), "no public address"),
        ("http://169.254.169.254/latest/meta-data", ("--pull-hosts", "*"), "no public address"),
        ("file:///etc/passwd", ("--pull-hosts", "*"), "could not be fetched"),
    ]
    for leads_to, flags, says in cases:
        hub.leads_to = leads_to
        done = pull(hub, folder, SOURCE, flags=flags)
        assert done.returncode == 1, leads_to
        assert says in done.stderr
        assert not (folder / NAME).exists()
    assert other.requests == []
    hub.leads_to = f"{hub.url}/elsewhere"
    assert pull(hub, folder, SOURCE).returncode == 1
    other.close()


def test_models_come_from_the_hosts_that_are_allowed(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without HF_ENDPOINT the hub itself is one of them, and nothing is asked of a host that is not."""
    from services.models.hub_hosts import is_public

    config = folder.parent / "data"
    config.mkdir()
    (config / "config.json").write_bytes((ROOT / "data" / "config.example.json").read_bytes())
    monkeypatch.delenv("HF_ENDPOINT", raising=False)
    done = run_command("pull", SOURCE, "--models", folder, "--data", config, "--pull-hosts", "models.example")
    assert "models are fetched from models.example only" in done.stderr
    private = ("10.0.0.1", "127.0.0.1", "192.168.1.1", "169.254.169.254", "100.64.0.1", "0.0.0.0", "224.0.0.1")
    assert not any(map(is_public, (*private, "::1", "fe80::1%eth0", "fd00::1", "::ffff:10.0.0.1", "2002:0a00:0001::")))
    assert all(map(is_public, ("8.8.8.8", "2606:4700:4700::1111")))
