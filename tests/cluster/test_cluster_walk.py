"""docs/cluster.md: the quick start, run as written, its output compared."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import yaml

from services.cluster.settings import NAMES
from tests.server.test_readme import masked, pieces
from tests.support.clustering import Cluster
from tests.support.serving import ROOT, wait_for
from tests.support.tiny import GUIDE

PAGE = "docs/cluster.md"
# Names, numbers and addresses of the machine, and values that depend on which worker was free.
CHANGING = [
    (r'"(name|host)":"[\w-]+"', r'"\1":"…"'),
    (r'"(pid|began|memory|answers)":[\d.]+', r'"\1":0'),
    (r'"loaded":\[("guide.gguf")?\]', '"loaded":["guide.gguf"]'),
    (r'"workers":\["[\w-]+","[\w-]+"\]', '"workers":[…]'),
    (r'"url":"http://[\d.:]+"', '"url":"…"'),
    (r'"name":"[\w-]+\.guide', '"name":"hearth.guide'),
    (r"The worker \S+", "The worker …"),
]


def plain(text: str) -> str:
    text = masked(text)
    for pattern, mask in CHANGING:
        text = re.sub(pattern, mask, text)
    return text


def wait_for_workers(cluster: Cluster) -> None:
    """Wait until the node lists exactly the workers that run, and no answer: it says so a little later."""
    n_running = sum(worker.process.poll() is None for worker in cluster.workers)

    def is_told() -> bool:
        told = cluster.nodes[0].get("/cluster").json()
        is_quiet = not any(node["answers"] or node["waiting"] for node in told["nodes"])
        return len(told["workers"]) == n_running and is_quiet

    wait_for(is_told)


def test_the_walk_works_as_written(cluster: Cluster, tmp_path: Path) -> None:
    # Only the guide, whatever models this checkout has.
    cluster.models = tmp_path / "models"
    cluster.models.mkdir()
    (cluster.models / GUIDE.name).symlink_to(GUIDE)
    walked = (ROOT / PAGE).read_text(encoding="utf-8").split("## Configuration")[0]
    n_compared = 0
    for piece in pieces(walked):
        command = piece.typed
        if command.startswith(("sudo ", "./setup.sh", "source ", "KEY=")):
            continue
        if command.startswith("export "):
            # The tests set both to servers of their own.
            assert re.findall(r"(\w+)=", command) == ["CELERY_BROKER_URL", "CELERY_RESULT_BACKEND"]
        elif command == "python3 main.py":
            node = cluster.node(ready=False)
        elif command.startswith("python3 main.py worker"):
            cluster.worker()
            assert plain(cluster.workers[-1].output).splitlines()[-1] == plain(piece.output)
            n_compared += 1
        elif command.startswith("pkill -9"):
            cluster.workers[1].kill()
        else:
            wait_for_workers(cluster)
            curl = command.replace("localhost:5000", node.url.removeprefix("http://")).replace("curl ", "curl -s ", 1)
            done = subprocess.run(
                ["bash", "-c", curl], env={**os.environ, "KEY": cluster.key}, capture_output=True, text=True
            )
            assert plain(done.stdout) == plain(piece.output), command
            n_compared += 1
    assert n_compared == 6


def test_the_example_is_of_what_there_is() -> None:
    folder = ROOT / "examples" / "cluster"
    compose = yaml.safe_load((folder / "compose.yaml").read_text())
    assert {"rabbitmq", "redis", "node-1", "node-2", "worker"} == compose["services"].keys()
    named = set(re.findall(r"^#? ?([A-Z_]+)=", (folder / ".env").read_text(), re.MULTILINE))
    assert named <= set(NAMES)
    page = (ROOT / PAGE).read_text(encoding="utf-8")
    assert all(f"`{name}`" in page for name in NAMES)
