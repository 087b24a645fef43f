"""The sockets that the server listens on, and the URLs by which it is then reached."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import os
import socket
from collections.abc import Sequence

# A port that is free on one address may be taken on the next.
_TRIES = 20
# Addresses reserved for documentation (RFC 5737, RFC 3849): connecting a datagram socket to one sends nothing, and gives
# the socket the address by which this machine reaches others.
_ELSEWHERE = {socket.AF_INET: "192.0.2.254", socket.AF_INET6: "2001:db8::fe"}


def listening_sockets(host: str, port: int) -> list[socket.socket]:
    """Listening sockets, one for each address of `host`, all on one port; "::" takes IPv4 too, and `port` 0 any free port.

    Raises OSError, whose strerror says which setting to change.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, proto=socket.IPPROTO_TCP, flags=socket.AI_PASSIVE)
    except (OSError, UnicodeError) as error:
        what = f"Invalid host: {host} is neither an address of this machine nor a name of one; --host takes either"
        raise OSError(0, what) from error
    addresses = list(dict.fromkeys((family, str(address[0])) for family, _, _, _, address in found))
    if host == "::":
        addresses.append((socket.AF_INET, "0.0.0.0"))  # noqa: S104
    for tries_left in reversed(range(_TRIES)):
        with contextlib.ExitStack() as bound:
            try:
                sockets = _bind(addresses, port, bound)
            except OSError as error:
                if port == 0 and tries_left and error.errno == errno.EADDRINUSE:
                    continue
                raise _explained(error, host, port) from error
            bound.pop_all()
            return sockets
    raise AssertionError


def check_free(host: str, port: int, flag: str = "") -> None:
    """Raise as `listening_sockets` where the address cannot be listened on; `flag` names the setting if it is another."""
    try:
        for tried in listening_sockets(host, port):
            tried.close()
    except OSError as error:
        if not flag:
            raise
        what = f"{flag}: port {port} of {host} cannot be listened on: {os.strerror(error.errno or 0)}"
        raise OSError(error.errno, what) from error


def urls(scheme: str, host: str, port: int) -> list[str]:
    """The URLs by which a browser reaches the server: on this machine first, then in its network."""
    families = {"0.0.0.0": (socket.AF_INET,), "::": (socket.AF_INET, socket.AF_INET6)}.get(host)  # noqa: S104
    if families is None:
        return [_url(scheme, host, port)]
    others = [own for family in families if (own := _own_address(family))]
    return [_url(scheme, name, port) for name in ("127.0.0.1", *others)]


def _bind(addresses: Sequence[tuple[int, str]], port: int, bound: contextlib.ExitStack) -> list[socket.socket]:
    sockets: list[socket.socket] = []
    missing = None
    for family, address in addresses:
        try:
            made = bound.enter_context(contextlib.closing(socket.socket(family, socket.SOCK_STREAM)))
            made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            if family == socket.AF_INET6:
                # IPv4 has its own socket, so that a client's address has one form only.
                made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            made.bind((address, port))
            # Until one of them listens, two sockets may be bound to the same port.
            made.listen()
        except OSError as error:
            # localhost may have an IPv6 address even if the machine has none.
            if error.errno not in (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT):
                raise
            missing = error
            continue
        port = port or int(made.getsockname()[1])
        sockets.append(made)
    if missing and not sockets:
        raise missing
    return sockets


def _explained(error: OSError, host: str, port: int) -> OSError:
    reasons = {
        errno.EADDRINUSE: f"another program has port {port} of {host}. Give another one with --port; --port 0 takes any",
        errno.EACCES: f"port {port} of {host} is for the system's administrator only. Give one from 1024 on with --port",
        errno.EADDRNOTAVAIL: f"{host} is no address of this machine. Give one with --host; --host 0.0.0.0 takes all",
        errno.EAFNOSUPPORT: f"this machine has no addresses like {host}. Give another one with --host",
    }
    return OSError(error.errno, reasons.get(error.errno or 0, f"{error.strerror} (see --host and --port)"))


def _url(scheme: str, host: str, port: int) -> str:
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


def _own_address(family: socket.AddressFamily) -> str | None:
    """This machine's address in its network; None if it has none that others could use."""
    with contextlib.suppress(OSError), socket.socket(family, socket.SOCK_DGRAM) as asked:
        asked.connect((_ELSEWHERE[family], 9))
        own = str(asked.getsockname()[0])
        address = ipaddress.ip_address(own)
        # A link-local address needs the name of an interface, which no URL has.
        return None if address.is_link_local or address.is_loopback else own
    return None
