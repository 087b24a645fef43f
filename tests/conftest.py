from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser

from tests.support.browsing import Chat, chromium
from tests.support.clustering import Cluster, Rabbit, Redis
from tests.support.serving import ENDLESS, Server
from tests.support.tiny import GUIDE, write_random_model


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
    ) -> Server:
        made = Server(data or tmp_path / f"data{len(started)}", *flags, models=models or GUIDE.parent)
        made.environ = environ or {}
        started.append(made)
        return made.start(ready)

    yield start
    for made in started:
        if hasattr(made, "process"):
            # One that has ended by itself still has its pipe.
            made.kill()


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    with chromium() as started:
        yield started


@pytest.fixture
def visit(browser: Browser) -> Iterator[Callable[..., Chat]]:
    """Opens the page for one person after the other, each in a browser of their own. None may complain."""
    chats: list[Chat] = []

    def come(server: Server, key: str | None = None, **options: Any) -> Chat:
        chats.append(Chat(browser.new_context(**options), server, key))
        return chats[-1]

    yield come
    complaints = [complaint for chat in chats for complaint in chat.complaints]
    for chat in chats:
        chat.context.close()
    assert complaints == []


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
    """A RabbitMQ of the tests' own."""
    made = Rabbit(tmp_path_factory.mktemp("rabbit"))
    made.start()
    yield made
    made.close()


@pytest.fixture(scope="session")
def cluster_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The guide, and a slow model that is certain of each word: whoever goes on with its answers says the same."""
    folder = tmp_path_factory.mktemp("cluster models")
    shutil.copy(GUIDE, folder)
    write_random_model(folder / "random.gguf", certain=True)
    return folder


@pytest.fixture
def cluster(tmp_path: Path, rabbit: Rabbit, redis: Redis, cluster_models: Path) -> Iterator[Cluster]:
    """A cluster of the test's own."""
    made = Cluster(tmp_path, rabbit, redis, cluster_models)
    yield made
    made.close()


@pytest.fixture(scope="session")
def random_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model slow enough to be interrupted, which never ends by itself."""
    return write_random_model(tmp_path_factory.mktemp("random") / "random.gguf")


@pytest.fixture
def models(tmp_path: Path, random_model: Path) -> Path:
    """A models folder of the test's own, with the guide and the endless model."""
    folder = tmp_path / "models"
    folder.mkdir()
    shutil.copy(GUIDE, folder)
    (folder / "random.gguf").hardlink_to(random_model)
    return folder


@pytest.fixture
def endless(serve: Callable[..., Server], models: Path) -> Server:
    """A server whose selected model goes on talking, with one answer at a time."""
    server = serve(models=models)
    server.edit_config("Random", **ENDLESS)
    server.select("Random")
    server.ask("Hi", max_tokens=1, memory_k=0)
    return server
