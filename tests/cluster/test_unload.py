"""Freeing a model from the memory of a cluster's workers."""

from __future__ import annotations

import time

from tests.support.clustering import Cluster


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
