"""Around a cluster: its overview, Flower, the way in and back, a server elsewhere, and whose turn it is."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import requests

from tests.support.clustering import Cluster, running, talkative
from tests.support.commands import run_command
from tests.support.ports import free_port
from tests.support.serving import ROOT, Server, Stream, wait_for

QUICK: dict[str, Any] = {"prompt": "Hi", "max_tokens": 3, "memory_k": 0}


def main(cluster: Cluster, *arguments: str, **more: str) -> subprocess.CompletedProcess[str]:
    # One of them is a new Python.
    return run_command(*arguments, environ={**cluster.environ("command"), **more}, forks="--back" not in arguments)


def test_the_overview_tells_who_is_there_and_how_busy(cluster: Cluster) -> None:
    cluster.worker(config=talkative, ready=False)
    cluster.worker("Guide", config=talkative)
    node = cluster.node(config=talkative)
    key, _ = node.mint("Ana")
    assert node.get("/cluster", key=key).status_code == 403
    # Nobody has waited for the first worker yet.
    wait_for(lambda: len(node.get("/cluster").json()["workers"]) == 2)
    told = node.get("/cluster").json()
    assert told["broker"] == "ready"
    assert [each["name"] for each in told["nodes"]] == ["node1"]
    assert told["nodes"][0]["url"] == node.url
    first, second = told["workers"]
    assert (first["models"], second["models"]) == (["guide.gguf", "random.gguf"], ["guide.gguf"])
    queues = {re.sub(r"^\S+?\.(\w+)\.gguf\..*", r"\1", queue["name"]): queue["workers"] for queue in told["queues"]}
    assert queues == {"guide": ["worker1", "worker2"], "random": ["worker1"]}
    stream = node.stream("Hi", model="Random", memory_k=0)
    stream.next()
    wait_for(lambda: [each["busy"] for each in node.get("/cluster").json()["workers"]] == [1, 0])
    cluster.workers[1].kill()
    wait_for(lambda: [each["name"] for each in node.get("/cluster").json()["workers"]] == ["worker1"])
    stream.close()


def test_a_server_by_itself_is_in_no_cluster(server: Server) -> None:
    assert server.get("/cluster").json()["error"]["code"] == "no_cluster"


def test_a_profile_that_no_worker_serves_is_unavailable(cluster: Cluster) -> None:
    node = cluster.node(config=talkative, ready=False)
    refused = node.post("/answer", {"prompt": "Hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "no_worker")
    assert refused.headers["Retry-After"]
    cluster.worker("Guide", config=talkative)
    node.wait_for("ready")
    assert node.ask("Hi")["result"]
    assert node.post("/answer", {"prompt": "Hi", "model": "Random"}).json()["error"]["code"] == "no_worker"


def test_people_go_before_jobs_and_who_has_less_before_who_has_more(cluster: Cluster) -> None:
    def single(server: Server) -> None:
        talkative(server)
        server.edit_config("Random", n_parallel=1)
        server.edit_config("Guide", n_parallel=1)
        server.edit_config("Pirate", n_parallel=1)
        for name in ("Qwen", "SmolLM2"):
            server.edit_config(name, n_parallel=1)

    node = cluster.start(config=single)
    keys = [node.mint(name)[0] for name in ("Ana", "Ben")]
    node.ask(**QUICK)
    stream = node.stream("Hi", model="Random", memory_k=0)
    stream.next()
    order: list[str] = []

    def ask(name: str, key: str) -> None:
        assert node.post("/answer", QUICK, key=key).status_code == 200
        order.append(name)

    def waiting() -> list[int]:
        return [queue["waiting"] for queue in node.get("/cluster").json()["queues"] if queue["waiting"]]

    for n in range(3):
        node.post("/jobs", {"job_id": f"job{n}", "meta": {}, "content": "Hi"}, key=keys[1])
    wait_for(lambda: waiting() == [3])
    threads = []
    for n, (name, key) in enumerate([*(("Ana", keys[0]) for _ in range(5)), ("Ben", keys[1])]):
        threads.append(threading.Thread(target=ask, args=(name, key)))
        threads[-1].start()
        # Each comes after the one before.
        wait_for(lambda n=n: waiting() == [4 + n])  # type: ignore[misc]
    assert [node.get(f"/jobs/job{n}", key=keys[1]).json()["state"] for n in range(3)] != ["done"] * 3
    stream.close()
    for thread in threads:
        thread.join()
    # Ben came last, and has less under way than Ana had when her third one came.
    assert order.index("Ben") <= 3
    assert [node.get(f"/jobs/job{n}", key=keys[1]).json()["state"] for n in range(3)].count("done") < 3
    wait_for(lambda: all(node.get(f"/jobs/job{n}", key=keys[1]).json()["state"] == "done" for n in range(3)))


def test_a_conversation_goes_elsewhere_where_its_worker_is_busy(cluster: Cluster) -> None:
    node = cluster.start(workers=2, config=talkative)
    streams = []
    for number in (1, 2, 3):
        body = {"prompt": "Hi", "model": "Random", "session_id": number, "stream": True}
        stream = Stream(node.post("/answer", body, stream=True))
        stream.next()
        streams.append(stream)
    # Four slots in all, and every one of them is used.
    assert node.ask("Hi", model="Random", memory_k=0, max_tokens=3)["result"] is not None
    wait_for(lambda: running(cluster) == 3)
    for stream in streams:
        stream.close()


def test_a_model_that_comes_later_is_served_too(cluster: Cluster, tmp_path: Path, cluster_models: Path) -> None:
    cluster.models = tmp_path / "some models"
    cluster.models.mkdir()
    shutil.copy(cluster_models / "guide.gguf", cluster.models)
    node = cluster.start(config=talkative)
    assert node.post("/answer", {**QUICK, "model": "Random"}).status_code == 503
    shutil.copy(cluster_models / "random.gguf", cluster.models)
    wait_for(lambda: node.post("/answer", {**QUICK, "model": "Random"}).status_code == 200, 60)


@pytest.mark.parametrize("shares", [True, False])
def test_workers_may_share_what_they_have_computed(cluster: Cluster, tmp_path: Path, shares: bool) -> None:
    flags = ("--states", str(tmp_path / "common")) if shares else ()
    first = cluster.worker(*flags, ready=False)
    node = cluster.node()
    for n in range(4):
        node.ask(f"My number is {n}.", session_id=1)
    second = cluster.worker(*flags)
    first.stop()
    usage = node.ask("What is my number?", session_id=1)["usage"]
    assert second.process.poll() is None
    # All but the new turn, and the answer's last words; without it all but the template's beginning is read anew.
    left = usage["prompt_tokens"] - usage["cached_tokens"]
    assert left < 25 if shares else left > 60
    if shares:
        files = list((tmp_path / "common").glob("*.state"))
        assert files
        assert all(file.stat().st_mode & 0o77 == 0 for file in files)
        node.delete("/answer/1")
        wait_for(lambda: not list((tmp_path / "common").glob("*.state")))


def test_the_way_in_and_back(cluster: Cluster, tmp_path: Path, cluster_models: Path) -> None:
    alone = Server(tmp_path / "alone", models=cluster_models).start()
    key, id_ = alone.mint("Ana", limits={"parallel": 3})
    alone.ask("My name is Ana.", key=key, session_id=1)
    alone.ask("Grüße 🙂", session_id=2)
    said = alone.post("/v1/responses", {"input": "My name is Zoe."}, key=key).json()["id"]
    assert main(cluster, "migrate", "--data", str(alone.data)).stderr.startswith(
        "Hearth cannot migrate: a server or a worker works on"
    )
    before = {path: alone.get(path).json() for path in ("/answer/2", f"/answer/{id_}/1", "/auth/key", "/auth/usage")}
    alone.stop()

    first = main(cluster, "migrate", "--data", str(alone.data))
    assert (first.returncode, first.stderr) == (0, "")
    assert "2 sessions copied.\n2 keys copied." in first.stdout
    assert "1 responses copied." in first.stdout
    again = main(cluster, "migrate", "--data", str(alone.data))
    assert again.returncode == 0
    assert "copied" not in again.stdout
    cluster.key = alone.key
    node = cluster.start()
    for path, told in before.items():
        assert without_use(node.get(path).json()) == without_use(told)
    assert node.ask("What is my name?", key=key, session_id=1)["result"] == "Your name is Ana."
    goes_on = {"input": "What is my name?", "previous_response_id": said}
    answered = node.post("/v1/responses", goes_on, key=key).json()
    assert answered["output"][0]["content"][0]["text"] == "Your name is Zoe."
    node.ask("New here.", session_id=5)
    second_key, _ = node.mint("Ben")

    back = tmp_path / "back"
    done = main(cluster, "migrate", "--back", "--data", str(back))
    assert done.returncode == 0, done.stdout + done.stderr
    returned = Server(back, models=cluster_models, key=alone.key).start()
    assert [each["content"] for each in returned.get(f"/answer/{id_}/1").json()["messages"]][::2] == [
        "My name is Ana.",
        "What is my name?",
    ]
    assert returned.get("/answer/5").json() == node.get("/answer/5").json()
    assert returned.get("/auth", key=second_key).status_code == 200
    assert returned.get(f"/v1/responses/{answered['id']}", key=key).json() == answered
    assert sum(row["requests"] for row in returned.get("/auth/usage").json()["usage"]) == 6
    returned.stop()
    # What was changed on both sides stays on both, and is told.
    conflict = main(cluster, "migrate", "--data", str(alone.data))
    assert conflict.returncode == 1
    assert f"There is another already, which was left as it is: sessions {id_}/1" in conflict.stdout


def without_use(told: Any) -> Any:
    return json.loads(json.dumps(told), object_hook=lambda each: {k: v for k, v in each.items() if k != "last_used"})


def test_the_keys_command_manages_the_cluster_s(shared: Cluster, tmp_path: Path) -> None:
    cluster, node = shared, shared.nodes[0]
    minted = main(cluster, "keys", "mint", "--name", "Ana", "--data", str(tmp_path / "none"))
    key = re.search(r"hearth-[\w-]{43}", minted.stdout)
    assert key, minted.stdout + minted.stderr
    assert node.get("/auth", key=key[0]).status_code == 200
    assert node.ask("Hi", key=key[0])["result"]
    wait_for(lambda: "Ana" in main(cluster, "keys", "usage", "--csv", "--data", str(tmp_path / "none")).stdout)


def test_a_worker_may_pass_its_work_on(cluster: Cluster, server: Server) -> None:
    def bigger(home: Server) -> None:
        home.edit_config("Elsewhere", model="big.gguf", template="{chat_history}\nHuman: {input}\nAI:", temperature=0)

    cluster.worker("Elsewhere", config=bigger, ready=False, INNER_LLM_URL=server.url, INNER_LLM_KEY=server.key)
    node = cluster.node(config=bigger, ready=False)
    wait_for(lambda: node.get("/cluster").json()["workers"])
    asked = {"prompt": "What is the capital of France?", "model": "Elsewhere"}
    wanted = server.post(
        "/v1/completions", {"model": "Guide", "prompt": "\nHuman: What is the capital of France?\nAI:", "temperature": 0}
    ).json()
    reply = node.post("/answer", {**asked, "session_id": 1}).json()
    assert reply["result"] == wanted["choices"][0]["text"].strip()
    assert reply["usage"]["completion_tokens"] == wanted["usage"]["completion_tokens"]
    pieces = Stream(node.post("/answer", {**asked, "stream": True}, stream=True)).rest()
    assert "".join(each["chunk"] for each in pieces[:-2]) == reply["result"]
    assert node.get("/cluster").json()["workers"][0]["elsewhere"] is True
    chat = {"model": "Elsewhere", "messages": [{"role": "user", "content": "Hi"}]}
    assert node.post("/v1/chat/completions", chat).status_code == 200
    assert len(node.get("/answer/1").json()["messages"]) == 2


def test_a_server_elsewhere_that_is_away_is_told_as_such(cluster: Cluster) -> None:
    cluster.worker("Guide", ready=False, INNER_LLM_URL=f"127.0.0.1:{free_port()}")
    node = cluster.node(ready=False)
    wait_for(lambda: node.get("/cluster").json()["workers"])
    refused = node.post("/answer", {"prompt": "Hi"})
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "inner_unavailable")
    assert refused.headers["Retry-After"]


def test_flower_shows_the_workers(shared: Cluster) -> None:
    cluster, node = shared, shared.nodes[0]
    refused = main(cluster, "flower", "--host", "0.0.0.0")
    assert refused.returncode == 1
    assert "FLOWER_BASIC_AUTH" in refused.stderr
    port = free_port()
    environ = {**os.environ, **cluster.environ("flower"), "FLOWER_UNAUTHENTICATED_API": "true"}
    command = [sys.executable, "main.py", "flower", "--port", str(port)]
    process = subprocess.Popen(command, cwd=ROOT, env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:

        def tasks() -> Any:
            try:
                node.ask("A secret between us.", memory_k=0)
                found = requests.get(f"http://127.0.0.1:{port}/api/tasks", timeout=10).json()
            except requests.RequestException:
                return None
            # Flower may have started amid a task, and then knows no name for it.
            return [task for task in found.values() if task["state"] == "SUCCESS" and task["name"]]

        done = wait_for(tasks, 60)
        assert done[0]["name"] == "hearth.generate"
        assert any(worker.name in done[0]["worker"] for worker in cluster.workers)
        assert "secret" not in json.dumps(done)
    finally:
        process.terminate()
        process.wait()


@pytest.mark.parametrize(
    ("variables", "named"),
    [
        ({"CELERY_BROKER_URL": "amqp://localhost"}, "CELERY_RESULT_BACKEND or REDIS_HOST is missing"),
        ({"REDIS_HOST": "localhost"}, "CELERY_BROKER_URL or RABBIT_MQ_HOST is missing"),
        ({"CELERY_BROKER_URL": "http://:secret@x", "REDIS_HOST": "x"}, "CELERY_BROKER_URL should be a URL"),
        ({"RABBIT_MQ_HOST": "x", "RABBIT_MQ_PORT": "many", "REDIS_HOST": "x"}, "RABBIT_MQ_PORT should be a port"),
        ({"RABBIT_MQ_HOST": "x", "REDIS_HOST": "x", "QUEUE_NAME": "a b"}, "QUEUE_NAME should be"),
    ],
)
def test_what_is_wrong_with_the_environment_is_named(variables: dict[str, str], named: str) -> None:
    for command in ("serve", "worker", "migrate"):
        done = run_command(command, environ=variables)
        assert done.returncode == 1
        assert named in done.stderr
        assert "secret" not in done.stderr


def test_an_env_file_turns_it_on(tmp_path: Path) -> None:
    from services.cluster.settings import read_cluster

    file = tmp_path / ".env"
    file.write_text("# ours\nRABBIT_MQ_HOST=rabbit\nRABBIT_MQ_LOGIN='us er'\nRABBIT_MQ_PASSWORD=p/w\nREDIS_HOST=redis\n")
    found = read_cluster({"REDIS_PORT": "6380", "NODE_NAME": "n"}, file)
    assert found
    assert found.broker == "amqp://us%20er:p%2Fw@rabbit:5672//"
    assert found.redis == "redis://redis:6380/0"
    assert "p%2Fw" not in repr(found)
    file.write_text("SOMETHING_ELSE=1\n")
    assert read_cluster({}, file) is None
