"""`main.py serve`: a server by itself, or a cluster's API node."""

from __future__ import annotations

import gc
import logging
import os
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from typing import TYPE_CHECKING

from services.cli.data_lock import lock_data
from services.cli.failures import refuse
from services.cluster.settings import read_cluster
from services.errors import HearthError
from services.server.listening import check_free
from services.server.shutdown import Shutdown
from services.settings import Settings

if TYPE_CHECKING:
    # The engine's process starts while these are imported.
    from auth.external import Gate
    from auth.keys import KeyStore, MintedKey
    from services.answers.models import Models
    from services.cluster.node.backend import ClusterBackend
    from services.cluster.node.node import Node
    from services.engine.process.client import EngineProcess
    from services.models.profile import Chosen
    from services.stores import Stores

log = logging.getLogger("hearth")


def serve(settings: Settings, gates: Mapping[str, Gate] | None = None, preferred: Chosen | None = None) -> int:
    """Serve until SIGTERM or Ctrl+C; `gates` is as for `build_application`, `preferred` as for `file_stores`.

    The server computes itself, or is a cluster's API node where the environment names one. Raises HearthError or OSError
    where it cannot start.
    """
    try:
        # Before anything is loaded; bound again once all is ready to serve.
        check_free(settings.host, settings.port)
        if keyless := settings.keyless:
            check_free(keyless.host, keyless.port, "--ollama")
    except OSError as error:
        return refuse("start", str(error.strerror))
    if cluster := read_cluster(os.environ):
        from services.cluster.node.node import Node

        node = Node(cluster, settings, preferred)
        with node.running():
            return _serve(settings, node.backend, node.stores, gates, node)
    from services.cli.first_model import fetch_first

    if problem := fetch_first(settings):
        print(problem, file=sys.stderr, flush=True)
    engine = make_engine(settings)
    try:
        from services.stores import file_stores

        return _serve(settings, engine, file_stores(settings, preferred), gates)
    finally:
        engine.close()


def make_engine(settings: Settings) -> EngineProcess:
    """Start the engine's process. Raises OSError where it cannot be started."""
    from services.engine.process.client import EngineProcess
    from services.engine.process.connection import EngineOptions
    from services.storage.database import NAME

    options = EngineOptions(
        settings.states or settings.data / "states",
        _bytes(settings.cache_ram),
        settings.cache_disk * 10**6,
        settings.states is not None,
        settings.think_ahead,
        settings.queue,
        _bytes(settings.model_ram),
        60 * settings.idle_minutes,
        settings.log_level,
        settings.log_format,
        settings.engine_timeout,
    )
    return EngineProcess.open(options, settings.data / NAME)


def _serve(
    settings: Settings,
    engine: EngineProcess | ClusterBackend,
    stores: Stores,
    gates: Mapping[str, Gate] | None,
    node: Node | None = None,
) -> int:
    from services.answers.models import Models
    from services.server.listening import urls

    of_files = stores.documents.states() if stores.documents else set()
    engine.retain(stores.sessions.names_of_all() | stores.responses.states() | of_files)
    models = Models(stores.profiles, stores.files, engine)
    # The model is probed and loaded while the rest is imported.
    threading.Thread(target=_warm_up, args=(models,), name="warm-up", daemon=True).start()
    from services.app import build_application, create_app
    from services.cli.first_model import introduction
    from services.server.waitress_server import make_server

    application = build_application(settings, engine, stores, gates, node.overview if node else None, models)
    answers, begin = application.answers, application.draining.begin
    with ExitStack() as closing:
        stop = Shutdown(begin, lambda: answers.n_open, settings.stop_seconds, application.closers)
        closing.enter_context(stop.on_signals())
        try:
            server = make_server(create_app(application), settings)
        except OSError as error:
            for close in application.closers:
                close()
            return refuse("start", str(error.strerror))
        addresses = urls("https" if settings.cert else "http", settings.host, server.port)
        if node:
            # Others of the cluster are on other machines.
            node.announce((addresses[1:] or addresses)[0], lambda: answers.n_open)
        is_first = bool(node) or lock_data(settings.data, closing)
        application.jobs.start(takes_up=is_first)
        if application.document_vectors:
            application.document_vectors.start()
        if is_first and application.follower and not node:
            application.follower.start()
        master = stores.keys.mint_master()
        if (keyless := settings.keyless) and server.keyless_port:
            _introduce_keyless(urls("http", keyless.host, server.keyless_port)[0], keyless.key_id, stores.keys)
        _introduce(addresses, master, introduction(stores.profiles.config(), stores.files))
        engine.add_restart_listener(lambda: _warm_up(models))
        if settings.tunnel:
            _open_tunnel(addresses[0], closing, application.hosts.add)
        # What is here now stays as long as the server: no collection looks at it again.
        gc.freeze()
        gc.enable()
        server.run()
    return 0


def _bytes(megabytes: int | None) -> int | None:
    return None if megabytes is None else megabytes * 10**6


def _open_tunnel(url: str, closing: ExitStack, allow: Callable[[str], None]) -> None:
    """Give the server a public address until `closing` closes; print why, where that fails, and go on."""
    from services.server.tunnel import Tunnel

    def announce(public: str) -> None:
        allow(public.removeprefix("https://"))
        print(f"Public address: {public}", flush=True)

    try:
        closing.callback(Tunnel.open(url, announce).close)
    except (HearthError, OSError) as error:
        print(f"Hearth opens no tunnel: {error}", file=sys.stderr, flush=True)


def _introduce(addresses: Sequence[str], master: MintedKey | None, model: str) -> None:
    """Print the model, the addresses and, the first time, the master key."""
    url, *others = addresses
    if master:
        print(
            f"\nYour master key, shown this once:\n\n    {master.key}\n\nPaste it at {url} in a browser, or try:\n\n"
            f"""    curl -s {url}/answer -H 'Authorization: {master.key}' -d '{{"prompt": "What can you do?"}}'\n"""
        )
    if model:
        print(model)
    print(f"Hearth listens on {url} (Ctrl+C stops it). Open it in a browser to chat.", flush=True)
    if others:
        print(f"Other machines of the network open {' or '.join(others)}.", flush=True)


def _introduce_keyless(url: str, key_id: str, keys: KeyStore) -> None:
    """Print where clients without a key are served, and whose key that is."""
    if not keys.chain(key_id):
        print(f"Nobody is let in at {url}: there is no key with the id {key_id} (--ollama).", file=sys.stderr, flush=True)
        return
    print(f"Ollama's clients find it at {url}, as the key {key_id}, without a key of their own.", flush=True)


def _warm_up(models: Models) -> None:
    """Load the selected model; log why that failed, where it did."""
    if problem := models.warm_up():
        log.error("%s", problem.message)
