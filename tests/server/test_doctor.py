"""`main.py doctor` names what settings, keys and files leave open, and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from tests.support.commands import run_command
from tests.support.serving import Server


def examined(data: Path, *flags: str) -> dict[str, dict[str, Any]]:
    """What doctor finds, by what it is about."""
    done = run_command("doctor", "--json", "--data", data, *flags)
    assert done.stdout, done.stderr
    findings = {finding["about"]: finding for finding in json.loads(done.stdout)}
    assert done.returncode == any(finding["problem"] for finding in findings.values())
    return findings


def problems(data: Path, *flags: str) -> dict[str, str]:
    """The problems but for those of the machine itself, which differ from one to the next."""
    found = examined(data, *flags)
    system = ("user", "open files", "core dumps", "what others may write")
    return {about: each["problem"] for about, each in found.items() if each["problem"] and about not in system}


def certificate(folder: Path, days: int) -> tuple[str, str]:
    """A certificate of its own making that ends in so many days, and its key."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    ends = datetime.now(timezone.utc) + timedelta(days=days)
    built = x509.CertificateBuilder().subject_name(name).issuer_name(name).public_key(key.public_key())
    built = built.serial_number(1).not_valid_before(ends - timedelta(days=90)).not_valid_after(ends)
    cert, private = folder / f"{days}.pem", folder / f"{days}.key"
    cert.write_bytes(built.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM))
    plain = (serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    private.write_bytes(key.private_bytes(*plain))
    private.chmod(0o600)
    return str(cert), str(private)


@pytest.fixture
def used(serve: Callable[..., Server]) -> Server:
    """A server with a conversation and a key of somebody's."""
    server = serve()
    server.ask("Hi", session_id=1)
    server.mint("Ana", expires="30d", scopes=["answer"], limits={"tokens_per_day": 1000})
    return server


def test_what_the_server_itself_writes_leaves_nothing_open(used: Server) -> None:
    assert problems(used.data) == {}


def test_keys_and_files_that_leave_something_open_are_named(used: Server) -> None:
    _, id_ = used.mint("Bea", scopes=["answer", "keys"])
    sessions = used.data / "sessions.json"
    used.stop()
    sessions.chmod(0o644)
    found = problems(used.data)
    assert set(found) == {
        "keys without limits",
        "keys without an end",
        "keys that do more than answer",
        "files of the data folder",
    }
    assert f"{id_} (Bea)" in found["keys without limits"]
    assert str(sessions) in found["files of the data folder"]
    sessions.chmod(0o600)
    used.data.chmod(0o777)
    assert str(used.data) in examined(used.data)["what others may write"]["problem"]


@pytest.mark.parametrize(
    ("flags", "about", "says"),
    [
        (("--host", "0.0.0.0"), "network", "without TLS"),
        (("--host", "::"), "network", "without TLS"),
        (("--tunnel",), "tunnel", "public address"),
        (("--allowed-hosts", "*"), "allowed hosts", "DNS rebinding"),
        (("--cors-origins", "*"), "cors origins", "every web page"),
        (("--pull-hosts", "*"), "pull hosts", "any machine"),
    ],
)
def test_settings_that_leave_something_open_are_named(
    flags: tuple[str, ...], about: str, says: str, tmp_path: Path
) -> None:
    found = problems(tmp_path, *flags)
    assert list(found) == [about]
    assert says in found[about]


def test_a_certificate_that_ends_soon_or_whose_key_others_may_read_is_named(tmp_path: Path) -> None:
    good, key = certificate(tmp_path, 60)
    flags = ("--host", "0.0.0.0", "--data", str(tmp_path / "data"))
    assert problems(tmp_path, *flags, "--cert", good, "--key", key) == {}
    soon, key = certificate(tmp_path, 3)
    assert list(problems(tmp_path, *flags, "--cert", soon, "--key", key)) == ["certificate"]
    Path(key).chmod(0o644)
    assert list(problems(tmp_path, *flags, "--cert", soon, "--key", key)) == ["certificate", "certificate's key"]


def test_a_key_of_a_certificate_is_looked_at_whatever_the_certificate_is(tmp_path: Path) -> None:
    good, key = certificate(tmp_path, 60)
    missing = problems(tmp_path / "data", "--cert", good, "--key", f"{key}.not")
    assert list(missing) == ["certificate's key"]
    assert "is not there" in missing["certificate's key"]
    bad = tmp_path / "bad.pem"
    bad.write_text("nonsense")
    Path(key).chmod(0o644)
    for cert in (bad, tmp_path / "none.pem"):
        assert list(problems(tmp_path / "data", "--cert", str(cert), "--key", key)) == ["certificate", "certificate's key"]


def test_a_host_that_cannot_be_listened_on_is_told(tmp_path: Path) -> None:
    for host in ("no-such-host.invalid", "192.0.2.1"):
        assert host in problems(tmp_path, "--host", host)["host"]


def test_names_do_not_reach_the_terminal_as_they_are(used: Server) -> None:
    used.mint("\x1b[2J\u202etxt")
    for flags in ((), ("--json",)):
        said = run_command("doctor", "--data", used.data, *flags, forks=bool(flags)).stdout
        assert "u202etxt" in said
        assert "\x1b" not in said
        assert "\u202e" not in said


def test_a_damaged_file_of_keys_is_told(tmp_path: Path) -> None:
    (tmp_path / "api_keys.json").write_text("{", encoding="utf-8")
    (tmp_path / "api_keys.json").chmod(0o600)
    assert "api_keys.json" in problems(tmp_path)["files"]
