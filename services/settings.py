"""The server's settings, from flags and the environment: where its files are, where it listens."""

from __future__ import annotations

import argparse
import os
from collections.abc import Mapping, Sequence
from dataclasses import Field, dataclass, fields
from pathlib import Path
from typing import Any

from services.keyless import KeylessAddress, parse_keyless

HOME = Path(__file__).resolve().parent.parent


@dataclass(frozen=True)
class Settings:
    """The server's settings. Each is the flag of its name, or HEARTH_NAME in the environment."""

    host: str = "127.0.0.1"
    port: int = 5000
    data: Path = HOME / "data"
    models: Path = HOME / "models"
    threads: int = 64
    """Requests that may be open at once: each answer holds a thread until its end."""
    reserve: int = 8
    """Threads kept free of answers, so that keys, lists and health are served however many wait."""
    model: str = "none"
    """The model to fetch and select at the first start: a profile, a name of the catalog or a source; "none": no model."""
    queue: int = 32
    """Answers that may wait for a slot; more get 503."""
    cache_ram: int | None = None
    """Megabytes that computed states may take in memory, beside the slots; None: a quarter of what is free."""
    cache_disk: int = 4000
    """Megabytes that computed states may take on disk."""
    documents: Path | None = None
    """A folder for the keys' own files, which a cluster's nodes share; None: one in the data folder, in a cluster none."""
    states: Path | None = None
    """A folder for computed states that workers share; None: each keeps its own, in its data folder."""
    model_ram: int | None = None
    """Megabytes that loaded models may take together; None: three quarters of what is free."""
    idle_minutes: int = 0
    """Minutes without use after which a model leaves memory; 0: never."""
    think_ahead: bool = True
    """Whether the beginning of each conversation's next prompt is prefetched while the engine is idle."""
    allowed_hosts: tuple[str, ...] = ()
    """Host names of the server, beside localhost, this machine's and the address that it listens on."""
    cors_origins: tuple[str, ...] = ()
    """Origins (https://NAME) whose pages may send requests from a browser."""
    ollama: str = "none"
    """A second address, for clients that cannot send a key: ADDRESS:PORT=KEY_ID; "none": there is none."""
    pull_hosts: tuple[str, ...] = ("huggingface.co", "*.huggingface.co", "hf.co", "*.hf.co")
    """Hosts that models may be fetched from; that of HF_ENDPOINT is one of them."""
    cert: Path | None = None
    """TLS certificate chain (PEM)."""
    cert_key: Path | None = None
    """Its private key (PEM); the flag is --key."""
    max_seconds: int = 600
    """Seconds that one answer may take, its waiting included."""
    stop_seconds: int = 20
    """Seconds that answers in flight have to end when the server stops."""
    engine_timeout: int = 8
    """Seconds after which an engine's process that hangs is killed and restarted; 0: never."""
    max_keys: int = 10_000
    """Keys that may exist, the master key included."""
    key_sessions: int = 10_000
    """Sessions that a key may keep without a limit of its own, the master excepted; 0: any number."""
    key_storage_mb: int = 1000
    """Megabytes that the sessions, responses, jobs and files of such a key may take; 0: any number."""
    connections: int = 1000
    """Connections that may be open at once: fewer where the system's limit of open files is lower."""
    address_connections: int = 400
    """Connections that one address may have, behind which a school may be; of IPv6 a network of 64 bits; 0: all."""
    address_requests: int = 400
    """Requests of one address that may be open at once; more get 429; 0: any number."""
    address_handshakes: int = 400
    """TLS handshakes of one address that may be in flight at once; 0: any number."""
    limits_store: str = "memory://"
    """Where the minute's limits are counted; redis://HOST:PORT shares them."""
    log_format: str = "text"
    log_level: str = "INFO"
    tunnel: bool = False
    """Whether Cloudflare's program gives the server a public address."""

    @property
    def keyless(self) -> KeylessAddress | None:
        """The second address; None if there is none. Raises ValueError."""
        return None if self.ollama == "none" else parse_keyless(self.ollama)

    @property
    def max_answers(self) -> int:
        """Return how many answers may be open at once, waiting ones included; more get 503."""
        return max(1, self.threads - self.reserve)


_HELP = {
    "host": "address to listen on",
    "port": "port to listen on; 0 takes a free one",
    "data": "folder of config.json, api_keys.json and sessions.json",
    "models": "folder of the GGUF files",
    "threads": "requests that may be open at once",
    "reserve": "threads that answers may not take",
    "model": "what to fetch and select at the first start: a profile, a name of the catalog or a source",
    "queue": "answers that may wait for their turn; more get 503",
    "cache_ram": "megabytes of computed states to keep in memory (a quarter of what is free)",
    "cache_disk": "megabytes of computed states to keep on disk; 0 keeps none there",
    "documents": "folder of the keys' own files, which a cluster's nodes share (one in the data folder)",
    "states": "folder of computed states that workers share (each has its own, in its data folder)",
    "model_ram": "megabytes that loaded models may take together (three quarters of what is free)",
    "idle_minutes": "minutes without use after which a model leaves memory; 0: never",
    "think_ahead": "on or off: read the next prompt's beginning while the person is still thinking",
    "allowed_hosts": "names under which it may be asked, with commas between; * for any",
    "cors_origins": "origins whose pages may ask from a browser, with commas between (none)",
    "ollama": "ADDRESS:PORT=KEY_ID: an address of this machine whose requests count as that key's, for Ollama's clients",
    "pull_hosts": "hosts that models may be fetched from, with commas between",
    "cert": "TLS certificate chain (PEM); with --key it serves https",
    "cert_key": "the certificate's private key (PEM)",
    "max_seconds": "seconds that one answer may take, its waiting included",
    "stop_seconds": "seconds that answers under way have to end when the server stops",
    "engine_timeout": "seconds after which a hung engine is killed and restarted; 0: never",
    "max_keys": "keys that there may be, the master's included",
    "key_sessions": "sessions that a key without limits.sessions may keep, the master excepted; 0: any number",
    "key_storage_mb": "megabytes of sessions, responses, jobs, files that a key without limits.storage_mb may keep; 0: any",
    "connections": "connections that may be open at once",
    "address_connections": "connections that one address may have; behind a proxy all have the proxy's: 0 there; 0: all",
    "address_requests": "requests that one address may have open; behind a proxy as address-connections; 0: any number",
    "address_handshakes": "TLS handshakes that one address may have under way; 0: any number",
    "limits_store": "where the minute's limits are counted: memory://, or redis://HOST:PORT",
    "log_format": "text, or json with a line for each request",
    "tunnel": "give the server a public address, by the program cloudflared",
    "log_level": "DEBUG, INFO, WARNING or ERROR",
}


def add_flags(parser: argparse.ArgumentParser) -> None:
    """Add a flag for every setting to `parser`."""
    for field in fields(Settings):
        shown = "" if field.default in (None, ()) or isinstance(field.default, Path) else f" ({_shown(field.default)})"
        flag, what = flag_of(field.name), _HELP[field.name] + shown
        if field.default is False:
            parser.add_argument(flag, action="store_const", const="on", help=what)
        else:
            parser.add_argument(flag, dest=field.name, metavar="…", help=what)


def read_settings(flags: Mapping[str, str | None], environ: Mapping[str, str]) -> Settings:
    """Return the settings of the flags, else of the environment, else the defaults.

    Raises ValueError naming the flag or variable whose value is wrong.
    """
    values: dict[str, object] = {}
    for field in fields(Settings):
        flag, variable = flag_of(field.name), f"HEARTH_{field.name.upper()}"
        given, source = flags.get(field.name), flag
        if given is None:
            given, source = environ.get(variable), variable
        if given is not None:
            values[field.name] = _convert(given, _kind(field), source)
    settings = Settings(**values)  # type: ignore[arg-type]
    _check(settings)
    return settings


def settings_of(parser: argparse.ArgumentParser, given: argparse.Namespace, *names: str) -> Settings:
    """Return the settings for a command with flags for some of them; a wrong value ends it with the parser's message."""
    try:
        return read_settings({name: getattr(given, name, None) for name in names}, os.environ)
    except ValueError as error:
        parser.error(str(error))


def flag_of(name: str) -> str:
    """Return the flag of a setting."""
    return "--key" if name == "cert_key" else f"--{name.replace('_', '-')}"


def _kind(field: Field[Any]) -> type:
    if field.default is None:
        return Path if "Path" in str(field.type) else int
    return type(field.default)


def _shown(value: object) -> str:
    if isinstance(value, tuple):
        return ",".join(value)
    return {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value)


def _convert(given: str, kind: type, source: str) -> object:
    if kind is bool:
        if given not in ("on", "off"):
            raise ValueError(f"{source} should be on or off, not {given!r}")
        return given == "on"
    if kind is tuple:
        return tuple(part.strip() for part in given.split(",") if part.strip())
    if kind is int:
        try:
            return int(given)
        except ValueError:
            raise ValueError(f"{source} should be a whole number, not {given!r}") from None
    return Path(given).expanduser().resolve() if issubclass(kind, Path) else given


def _check(settings: Settings) -> None:
    # Raises ValueError.
    _ = settings.keyless
    if not 0 <= settings.port <= 65_535:
        raise ValueError(f"the port should be from 0 to 65535, not {settings.port}")
    for name, least in _LEAST.items():
        if (given := getattr(settings, name)) is not None and given < least:
            raise ValueError(f"{name} should be {least} or more, not {given}")
    if (settings.cert is None) != (settings.cert_key is None):
        raise ValueError("cert and key belong together: the one is no use without the other")
    if settings.log_format not in ("text", "json"):
        raise ValueError(f"the log format should be text or json, not {settings.log_format!r}")
    if settings.log_level not in _LEVELS:
        raise ValueError(f"the log level should be one of {', '.join(_LEVELS)}, not {settings.log_level!r}")


_LEAST = {
    "threads": 2,
    "connections": 10,
    **dict.fromkeys(("max_seconds", "max_keys"), 1),
    **dict.fromkeys(("reserve", "stop_seconds", "queue", "cache_ram", "cache_disk", "model_ram", "idle_minutes"), 0),
    **dict.fromkeys(("key_sessions", "key_storage_mb", "engine_timeout"), 0),
    **dict.fromkeys(("address_connections", "address_requests", "address_handshakes"), 0),
}
_LEVELS: Sequence[str] = ("DEBUG", "INFO", "WARNING", "ERROR")
