"""`main.py doctor`: the weaknesses of a server of these settings, and their remedies."""

from __future__ import annotations

import argparse
import ipaddress
import json
import os
import resource
import stat
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta, timezone
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from auth.identity import MASTER
from services.bootstrap import open_keys
from services.cluster.settings import read_cluster
from services.errors import HearthError
from services.logs import visible
from services.server.connections import RESERVED_FILES
from services.server.listening import listening_sockets
from services.settings import Settings, add_flags, read_settings

# Days before its end from which a certificate is reported.
_RENEW_BEFORE = timedelta(days=14)
# Names of keys or files in one line.
_SHOWN = 5
# Settings that lift a limit where they are 0.
_CAPS = (
    "key_sessions",
    "key_storage_mb",
    "engine_timeout",
    "address_connections",
    "address_requests",
    "address_handshakes",
)
# The files of the data folder that hold no secrets.
_OPEN_FILES = ("config.json", "config.example.json")


@dataclass(frozen=True)
class Finding:
    """The result of one check: a `fact` where all is in order, else a `problem` and the `advice` that mends it."""

    about: str
    fact: str
    problem: str = ""
    advice: str = ""


def doctor(arguments: Sequence[str]) -> int:
    """Run `main.py doctor` with these arguments, which are the server's, and print the findings.

    Returns 1 where there is a problem, else 0.
    """
    about = "What a server leaves open. Give it the flags of your server, or run it in the server's environment."
    parser = argparse.ArgumentParser(prog="main.py doctor", description=about)
    parser.add_argument("--json", action="store_true", dest="as_json", help="as JSON")
    add_flags(parser)
    given = vars(parser.parse_args(arguments))
    as_json = given.pop("as_json")
    try:
        settings = read_settings(given, os.environ)
    except ValueError as error:
        parser.error(str(error))
    findings = list(examine(settings, os.environ))
    problems = [finding for finding in findings if finding.problem]
    if as_json:
        print(json.dumps([asdict(finding) for finding in findings], ensure_ascii=False, indent=2))
        return int(bool(problems))
    for finding in findings:
        print(f"{'OPEN' if finding.problem else 'fine':6}{finding.about}: {visible(finding.problem or finding.fact)}")
        if finding.problem:
            print(f"      {visible(finding.advice)}")
    count = f"{len(problems)} thing{'s' if len(problems) != 1 else ''}"
    print(f"\nThese settings leave {count if problems else 'nothing'} open that is known here.")
    return int(bool(problems))


def examine(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check settings, keys, files and the system; yield a finding for each check."""
    looks: tuple[Callable[[], Iterable[Finding]], ...] = (
        lambda: _network(settings),
        lambda: _names(settings),
        lambda: _certificate(settings),
        lambda: _keys(settings, environ),
        lambda: _files(settings),
        lambda: _limits(settings),
        lambda: _system(settings),
        lambda: _cluster(environ),
    )
    for look in looks:
        try:
            yield from look()
        except (HearthError, OSError) as error:
            what = error.message if isinstance(error, HearthError) else str(error)
            yield Finding("files", "", what, "Mend it: what cannot be read cannot be checked.")


def _network(settings: Settings) -> Iterator[Finding]:
    where = f"--host {settings.host}"
    try:
        for each in listening_sockets(settings.host, 0):
            each.close()
    except OSError as error:
        yield Finding("host", "", str(error.strerror), "Until then the server does not start.")
    if is_loopback(settings.host):
        yield Finding("network", f"{where}: only programs of this machine reach it")
    elif settings.cert:
        yield Finding("network", f"{where}: others reach it, over TLS")
    else:
        yield Finding(
            "network",
            "",
            f"{where} lets others reach it without TLS: keys and conversations can be read on their way",
            "Give it --cert and --key, put a proxy with TLS before it, or listen on --host 127.0.0.1.",
        )
    if settings.tunnel:
        yield Finding(
            "tunnel",
            "",
            "--tunnel gives it a public address: everybody on the internet may try keys there",
            "Leave --tunnel out when nobody needs it, and give every key an end and limits.",
        )


def _names(settings: Settings) -> Iterator[Finding]:
    checks = (
        ("allowed hosts", settings.allowed_hosts, "any name may lead here, so a web page can reach it by DNS rebinding"),
        ("cors origins", settings.cors_origins, "every web page may ask it from a visitor's browser"),
        ("pull hosts", settings.pull_hosts, "model files may be fetched from any machine"),
    )
    for about, values, problem in checks:
        flag = f"--{about.replace(' ', '-')}"
        if "*" in values:
            yield Finding(about, "", f"{flag} *: {problem}", f"Name them: {flag} NAME,NAME.")
        else:
            yield Finding(about, f"{', '.join(values) or 'none beside its own'}")


def _certificate(settings: Settings) -> Iterator[Finding]:
    if not settings.cert or not settings.cert_key:
        return
    yield from _cert(settings.cert)
    if not settings.cert_key.is_file():
        yield Finding("certificate's key", "", f"{settings.cert_key} is not there", "Give --key the certificate's key.")
    else:
        yield from _private("certificate's key", [settings.cert_key])


def _cert(cert: Path) -> Iterator[Finding]:
    try:
        ends = x509.load_pem_x509_certificates(cert.read_bytes())[0].not_valid_after_utc
    except (ValueError, OSError) as error:
        yield Finding("certificate", "", f"{cert} holds no certificate: {error}", "Give --cert a PEM file.")
        return
    left = ends - datetime.now(timezone.utc)
    if left < _RENEW_BEFORE:
        word = "ended" if left < timedelta() else "ends"
        yield Finding("certificate", "", f"{cert} {word} on {ends:%Y-%m-%d}", "Renew it; no restart is needed.")
    else:
        yield Finding("certificate", f"good until {ends:%Y-%m-%d}")


def _keys(settings: Settings, environ: Mapping[str, str]) -> Iterator[Finding]:
    if not read_cluster(environ) and not (settings.data / "api_keys.json").exists():
        yield Finding("keys", "none yet: the first start makes the master key")
        return
    keys = open_keys(settings, environ)
    others = [key for key in keys.list() if key["id"] != MASTER]
    keys.close()
    spending = {"tokens_per_minute", "tokens_per_day", "requests_per_minute"}
    strong = {"keys", "models:switch", "models:pull", "models:delete"}
    checks = (
        ("keys without limits", [k for k in others if not spending & k["limits"].keys()], "--tokens-per-day 50000"),
        ("keys without an end", [k for k in others if not k["expires"]], "--expires 90d"),
        ("keys that do more than answer", [k for k in others if strong & set(k["scopes"])], "--scopes answer,models:read"),
    )
    for about, found, flag in checks:
        if found:
            advice = f"If that is not meant: python3 main.py keys change ID {flag}"
            yield Finding(about, "", _named(found), advice)
        else:
            yield Finding(about, "none")


def _files(settings: Settings) -> Iterator[Finding]:
    data = settings.data
    if data.exists():
        secrets = [path for path in sorted(data.rglob("*")) if path.is_file() and path.name not in _OPEN_FILES]
        yield from _private("files of the data folder", secrets)
    writable = [path for path in (data, data / "config.json", settings.models) if path.exists() and _mode(path) & 0o022]
    if writable:
        what = f"other users of this machine may write {_listed(writable)}"
        yield Finding("what others may write", "", what, f"chmod go-w {' '.join(map(str, writable))}")
    else:
        yield Finding("what others may write", "nothing of config and models")


def _private(about: str, paths: Iterable[Path]) -> Iterator[Finding]:
    readable = [path for path in paths if path.exists() and _mode(path) & 0o077]
    if readable:
        what = f"other users of this machine may read {_listed(readable)}"
        yield Finding(about, "", what, f"chmod go= {' '.join(map(str, readable[:_SHOWN]))}")
    else:
        yield Finding(about, "only their owner reads them")


def _limits(settings: Settings) -> Iterator[Finding]:
    if off := [name for name in _CAPS if not getattr(settings, name)]:
        flags = ", ".join(f"--{name.replace('_', '-')} 0" for name in off)
        yield Finding("limits of the server", "", f"{flags}: turned off", "Leave the flags out: the defaults are generous.")
    else:
        yield Finding("limits of the server", "sessions, storage, addresses and the engine's watchdog have one")


def _system(settings: Settings) -> Iterator[Finding]:
    if os.geteuid() == 0:
        what = "root runs it: whoever breaks into it, by a model file say, has the whole machine"
        yield Finding("user", "", what, "Run it as a user of its own; docs/lending.md has a service for that.")
    else:
        yield Finding("user", "not root")
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < settings.connections + RESERVED_FILES:
        what = f"this system allows it {hard} open files: few connections fit, and they are capped"
        yield Finding("open files", "", what, "Raise the hard limit: ulimit -Hn 65536, or LimitNOFILE= of its service.")
    else:
        allowed = "as many as wanted" if hard == resource.RLIM_INFINITY else f"up to {hard}"
        yield Finding("open files", f"{soft} now, {allowed}")
    if resource.getrlimit(resource.RLIMIT_CORE)[0] != 0:
        what = "core dumps are on: a crash may write conversations to the disk"
        yield Finding("core dumps", "", what, "ulimit -c 0, or LimitCORE=0 of its service.")
    else:
        yield Finding("core dumps", "off")


def _cluster(environ: Mapping[str, str]) -> Iterator[Finding]:
    cluster = read_cluster(environ)
    if not cluster:
        return
    for about, url in (("the cluster's broker", cluster.broker), ("the cluster's Redis", cluster.redis)):
        parts = urlsplit(url)
        if is_loopback(parts.hostname or "localhost"):
            yield Finding(about, "on this machine")
        elif not parts.password or parts.password == "guest":  # noqa: S105
            what = f"{parts.hostname} takes whoever reaches it: it has no password of its own"
            yield Finding(about, "", what, "Give it a password, and write that into the URL.")
        elif parts.scheme not in ("rediss", "amqps"):
            what = f"{parts.hostname} is reached without TLS: passwords and conversations can be read on their way"
            yield Finding(about, "", what, "Use amqps:// and rediss://, or a network that only these machines are on.")
        else:
            yield Finding(about, "over TLS, with a password")


def is_loopback(host: str) -> bool:
    """Return whether only this machine reaches an address."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost" or host.endswith(".localhost")


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def _named(keys: Sequence[Mapping[str, object]]) -> str:
    names = [f"{key['id']} ({visible(str(key['name']))})" if key["name"] else str(key["id"]) for key in keys[:_SHOWN]]
    return ", ".join(names) + (f" and {len(keys) - _SHOWN} more" if len(keys) > _SHOWN else "")


def _listed(paths: list[Path]) -> str:
    return ", ".join(map(str, paths[:_SHOWN])) + (f" and {len(paths) - _SHOWN} more" if len(paths) > _SHOWN else "")
