"""Real clusters: a RabbitMQ and a Redis of the tests' own, API nodes and workers as processes."""

from __future__ import annotations

import contextlib
import fcntl
import itertools
import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from services.backend.codec import from_json
from services.cluster.registry import WorkerHeartbeat
from tests.support.forked import PAUSE, start
from tests.support.ports import free_port
from tests.support.serving import ENDLESS, ENDLESS_PAUSE, Server

_numbers = itertools.count(1)
START_SECONDS = 90
MAIN = ("main.py",)
QUICK = ("-m", "tests.support.quick_cluster")


class Service:
    """A server of somebody else's, as a process with a folder of its own."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        """`port` is that of a server which runs already."""
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)
        self.port = port or free_port()
        self.process: subprocess.Popen[bytes] | None = None

    def command(self) -> list[str]:
        raise NotImplementedError

    def environ(self) -> dict[str, str]:
        return dict(os.environ)

    def is_up(self) -> bool:
        raise NotImplementedError

    def start(self) -> None:
        with (self.folder / "output.log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), env=self.environ(), stdout=log, stderr=log, stdin=subprocess.DEVNULL, start_new_session=True
            )
        deadline = time.monotonic() + START_SECONDS
        while not self.is_up():
            assert self.process.poll() is None, (self.folder / "output.log").read_text()
            assert time.monotonic() < deadline, (self.folder / "output.log").read_text()
            time.sleep(0.05)

    def kill(self) -> None:
        """SIGKILL, to all of it."""
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


class Redis(Service):
    """A Redis that keeps what it was told over a kill."""

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def command(self) -> list[str]:
        options = {"port": self.port, "bind": "127.0.0.1", "dir": self.folder, "save": "", "appendonly": "yes"}
        return ["redis-server", *(str(part) for name, value in options.items() for part in (f"--{name}", value))]

    def is_up(self) -> bool:
        import redis

        try:
            with redis.Redis.from_url(self.url) as client:
                return bool(client.ping())
        except redis.RedisError:
            return False


class Rabbit(Service):
    """A RabbitMQ, with ports and files of its own."""

    def __init__(self, folder: Path, port: int | None = None) -> None:
        super().__init__(folder, port)
        self._others = free_port(), free_port()

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@127.0.0.1:{self.port}//"

    def command(self) -> list[str]:
        return ["/usr/lib/rabbitmq/bin/rabbitmq-server"]

    def environ(self) -> dict[str, str]:
        folder, (between, mapper) = self.folder, self._others
        for name in ("env.conf", "enabled"):
            (folder / name).touch()
        # Without plugins and without a rabbitmq.conf, whose schemas it would load, it starts in two thirds of the time.
        (folder / "plugins").mkdir(exist_ok=True)
        local = "-kernel inet_dist_use_interface {127,0,0,1} +S 1"
        return {
            **os.environ,
            "HOME": str(folder),
            "RABBITMQ_CONF_ENV_FILE": str(folder / "env.conf"),
            "RABBITMQ_CONFIG_FILE": str(folder / "none"),
            "RABBITMQ_NODE_IP_ADDRESS": "127.0.0.1",
            "RABBITMQ_NODE_PORT": str(self.port),
            "RABBITMQ_PLUGINS_DIR": str(folder / "plugins"),
            "RABBITMQ_ENABLED_PLUGINS_FILE": str(folder / "enabled"),
            "RABBITMQ_LOGS": str(folder / "rabbit.log"),
            "RABBITMQ_MNESIA_BASE": str(folder / "mnesia"),
            "RABBITMQ_LOG_BASE": str(folder),
            "RABBITMQ_PID_FILE": str(folder / "pid"),
            "RABBITMQ_NODENAME": f"hearth{self.port}@localhost",
            "RABBITMQ_DIST_PORT": str(between),
            "ERL_EPMD_ADDRESS": "127.0.0.1",
            "ERL_EPMD_PORT": str(mapper),
            "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": local,
        }

    def is_up(self) -> bool:
        from amqp import Connection

        try:
            with Connection(f"127.0.0.1:{self.port}", connect_timeout=2):
                return True
        except Exception:
            return False

    def close(self) -> None:
        """End it, and the port mapper that it has started beside itself."""
        self.kill()
        names = {**os.environ, "ERL_EPMD_PORT": str(self._others[1]), "ERL_EPMD_ADDRESS": "127.0.0.1"}
        deadline = time.monotonic() + 10
        # It stays for as long as it has not noticed that the server is gone.
        while b"Killed" not in subprocess.run(["epmd", "-kill"], env=names, capture_output=True, check=False).stdout:
            if time.monotonic() > deadline:
                break
            time.sleep(0.1)


@contextlib.contextmanager
def shared_rabbit(folder: Path) -> Iterator[Rabbit]:
    """A RabbitMQ that several pytest processes share: the first starts it in `folder`, and ends it when none uses it."""
    folder.mkdir(exist_ok=True)
    known = folder / "port"
    with (folder / "starting").open("w") as starting, (folder / "using").open("w") as using:
        fcntl.flock(starting, fcntl.LOCK_EX)
        fcntl.flock(using, fcntl.LOCK_SH)
        if known.exists():
            fcntl.flock(starting, fcntl.LOCK_UN)
            yield Rabbit(folder, int(known.read_text()))
            return
        made = Rabbit(folder)
        made.start()
        known.write_text(str(made.port))
        fcntl.flock(starting, fcntl.LOCK_UN)
        yield made
        fcntl.flock(using, fcntl.LOCK_EX)
        known.unlink()
        made.close()


class Worker:
    """`main.py worker`."""

    def __init__(
        self, folder: Path, environ: dict[str, str], models: Path, *arguments: str, program: tuple[str, ...] = MAIN
    ) -> None:
        self.name = environ["NODE_NAME"]
        self._environ = {**os.environ, "PYTHONUNBUFFERED": "1", **environ}
        self._program = program
        self._arguments = ["worker", *arguments, "--data", str(folder), "--models", str(models)]
        self._log = folder.parent / f"{folder.name}.log"
        self.output = ""

    def start(self, ready: bool = True) -> Worker:
        """Start; unless told otherwise, return once it takes tasks."""
        with self._log.open("a") as log:
            self.process = start(self._program, self._arguments, self._environ, log)
        self._is_ready = is_ready = threading.Event()

        def read() -> None:
            assert self.process.stdout
            with self.process.stdout:
                for line in self.process.stdout:
                    self.output += line
                    if re.search(r"^The worker \S+ serves", line):
                        is_ready.set()
            is_ready.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        if ready:
            self.wait()
        return self

    def wait(self) -> None:
        """Wait until it takes tasks."""
        assert self._is_ready.wait(START_SECONDS)
        assert self.process.poll() is None, self.log()

    def log(self) -> str:
        return self.output + self._log.read_text()

    def kill(self) -> None:
        """SIGKILL, to it and its engine's process."""
        children = subprocess.run(["pgrep", "-P", str(self.process.pid)], capture_output=True, text=True).stdout.split()
        self.process.kill()
        for child in children:
            # It ends by itself too, a moment later.
            subprocess.run(["kill", "-9", child], capture_output=True, check=False)
        self.process.wait()
        self._reader.join()

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(seconds)
        self._reader.join()
        return status


class Cluster:
    """API nodes and workers that share a RabbitMQ and a Redis, with names of their own in both."""

    def __init__(self, folder: Path, rabbit: Rabbit, redis: Redis, models: Path, program: tuple[str, ...] = MAIN) -> None:
        self.number = f"{os.getpid()}-{next(_numbers)}"
        self.folder = folder
        self.rabbit, self.redis = rabbit, redis
        self.models = models
        self.program = program
        self.nodes: list[Server] = []
        self.workers: list[Worker] = []
        self.key = ""

    def environ(self, name: str, **more: str) -> dict[str, str]:
        return {
            "CELERY_BROKER_URL": self.rabbit.url,
            "CELERY_RESULT_BACKEND": self.redis.url,
            "QUEUE_NAME": f"test{self.number}",
            "REDIS_PREFIX": f"test{self.number}",
            "NODE_NAME": name,
            PAUSE: str(ENDLESS_PAUSE),
            **more,
        }

    def node(self, *flags: str, ready: bool = True, config: Callable[[Server], Any] | None = None, **more: str) -> Server:
        """Start an API node; `config` changes its config.json before."""
        name = f"node{len(self.nodes) + 1}"
        made = Server(self.folder / name, *flags, models=self.folder / "no models", key=self.key)
        made.environ = self.environ(name, **more)
        made.program = self.program
        if config:
            config(made)
        self.nodes.append(made)
        made.start(ready)
        self.key = made.key
        return made

    def worker(
        self, *arguments: str, ready: bool = True, config: Callable[[Server], Any] | None = None, **more: str
    ) -> Worker:
        """Start a worker; `config` changes its config.json before."""
        name = f"worker{len(self.workers) + 1}"
        # What a server's data folder needs first is the same.
        home = Server(self.folder / name)
        if config:
            config(home)
        made = Worker(home.data, self.environ(name, **more), self.models, *arguments, program=self.program)
        self.workers.append(made)
        return made.start(ready)

    def start(self, workers: int = 1, nodes: int = 1, config: Callable[[Server], Any] | None = None) -> Server:
        """Start so many at once; return the first node when all are ready."""
        for _ in range(workers):
            self.worker(ready=False, config=config)
        for _ in range(nodes):
            self.node(ready=False, config=config)
        for worker in self.workers:
            worker.wait()
        for node in self.nodes:
            node.wait_for("ready")
        return self.nodes[0]

    def close(self) -> None:
        """End all of it."""
        for worker in self.workers:
            if worker.process.poll() is None:
                worker.kill()
        for node in self.nodes:
            if hasattr(node, "process") and node.process.poll() is None:
                node.kill()


def talkative(server: Server) -> None:
    """A profile whose model goes on talking, beside the guide."""
    server.edit_config("Random", **{**ENDLESS, "n_parallel": 2})


def running(cluster: Cluster) -> int:
    """How many answers are computed."""
    return int(cluster.nodes[0].get("/status").json()["answers"]["running"])


def heartbeats(cluster: Cluster) -> list[WorkerHeartbeat]:
    """Of its workers, by their names."""
    import redis

    client: Any = redis.Redis.from_url(cluster.redis.url)
    keys = sorted(client.scan_iter(f"test{cluster.number}:workers:*"))
    found = [client.get(key) for key in keys]
    client.close()
    return [from_json(WorkerHeartbeat, json.loads(text)) for text in found if text]
