"""Servers from Python: `create_generator` as Langformers' users know it, and `ApiHost` as API Host's do.

    from hearth import ApiHost, create_generator

Both serve everything that `main.py` serves, over the same data folder.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from auth.external import Gate
from auth.guests import guest_limits
from auth.identity import USUAL, Limits
from services.bootstrap import passing_key
from services.cli.progress import show
from services.cli.serve import serve
from services.errors import HearthError
from services.models.config import Config, Profiles
from services.models.downloads import Pulls
from services.models.files import ModelFiles
from services.models.profile import Chosen
from services.models.sources import OllamaModel, Source, parse_source
from services.settings import Settings, read_settings

PROVIDERS = ("gguf", "huggingface", "ollama")


class Generator:
    """A server with one model, for /api/generate and everything else. Made by `create_generator`."""

    def __init__(self, chosen: Chosen, settings: Settings, dependency: Callable[[Any], Any] | None, limits: Limits) -> None:
        self.chosen = chosen
        self._settings = settings
        self._gate = Gate(dependency, limits=limits)
        self._asks = dependency is not None

    def run(self, host: str = "127.0.0.1", port: int = 8000) -> None:
        """Serve at this address until Ctrl+C. Raises HearthError or OSError where the server cannot start."""
        if not self._asks:
            print("No dependency was given: whoever reaches this address may use /api/generate without a key.", flush=True)
        settings = replace(self._settings, host=host, port=port)
        if serve(settings, {"any_generate": self._gate}, self.chosen):
            raise OSError(f"the server could not be started on {host}:{port}")


def create_generator(
    provider: str,
    model_name: str,
    dependency: Callable[[Any], Any] | None = None,
    *,
    limits: Mapping[str, int | None] | None = None,
) -> Generator:
    """Make a server that answers with one model; `run(host, port)` starts it.

    `provider` says what `model_name` is: "gguf" a file, a profile or an hf: source; "huggingface" a repository with GGUF
    files, or one of its files; "ollama" a model that Ollama has pulled on this machine. A missing model is fetched, with a
    progress bar. `dependency` gets each request to /api/generate (Flask's) and raises to refuse it: its exception is the
    reply, with status 401 or the exception's own `status_code`. Without a dependency nobody is refused there.

    `limits` are those of each address that sends requests without a key of this server, by the names of keys' limits; None
    takes one away. By default they are `auth.guests.USUAL_LIMITS`, or none where there is a `dependency`.

    Raises ValueError for an unknown provider or limit, HearthError where there is no such model.
    """
    if provider not in PROVIDERS:
        raise ValueError(f"there is no provider {provider!r}; there are {', '.join(PROVIDERS)}")
    granted = Limits() if dependency and limits is None else guest_limits(limits)
    settings = _settings()
    if provider == "huggingface":
        model_name = _fetched(parse_source(model_name if model_name.startswith("hf:") else f"hf:{model_name}"), settings)
    elif provider == "ollama":
        model_name = _fetched(OllamaModel(model_name.removeprefix("ollama:")), settings)
    elif model_name.startswith("hf:"):
        model_name = _fetched(parse_source(model_name), settings)
    config = Profiles(settings.data / "config.json").config()
    path = Path(model_name).expanduser()
    if model_name not in config.profiles and path.is_file() and path.suffix == ".gguf":
        settings, model_name = _in_its_folder(settings, path.resolve())
    return Generator(_choose(config, model_name, settings), settings, dependency, granted)


class ApiHost:
    """A server for API Host's clients, in a notebook or a script. Its token is good for as long as it runs."""

    def __init__(
        self,
        use_token: bool = True,
        *,
        tunnel: bool = False,
        host: str = "127.0.0.1",
        port: int = 5000,
        limits: Mapping[str, int | None] | None = None,
    ) -> None:
        """`use_token` False lets everybody use /api without a token, and fetch models too.

        `tunnel` gives the server a public address, by the program cloudflared. `limits` are as for `create_generator`, and
        hold for those without a token. Raises ValueError for an unknown one.
        """
        self._limits = guest_limits(limits)
        self._settings = replace(_settings(), host=host, port=port, tunnel=tunnel)
        self._use_token = use_token

    def run(self) -> None:
        """Print the token, then the address, and serve until Ctrl+C. Raises HearthError or OSError."""
        may = frozenset({"models:pull"})
        if not self._use_token:
            print("No token is asked for: whoever reaches this address may use /api, and fetch models.", flush=True)
            self._serve({"apihost": Gate(None, may, self._limits)})
            return
        with passing_key(self._settings, os.environ, "API Host", [*USUAL, "models:pull"]) as key:
            print(f'{key}\n\nThis is the access token; send it as "token" with each request to /api.', flush=True)
            self._serve({})

    def _serve(self, gates: dict[str, Gate]) -> None:
        if serve(self._settings, gates):
            raise OSError(f"the server could not be started on {self._settings.host}:{self._settings.port}")


def _settings() -> Settings:
    """Return the environment's settings (HEARTH_DATA and so on), else the defaults, and make the data folder."""
    settings = read_settings({}, os.environ)
    settings.data.mkdir(parents=True, exist_ok=True)
    return settings


def _fetched(source: Source, settings: Settings) -> str:
    """Fetch a source's file if it is missing; return its name in the models folder."""
    pull = Pulls(settings.models, settings.pull_hosts).start(source)
    show(pull)
    assert pull.path
    return pull.path.relative_to(settings.models).as_posix()


def _in_its_folder(settings: Settings, path: Path) -> tuple[Settings, str]:
    """Return settings whose models folder is the file's own, and the file's name there."""
    if path.is_relative_to(settings.models):
        return settings, path.relative_to(settings.models).as_posix()
    return replace(settings, models=path.parent), path.name


def _choose(config: Config, name: str, settings: Settings) -> Chosen:
    files = ModelFiles(settings.models)
    chosen = config.choose(name, files)
    files.check(chosen.profile.model)
    return chosen


__all__ = ["ApiHost", "Generator", "HearthError", "create_generator"]
