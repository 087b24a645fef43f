"""`main.py documents`: folders are followed, with a server that runs and without one."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support.commands import run_command
from tests.support.serving import Server, wait_for

Serve = Callable[..., Server]
Run = Callable[..., "subprocess.CompletedProcess[str]"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture
def run(data: Path) -> Run:
    """Runs `main.py documents` beside the server of `data`; the first argument is its command."""

    def run(*arguments: str | Path, forks: bool = True, **environ: str) -> subprocess.CompletedProcess[str]:
        return run_command("documents", *arguments, "--data", data, environ=environ, forks=forks)

    return run


def names(server: Server, query: str, collection: str = "papers", key: str | None = None) -> set[str]:
    """The names of the files in which a search finds something; empty while there is no such collection."""
    options = {} if key is None else {"key": key}
    reply = server.post("/search", {"query": query, "collection": collection}, **options)
    return {passage["name"] for passage in reply.json().get("passages", ())}


def test_folders_are_followed_before_and_while_a_server_runs(tmp_path: Path, data: Path, run: Run, serve: Serve) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    (folder / "reports").mkdir(parents=True)
    other.mkdir()
    (folder / "reports/2026.md").write_text("# Whales\n\nThe harpoon was made of iron.")
    (folder / "photo.jpg").write_bytes(b"\xff\xd8\xff\xe0\0\x10JFIF")
    added = run("add", folder, "--collection", "papers", forks=False)
    assert (added.returncode, added.stderr) == (0, "")
    begins = "the next start of the server reads it, and then whatever changes there."
    assert added.stdout == f'The collection "papers" follows {folder}: {begins}\n'
    server = serve(data=data, ready=False)
    wait_for(lambda: names(server, "harpoon") == {"reports/2026.md"})
    (described,) = server.get("/collections").json()["collections"]
    assert described["folder"] == str(folder)
    assert [problem["name"] for problem in described["problems"]] == ["photo.jpg"]
    assert "type .jpg" in described["problems"][0]["reason"]
    whole = server.get("/collections/papers").json()
    assert [each["name"] for each in whole["files"]] == ["reports/2026.md"]
    assert whole["problems"] == described["problems"]
    key, id_ = server.mint()
    (other / "b.txt").write_text("A lighthouse keeper.")
    added = run("add", other, "--collection", "lent", "--readers", id_)
    assert "the server that runs reads it within seconds" in added.stdout
    (folder / "reports/2026.md").write_text("# Ships\n\nThe anchor was made of iron.")
    (folder / "new.txt").write_text("An albatross.")
    wait_for(lambda: names(server, "anchor") == {"reports/2026.md"} and names(server, "albatross") == {"new.txt"})
    assert names(server, "harpoon") == set()
    wait_for(lambda: names(server, "lighthouse", "0/lent", key) == {"b.txt"})
    lent = server.get("/collections/0/lent", key=key).json()
    assert (lent["folder"], lent["problems"], lent["n_files"]) == (None, None, 1)
    listed = run("list").stdout
    assert str(folder) in listed
    assert "papers: photo.jpg: files of the type .jpg" in listed
    removed = run("remove", "lent", "--files")
    assert "deletes its files within seconds" in removed.stdout
    (folder / "new.txt").unlink()
    wait_for(lambda: names(server, "albatross") == set() and server.get("/collections/lent").status_code == 404)
    assert [each["name"] for each in server.get("/files").json()["files"]] == ["reports/2026.md"]
    assert server.stop() == 0
    removed = run("remove", "papers", "--files")
    assert removed.stdout == f'The collection "papers" follows {folder} no more. Its only file is deleted.\n'
    assert "There are no collections" in run("list").stdout
    assert list((data / "documents").iterdir()) == []
    assert (folder / "reports/2026.md").exists()


def test_errors_name_their_culprits(tmp_path: Path, data: Path, run: Run) -> None:
    folder, other = tmp_path / "folder", tmp_path / "other"
    folder.mkdir()
    other.mkdir()
    (tmp_path / "a.txt").write_text("a file")
    assert run("add", folder, "--collection", "papers").returncode == 0
    assert run("add", folder, "--collection", "papers").returncode == 0
    (data / "inside").mkdir()
    for arguments, says in (
        (("add", tmp_path / "missing", "--collection", "x"), f"there is no folder {tmp_path}/missing"),
        (("add", tmp_path / "a.txt", "--collection", "x"), f"{tmp_path}/a.txt is no folder"),
        (("add", "/", "--collection", "x"), "/ is the whole file system"),
        (("add", data, "--collection", "x"), f"{data} is the server's data folder"),
        (("add", tmp_path, "--collection", "x"), f"{tmp_path} contains the server's data folder, {data}"),
        (("add", data / "inside", "--collection", "x"), f"{data}/inside lies in the server's data folder"),
        (("add", other, "--collection", "papers"), f"follows another folder, {folder}"),
        (("add", other, "--collection", "a/b"), '--collection: "a/b" should have'),
        (("add", other, "--collection", "x", "--owner", "nobody"), 'no key with the id "nobody"'),
        (("add", other, "--collection", "x", "--readers", "0,nobody"), 'no key with the id "nobody"'),
        (("remove", "x"), 'there is no collection "x"'),
        (("remove", "papers", "--owner", "nobody"), 'there is no collection "papers"'),
    ):
        failed = run(*arguments)
        assert failed.returncode == 1
        assert failed.stderr.startswith("Hearth cannot manage documents: ")
        assert failed.stderr.count("\n") == 1
        assert says in failed.stderr
    if os.geteuid():
        other.chmod(0)
        assert f"{other} cannot be read" in run("add", other, "--collection", "x").stderr
    removed = run("remove", "papers")
    assert removed.stdout == f'The collection "papers" follows {folder} no more. Its files stay, as they are now.\n'
    assert 'the collection "papers" follows no folder' in run("remove", "papers").stderr
    # The name is free for another folder then.
    other.chmod(0o700)
    assert run("add", other, "--collection", "papers", "--readers", "everybody").returncode == 0
    assert "everybody" in run("list").stdout


def test_a_cluster_follows_no_folders(run: Run) -> None:
    failed = run("list", CELERY_BROKER_URL="amqp://localhost", REDIS_HOST="localhost")
    assert failed.returncode == 1
    assert "a cluster follows no folders" in failed.stderr
