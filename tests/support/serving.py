"""A real server as a process of its own, and requests to it."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import requests
from prometheus_client.parser import text_string_to_metric_families

from services.storage.database import NAME, database
from tests.support.forked import PAUSE, Forked, start
from tests.support.forked import ROOT as ROOT

START_SECONDS = 60
_probes: dict[str, str] = {}
"""By their digests, probes of the guide that went well in this run of the tests; see `Server.start`."""
# A profile whose model goes on talking, with one answer at a time.
ENDLESS: dict[str, Any] = {
    "model": "random.gguf",
    "template": "{input}",
    "n_ctx": 4096,
    "n_parallel": 1,
    "n_threads": 1,
    "temperature": 0,
    "max_tokens": 4000,
    # It repeats itself: a step would yield many tokens.
    "speculation": False,
}
# Seconds after each of its steps: it would keep a core busy all the time that nobody reads it.
ENDLESS_PAUSE = 0.002


class Api:
    """Requests to a server, whose settings, files and keys lie in the folder `data`."""

    def __init__(self, data: Path, models: Path = ROOT / "models", key: str = "") -> None:
        self.data = data
        self.models = models
        self.key = key
        self.url = ""
        self.pause = 0.0
        """Seconds that the server's engine pauses after each step, where it is forked."""
        data.mkdir(exist_ok=True)
        if not (data / "config.json").exists():
            shutil.copy(ROOT / "data" / "config.example.json", data / "config.json")

    def send(self, method: str, url: str, **arguments: Any) -> requests.Response:
        """Send a request as `requests.request` does."""
        # A session of requests is not meant for several threads.
        return requests.request(method, url, timeout=60, **arguments)

    def request(self, method: str, path: str, **arguments: Any) -> requests.Response:
        """Send a request with the key `key`, or else the server's own."""
        headers = {"Authorization": arguments.pop("key", self.key), **arguments.pop("headers", {})}
        return self.send(method, self.url + path, headers=headers, **arguments)

    def get(self, path: str, **arguments: Any) -> requests.Response:
        return self.request("GET", path, **arguments)

    def patch(self, path: str, json: Any = None, **arguments: Any) -> requests.Response:
        return self.request("PATCH", path, json=json, **arguments)

    def delete(self, path: str, **arguments: Any) -> requests.Response:
        return self.request("DELETE", path, **arguments)

    def post(self, path: str, json: Any = None, **arguments: Any) -> requests.Response:
        return self.request("POST", path, json=json, **arguments)

    def ask(self, prompt: str, key: str | None = None, **fields: Any) -> dict[str, Any]:
        """The whole answer to a prompt, which must succeed."""
        reply = self.post("/answer", {"prompt": prompt, **fields}, key=key or self.key)
        assert reply.status_code == 200, reply.text
        return dict(reply.json())

    def stream(self, prompt: str, **fields: Any) -> Stream:
        """An answer's stream, just begun."""
        return Stream(self.post("/answer", {"prompt": prompt, "stream": True, **fields}, stream=True))

    def mint(self, name: str | None = None, **terms: Any) -> tuple[str, str]:
        """A new key, and its id."""
        reply = self.post("/auth/key", {"name": name, **terms})
        assert reply.status_code == 200, reply.text
        return reply.json()["key"], reply.json()["id"]

    def edit_config(self, profile: str = "Guide", **changes: Any) -> None:
        """Change a profile as a person with an editor would."""
        path = self.data / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        config[profile] = {**config.get(profile, {}), **changes}
        path.write_text(json.dumps(config, indent=2), encoding="utf-8")
        if changes.get("model") == ENDLESS["model"]:
            self.pause = ENDLESS_PAUSE

    def select(self, profile: str) -> None:
        path = self.data / "config.json"
        config = json.loads(path.read_text(encoding="utf-8"))
        path.write_text(json.dumps({**config, "SelectedModel": profile}), encoding="utf-8")


class Server(Api):
    """`main.py` on a free port, over a data folder of its own."""

    def __init__(self, data: Path, *flags: str, models: Path = ROOT / "models", key: str = "") -> None:
        super().__init__(data, models, key)
        self.flags = flags
        self.output = ""
        self.prefix: list[str] = []
        """What the command stands behind: unshare, prlimit."""
        self.program: tuple[str, ...] = ("main.py",)
        self.environ: dict[str, str] = {}
        self.forks = True
        """False starts a new Python, whose command line shows main.py."""

    def start(self, ready: bool = True) -> Server:
        """Start, wait until it listens and, unless told otherwise, until its model is loaded."""
        if ready:
            self._know_probes()
        folders = ["--data", str(self.data), "--models", str(self.models)]
        arguments = ["--port", "0", *folders, *self.flags]
        self._log = (self.data.parent / f"{self.data.name}.log").open("a", encoding="utf-8")
        environ = {**os.environ, "PYTHONUNBUFFERED": "1", PAUSE: str(self.pause), **self.environ}
        self.process: subprocess.Popen[str] | Forked
        if self.forks and not self.prefix:
            self.process = start(self.program, arguments, environ, self._log)
        else:
            command = [*self.prefix, sys.executable, *self.program, *arguments]
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=self._log, text=True
            )
        assert self.process.stdout
        self.http = requests.Session()
        self.output = ""
        for line in self.process.stdout:
            self.output += line
            if found := re.search(r"hearth-[\w-]{43}", line):
                self.key = found[0]
            if found := re.search(r"listens on (\S+)", line):
                self.url = found[1]
                break
        else:
            raise AssertionError(f"the server did not start: {self.log()}")
        if ready:
            self.wait_for("ready")
        return self

    def _know_probes(self) -> None:
        """Give a new data folder the probes of earlier servers: each would take half a second of a core."""
        if _probes and {path.name for path in self.data.iterdir()} <= {"config.json"}:
            with database(self.data / NAME) as file:
                file.db.executemany("INSERT INTO probes (digest, file) VALUES (?, ?)", _probes.items())

    def _remember_probes(self) -> None:
        # Immutable: else SQLite would leave files beside it.
        db = sqlite3.connect(f"file:{self.data / NAME}?immutable=1", uri=True)
        with contextlib.suppress(sqlite3.Error), contextlib.closing(db):
            _probes.update(db.execute("SELECT digest, file FROM probes WHERE file = 'guide.gguf'"))

    def log(self) -> str:
        """What it has written to standard error, over all its lives."""
        return Path(self._log.name).read_text(encoding="utf-8")

    def wait_for(self, health: str) -> None:
        deadline = time.monotonic() + START_SECONDS
        while self.get("/health").json()["status"] != health:
            assert time.monotonic() < deadline, f"not {health} after {START_SECONDS} s: {self.log()}"
            time.sleep(0.02)

    def stop(self) -> int:
        """SIGTERM; return the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self._ended()

    def kill(self) -> None:
        """SIGKILL."""
        self.process.kill()
        self._ended()

    def _ended(self) -> int:
        status = self.process.wait(timeout=30)
        self._remember_probes()
        assert self.process.stdout
        self.process.stdout.close()
        self._log.close()
        self.http.close()
        return status


@contextlib.contextmanager
def endless_server(folder: Path, models: Sequence[Path], *flags: str, **profile: Any) -> Iterator[Server]:
    """A server in `folder` with copies of these model files, whose selected model goes on talking; see ENDLESS."""
    (folder / "models").mkdir()
    for file in models:
        (folder / "models" / file.name).hardlink_to(file)
    server = Server(folder / "data", *flags, models=folder / "models")
    server.edit_config("Random", **{**ENDLESS, **profile})
    server.select("Random")
    server.start()
    server.ask("Hi", max_tokens=1, memory_k=0)
    yield server
    server.kill()


class Stream:
    """A stream of server-sent events that is being read."""

    def __init__(self, reply: requests.Response) -> None:
        assert reply.status_code == 200, reply.text
        self.reply = reply
        self._lines = reply.iter_lines(chunk_size=1)

    def next(self) -> Any:
        """The data of the next event; "[DONE]" as it is. Raises StopIteration at the end."""
        while not (line := next(self._lines)).startswith(b"data: "):
            assert not line or line.startswith(b": ")
        data = line[6:].decode()
        return data if data == "[DONE]" else json.loads(data)

    def rest(self) -> list[Any]:
        """The data of all events that are left."""
        events = []
        with contextlib.suppress(StopIteration):
            while True:
                events.append(self.next())
        return events

    def close(self) -> None:
        """Hang up."""
        self.reply.close()


def child_of(server: subprocess.Popen[str] | Forked) -> int:
    """The number of the engine's process of a server or worker, once it has one."""
    pid = str(server.pid)
    # A forked one has a name of its own.
    commands = ["pgrep", "-x", f"engine{pid}"], ["pgrep", "-f", "services.engine.process.main", "-P", pid]
    deadline = time.monotonic() + 20
    while True:
        for command in commands:
            if found := subprocess.run(command, capture_output=True, text=True).stdout.split():
                return int(found[0])
        assert time.monotonic() < deadline
        time.sleep(0.02)


def wait_for(what: Callable[[], Any], seconds: float = 30) -> Any:
    """What `what` gives, as soon as it is true. Raises AssertionError where it is not within `seconds`."""
    deadline = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < deadline, "that never came to be"
        time.sleep(0.05)
    return found


def in_threads(*calls: Callable[[], Any]) -> list[Any]:
    """Run the calls at once; return what each returned."""
    results: list[Any] = [None] * len(calls)

    def run(n: int) -> None:
        results[n] = calls[n]()

    threads = [threading.Thread(target=run, args=(n,)) for n in range(len(calls))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def measures(api: Api, **options: Any) -> dict[tuple[str, ...], float]:
    """What /metrics tells: by the name and the labels' values."""
    reply = api.get("/metrics", **options)
    assert reply.status_code == 200, reply.text
    assert reply.headers["Content-Type"].startswith("text/plain")
    families = text_string_to_metric_families(reply.text)
    return {(s.name, *s.labels.values()): s.value for family in families for s in family.samples}
