from __future__ import annotations

import gc
import os
import shutil
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from tests.support.clock import Clock
from tests.support.clustering import QUICK, Cluster, Rabbit, Redis, shared_rabbit
from tests.support.fake_backend import FakeBackend
from tests.support.in_process import Client
from tests.support.serving import ENDLESS, Server, endless_server
from tests.support.tiny import GUIDE, write_random_model

# The longest first, so that pytest's processes end together.
DIRECTORIES = ("cluster", "browser", "faults", "server", "api", "unit")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    tests = Path(__file__).parent
    items.sort(key=lambda item: DIRECTORIES.index(item.path.relative_to(tests).parts[0]))


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None]:
    # Modules and thousands of test items stay until the end: the garbage collector need not look at them, now or again.
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


@pytest.fixture
def scratch(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory, where the system has that: what these tests write need not outlive the machine."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as folder:
        yield Path(folder)


@pytest.fixture
def open_client(scratch: Path) -> Iterator[Callable[..., Client]]:
    """Opens applications of the test's own in this process; see `Client`. Each has its data folder and fake backend."""
    opened: list[Client] = []

    def open_(**settings: Any) -> Client:
        data = settings.pop("data", None) or scratch / f"data{len(opened)}"
        opened.append(Client(data, **settings))
        return opened[-1]

    yield open_
    for client in opened:
        client.close()


@pytest.fixture
def client(open_client: Callable[..., Client], backend: FakeBackend) -> Client:
    """The API in this process, over files of the test's own and a fake backend that speaks as the guide model."""
    return open_client(backend=backend)


@pytest.fixture
def backend() -> FakeBackend:
    return FakeBackend()


@pytest.fixture
def model_folder(tmp_path: Path) -> Path:
    """A models folder of the test's own: the guide, and random.gguf beside it, whose words a fake backend makes up too."""
    folder = tmp_path / "models"
    folder.mkdir()
    for name in (GUIDE.name, "random.gguf"):
        (folder / name).hardlink_to(GUIDE)
    return folder


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.fixture
def app(client: Client) -> Flask:
    return client.app


@pytest.fixture
def key(client: Client) -> str:
    """A key that may do what keys usually may."""
    return client.mint()[0]


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """A server that tests share: they may add sessions and keys, and leave its config alone."""
    running = Server(tmp_path_factory.mktemp("shared") / "data").start()
    yield running
    running.stop()


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[..., Server]]:
    """Starts servers of the test's own; what still runs afterwards is ended."""
    started: list[Server] = []

    def start(
        *flags: str,
        ready: bool = True,
        models: Path | None = None,
        data: Path | None = None,
        environ: dict[str, str] | None = None,
        endless: dict[str, Any] | None = None,
        forks: bool = True,
    ) -> Server:
        """`endless`: the profile of a model that never ends is selected, changed by this. `forks`: see `Server`."""
        made = Server(data or tmp_path / f"data{len(started)}", *flags, models=models or GUIDE.parent)
        made.environ, made.forks = environ or {}, forks
        if endless is not None:
            made.edit_config("Random", **{**ENDLESS, **endless})
            made.select("Random")
        started.append(made)
        return made.start(ready)

    yield start
    for made in started:
        if hasattr(made, "process"):
            # One that has ended by itself still has its pipe.
            made.kill()


@pytest.fixture(scope="session")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Redis]:
    """A Redis of the tests' own."""
    made = Redis(tmp_path_factory.mktemp("redis"))
    made.start()
    yield made
    made.kill()


@pytest.fixture
def redis_url(redis: Redis) -> str:
    return redis.url


@pytest.fixture(scope="session")
def rabbit(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Rabbit]:
    """A RabbitMQ of the tests' own, which pytest's processes share: a start takes three seconds of a core."""
    base = tmp_path_factory.getbasetemp()
    # Each of several processes has a folder in that of the run.
    with shared_rabbit((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "rabbit") as made:
        yield made


@pytest.fixture(scope="session")
def cluster_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide, and a slow model that is certain of each word: whoever goes on with its answers says the same."""
    folder = tmp_path_factory.mktemp("cluster models")
    shutil.copy(GUIDE, folder)
    write_random_model(folder / "random.gguf", dim=256, layers=2, ffn=704, certain=True)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, rabbit: Rabbit, redis: Redis, cluster_models: Path) -> Iterator[Cluster]:
    """A cluster of the test's own."""
    made = Cluster(tmp_path, rabbit, redis, cluster_models, QUICK)
    yield made
    made.close()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model slow enough to be interrupted, which never ends by itself."""
    return write_random_model(tmp_path_factory.mktemp("random") / "random.gguf")


@pytest.fixture(scope="session")
def light_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that never ends by itself, for servers, whose engines pause after each of its tokens: see `Server.pause`."""
    return write_random_model(tmp_path_factory.mktemp("light") / "random.gguf", dim=256, layers=2, ffn=704)


@pytest.fixture
def models(tmp_path: Path, light_model: Path) -> Path:
    """A models folder of the test's own, with the guide and the endless model."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(GUIDE, folder)
    (folder / "random.gguf").hardlink_to(light_model)
    return folder


@pytest.fixture
def endless(serve: Callable[..., Server], models: Path) -> Server:
    """A server whose selected model goes on talking, with one answer at a time."""
    return serve(models=models, endless={})


@pytest.fixture(scope="module")
def shared_endless(tmp_path_factory: pytest.TempPathFactory, light_model: Path) -> Iterator[Server]:
    """The same for all tests of a file that leave it as it is; each has sessions of its own numbers."""
    with endless_server(tmp_path_factory.mktemp("endless"), [GUIDE, light_model]) as server:
        yield server
