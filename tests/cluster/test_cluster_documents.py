"""Own files in a cluster: stored at one node, found and answered from at another."""

from __future__ import annotations

from pathlib import Path

from tests.support.clustering import Cluster

TEXT = b"# Boats\n\nThe boat in the harbour is called Marigold. It carries twelve people.\n"


def test_files_are_shared_by_the_nodes_of_a_folder(cluster: Cluster, tmp_path: Path) -> None:
    folder = tmp_path / "documents"
    folder.mkdir()
    cluster.worker()
    one = cluster.node("--documents", str(folder))
    two = cluster.node("--documents", str(folder))
    stored = one.request("POST", "/files", files={"file": ("boats.md", TEXT)}, data={"collection": "harbour"})
    assert stored.status_code == 200, stored.text
    file = stored.json()["id"]
    found = two.post("/search", {"query": "What is the boat called?", "collection": "harbour"}).json()["passages"]
    assert [(each["file"], each["text"]) for each in found] == [(file, TEXT.decode().strip())]
    reply = two.post("/answer", {"prompt": "What is the boat called?", "collection": "harbour", "session_id": 1}).json()
    assert [each["file"] for each in reply["citations"]] == [file]
    # What is computed of it is forgotten with it, on the worker too.
    assert two.delete(f"/files/{file}").status_code == 200
    assert one.get("/files").json()["files"] == []
    assert one.get(f"/files/{file}").status_code == 404
    assert one.get("/collections/harbour").json()["n_files"] == 0
    assert list(folder.iterdir()) == []


def test_without_a_folder_the_endpoints_say_so(cluster: Cluster) -> None:
    cluster.worker()
    node = cluster.node()
    for reply in (
        node.request("POST", "/files", files={"file": ("boats.md", TEXT)}),
        node.get("/files"),
        node.post("/search", {"query": "boat"}),
        node.post("/answer", {"prompt": "What is it called?", "collection": "harbour"}),
    ):
        assert (reply.status_code, reply.json()["error"]["code"]) == (503, "no_documents"), reply.text
        assert "--documents" in reply.json()["message"]
    assert node.ask("What is 7 plus 5?", memory_k=0)["result"] == "7 plus 5 is 12."
