"""Connections: when a client has left, what it may leave unread, and how many it may have."""

from __future__ import annotations

import contextlib
import random
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, cast

import pytest

from services.server import channel, patience
from services.server.connections import Connection, ConnectionLimits, Connections
from services.server.dispatcher import FairQueue
from services.server.loop import Loop
from services.server.waitress_server import make_server
from services.settings import Settings
from tests.server.test_safe import make_certificate
from tests.support.attacking import Crowd, is_open, memory_of, port_of, running, until
from tests.support.serving import Server

HEALTHZ = b"GET /healthz HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Slow:
    """An application that answers after so many seconds, unless it sees that its client has left."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds
        self.left: list[float] = []
        self.began = threading.Event()
        self.addresses: list[str] = []

    def __call__(self, environ: Any, start: Any) -> list[bytes]:
        began = time.monotonic()
        self.addresses.append(environ["REMOTE_ADDR"])
        self.began.set()
        while time.monotonic() - began < self.seconds:
            if environ["waitress.client_disconnected"]():
                self.left.append(time.monotonic() - began)
                break
            time.sleep(0.02)
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "5")])
        return [b"done\n"]


def read_all(connection: Any) -> bytes:
    received = b""
    while part := connection.recv(65536):
        received += part
    return received


def read_answer(connection: Any) -> bytes:
    """What comes until the answer is whole."""
    received = b""
    while not received.endswith(b"done\n"):
        part = connection.recv(1000)
        assert part, received
        received += part
    return received


def connect(port: int, data: bytes = HEALTHZ, **options: Any) -> socket.socket:
    connection = socket.create_connection(("127.0.0.1", port), timeout=10, **options)
    connection.sendall(data)
    return connection


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"), "one")


def encrypted(port: int, source: str = "127.0.0.1") -> ssl.SSLSocket:
    """A connection over TLS. One that is cut off without a goodbye is an error to it."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    plain = socket.create_connection(("127.0.0.1", port), timeout=10, source_address=(source, 0))
    return context.wrap_socket(plain, suppress_ragged_eofs=False)


def test_a_request_and_then_a_half_close_is_answered(server: Server) -> None:
    """As of `printf … | nc -N`: the client says that it asks no more, and reads."""
    for path in ("/healthz", "/auth/me"):
        with connect(port_of(server), b"") as connection:
            head = f"GET {path} HTTP/1.1\r\nHost: localhost\r\nX-Api-Key: {server.key}\r\n\r\n"
            connection.sendall(head.encode())
            connection.shutdown(socket.SHUT_WR)
            # And the server ends its side, too.
            assert read_all(connection).startswith(b"HTTP/1.1 200 OK")


def test_a_half_closed_client_gets_an_answer_that_takes_long() -> None:
    app = Slow(1.5)
    with running(app) as port, connect(port) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).endswith(b"done\n")
    assert app.left == []


def test_over_tls_too_and_the_address_is_the_clients_own(certificate: tuple[Path, Path]) -> None:
    app = Slow(0.7)
    with running(app, cert=certificate[0], cert_key=certificate[1]) as port:
        with encrypted(port, "127.0.0.5") as connection:
            connection.sendall(HEALTHZ)
            # FIN without a goodbye, as of a client whose process ends its side; what comes is read.
            socket.socket.shutdown(connection, socket.SHUT_WR)
            assert read_all(connection).endswith(b"done\n")
        assert app.left == []
        app.seconds = 10
        app.began.clear()
        with encrypted(port) as connection:
            connection.sendall(HEALTHZ)
            app.began.wait(5)
            time.sleep(channel.HALF_CLOSE_SECONDS + 0.2)
        until(lambda: len(app.left) == 1, 2)
    assert app.addresses == ["127.0.0.5", "127.0.0.1"]


def test_a_client_that_leaves_while_it_is_answered_is_noticed() -> None:
    app = Slow(10)
    with running(app) as port:
        connection = connect(port)
        app.began.wait(5)
        time.sleep(channel.HALF_CLOSE_SECONDS + 0.2)
        connection.close()
        until(lambda: len(app.left) == 1, 2)


def test_a_client_that_leaves_at_once_is_asked_whether_it_is_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its FIN looks like a half-close; who is still there reads on, past the interim response."""
    monkeypatch.setattr(channel, "_PROBE_EVERY", 0.5)
    app = Slow(4)
    with running(app) as port, connect(port) as waiting:
        waiting.shutdown(socket.SHUT_WR)
        connect(port).close()
        until(lambda: len(app.left) == 1, 3.5)
        received = read_all(waiting)
        assert received.startswith(channel._PROBE)
        assert received.endswith(b"done\n")
    assert len(app.left) == 1


class Endless:
    """An application that streams without end; `closed` is set where its stream is closed."""

    def __init__(self, part: bytes, pause: float = 0) -> None:
        self.part, self.pause = part, pause
        self.closed = threading.Event()
        self.n_written = 0

    def __call__(self, _environ: Any, start: Any) -> Iterator[bytes]:
        start("200 OK", [("Content-Type", "text/plain")])
        return self._parts()

    def _parts(self) -> Iterator[bytes]:
        try:
            while True:
                yield self.part
                self.n_written += len(self.part)
                time.sleep(self.pause)
        finally:
            self.closed.set()


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(patience, "SECONDS", 2.0)
    monkeypatch.setattr(patience, "MIN_RATE", 2048)


def small_reader(port: int) -> socket.socket:
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.settimeout(10)
    made.connect(("127.0.0.1", port))
    made.sendall(HEALTHZ)
    return made


@pytest.mark.usefixtures("impatient")
def test_a_stream_that_nobody_reads_ends_and_frees_its_thread() -> None:
    app = Endless(b"x" * 1000)
    with running(app) as port, small_reader(port) as connection:
        assert app.closed.wait(6)
        assert app.n_written < channel.MAX_BUFFERED + 2**20
        until(lambda: not is_open(connection), 2)


@pytest.mark.usefixtures("impatient")
def test_a_reader_of_a_byte_a_second_is_cut_off() -> None:
    def large(_environ: Any, start: Any) -> list[bytes]:
        start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(2**22))])
        return [b"x" * 2**22]

    with running(large) as port, small_reader(port) as connection:
        began = time.monotonic()
        # What has come can be read after that, too.
        while is_open(connection):
            assert time.monotonic() - began < 8
            connection.recv(1)
            time.sleep(0.5)


@pytest.mark.usefixtures("impatient")
def test_slow_but_honest_readers_are_not_cut_off() -> None:
    """One whose network is slow, and one whose model is."""
    app, tokens = Endless(b"x" * 1000), Endless(b"y", pause=0.5)
    with running(app) as port, running(tokens) as tokens_port:
        slow, waiting = small_reader(port), small_reader(tokens_port)
        began, n_read = time.monotonic(), 0
        while time.monotonic() - began < 6:
            n_read += len(slow.recv(2000))
            time.sleep(0.2)
        assert n_read > 20_000
        assert not app.closed.is_set()
        assert not tokens.closed.is_set()
        assert waiting.recv(100)
        slow.close()
        waiting.close()


def test_one_address_has_so_many_connections_and_the_next_takes_the_oldest_ones_place() -> None:
    with running(Slow(0), connections=50, address_connections=5) as port:
        other = socket.create_connection(("127.0.0.1", port), source_address=("127.0.0.2", 0))
        idle = []
        for _ in range(8):
            idle.append(socket.create_connection(("127.0.0.1", port)))
            # Taken in this order: two at once may come the other way round on a busy machine.
            other.sendall(HEALTHZ)
            assert read_answer(other)
        with connect(port) as connection:
            assert read_answer(connection)
            # Six replace those that came before.
            for dropped in idle[:4]:
                dropped.settimeout(5)
                with dropped, pytest.raises(ConnectionResetError):
                    dropped.recv(1)
            for kept in (*idle[4:], other):
                with kept:
                    kept.sendall(HEALTHZ)
                    kept.settimeout(5)
                    assert read_answer(kept)


def test_an_answer_that_was_received_can_be_read_though_its_connection_was_dropped() -> None:
    with running(Slow(0), connections=50, address_connections=1) as port, connect(port) as answered:
        time.sleep(0.2)
        with connect(port) as another:
            assert read_answer(another)
            time.sleep(0.1)
            assert read_all(answered).endswith(b"done\n")


def test_when_all_are_taken_the_address_that_has_most_makes_room() -> None:
    with running(Slow(0), connections=60, address_connections=0) as port:
        honest = connect(port, source_address=("127.0.0.2", 0))
        assert read_answer(honest)
        many = [socket.create_connection(("127.0.0.1", port)) for _ in range(100)]
        honest.sendall(HEALTHZ)
        assert read_answer(honest)
        with connect(port, source_address=("127.0.0.3", 0)) as newcomer:
            assert read_answer(newcomer)
        for connection in (honest, *many):
            connection.close()


def test_an_address_with_too_many_open_requests_is_told_so() -> None:
    app = Slow(1)
    with running(app, address_requests=2) as port:
        first = [connect(port) for _ in range(2)]
        app.began.wait(5)
        time.sleep(0.1)
        with connect(port) as third:
            assert b" 429 " in third.recv(1000)
        with connect(port, source_address=("127.0.0.2", 0)) as other:
            assert read_answer(other)
        for connection in first:
            assert read_answer(connection)
            connection.close()


def test_handshakes_are_counted_before_they_are_made(certificate: tuple[Path, Path]) -> None:
    with running(Slow(0), cert=certificate[0], cert_key=certificate[1], address_handshakes=5) as port:
        served = encrypted(port)
        half_open = [socket.create_connection(("127.0.0.1", port)) for _ in range(20)]
        # The last ones are there yet, the first ones are not.
        half_open[0].settimeout(5)
        with pytest.raises(ConnectionResetError):
            half_open[0].recv(1)
        with encrypted(port) as another:
            another.sendall(HEALTHZ)
            assert read_answer(another)
        served.sendall(HEALTHZ)
        assert read_answer(served)
        for connection in (served, *half_open):
            connection.close()


def test_a_server_without_free_files_takes_connections_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """accept(2) fails again and again while a connection waits: it is not tried again and again."""
    n_tried = 0
    is_full = True

    class Full(socket.socket):
        def accept(self) -> tuple[socket.socket, Any]:
            nonlocal n_tried
            n_tried += 1
            if is_full:
                raise OSError(24, "Too many open files")
            return super().accept()

    from services.server import waitress_server

    def sockets(host: str, _port: int) -> list[socket.socket]:
        made = Full()
        made.bind((host, 0))
        return [made]

    monkeypatch.setattr(waitress_server, "listening_sockets", sockets)
    with running(Slow(0)) as port, connect(port) as connection:
        time.sleep(1.5)
        assert n_tried < 5
        is_full = False
        assert read_answer(connection)


def test_with_few_files_sessions_are_written_whoever_connects(tmp_path: Path) -> None:
    server = Server(tmp_path / "data")
    server.prefix = ["prlimit", "--nofile=90:90"]
    server.start()
    crowd = Crowd(server)
    try:
        for _ in range(200):
            crowd.connect(b"GET / HTT")
        for number in range(3):
            assert server.ask("Count to 3.", session_id=number)["result"] == "1, 2, 3."
        assert "Too many open files" not in server.log()
    finally:
        crowd.close()
        server.kill()


class Waiting:
    def __init__(self, source: str, number: int) -> None:
        self.source, self.number = source, number


def test_requests_wait_behind_those_of_their_own_address_only() -> None:
    queue = FairQueue()
    for number in range(3):
        queue.append(Waiting("many", number))
    queue.append(Waiting("one", 0))
    assert len(queue) == 4
    taken = [queue.popleft() for _ in range(4)]
    assert [(each.source, each.number) for each in taken] == [("many", 0), ("one", 0), ("many", 1), ("many", 2)]
    assert not queue


def test_what_a_client_of_tls_is_sent_ends_with_a_goodbye(certificate: tuple[Path, Path]) -> None:
    """So that it knows that nothing was cut off."""
    with running(Slow(0), cert=certificate[0], cert_key=certificate[1]) as port, encrypted(port) as connection:
        connection.sendall(HEALTHZ.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert read_all(connection).endswith(b"done\n")


def test_a_crowd_of_slow_requests_keeps_nobody_out(serve: Callable[..., Server]) -> None:
    server = serve("--connections", "40", "--address-connections", "30")
    crowd = Crowd(server)
    for _ in range(100):
        crowd.connect(b"GET /auth HTT")
    began = time.monotonic()
    assert server.get("/auth").status_code == 200
    assert time.monotonic() - began < 10
    assert crowd.count_open() <= 30
    crowd.close()


def test_a_slow_request_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """As does a connection on which nothing is asked; one that is answered meanwhile does not."""
    monkeypatch.setattr(channel, "ARRIVE_SECONDS", 1.0)
    monkeypatch.setattr(channel, "IDLE_SECONDS", 1.5)
    app = Slow(3)
    with running(app) as port, connect(port, b"GET / HTT") as slow, connect(port, b"") as silent, connect(port) as busy:
        for connection in (slow, silent):
            with contextlib.suppress(ConnectionResetError):
                assert connection.recv(1) == b""
        assert app.began.is_set()
        assert read_answer(busy)
        # And now it has nothing to ask.
        with contextlib.suppress(ConnectionResetError):
            assert busy.recv(1) == b""


def test_a_full_trigger_holds_nobody_up() -> None:
    """Each answer wakes the server's thread through a pipe, which that thread empties: it may be full."""
    server = make_server(Slow(0), Settings(port=0, threads=2))
    (listener,) = server._listeners

    def pull() -> None:
        for _ in range(70_000):
            listener.pull_trigger()

    pulling = threading.Thread(target=pull, daemon=True)
    pulling.start()
    pulling.join(timeout=10)
    assert not pulling.is_alive()
    serving = threading.Thread(target=server.run, daemon=True)
    serving.start()
    with connect(server.port) as connection:
        assert read_answer(connection)
    server.close()
    serving.join(timeout=5)


def large(_environ: Any, start: Any) -> list[bytes]:
    start("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "2000000")])
    return [b"x" * 2_000_000]


def test_requests_sent_at_once_are_answered_one_by_one_and_hold_no_thread() -> None:
    with running(large, threads=2) as port:
        many = [small_reader(port) for _ in range(4)]
        for each in many:
            each.sendall(HEALTHZ * 100)
        time.sleep(0.3)
        with connect(port) as honest:
            assert honest.recv(15) == b"HTTP/1.1 200 OK"
        for each in many:
            each.close()
    with running(Slow(0), threads=2) as port, connect(port, HEALTHZ * 1500) as connection:
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).count(b"done\n") == 1500


def test_urgent_data_wakes_nobody(server: Server) -> None:
    """A byte that is sent out of band, which nobody reads, was told of again and again, and each time logged."""

    def ticks() -> int:
        fields = Path(f"/proc/{server.process.pid}/stat").read_text().split()
        return int(fields[13]) + int(fields[14])

    with connect(port_of(server)) as connection:
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
        connection.send(b"G", socket.MSG_OOB)
        time.sleep(0.2)
        before, n_logged = ticks(), len(server.log())
        time.sleep(1)
        # A tick is a hundredth of a second.
        assert ticks() - before < 30
        assert len(server.log()) == n_logged


def test_the_next_request_does_not_keep_the_server_busy_while_an_answer_is_being_sent(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The server's thread polled for an output that the worker was sending, again and again, and held it up."""
    send, handle_round, rounds = channel.Channel.send, Loop._round, []

    def slow_send(self: channel.Channel, data: bytes, do_close: bool = True) -> int:
        sent = send(self, data, do_close)
        time.sleep(0.3)
        return sent

    def counted_round(self: Loop) -> None:
        rounds.append(time.monotonic())
        handle_round(self)

    monkeypatch.setattr(channel.Channel, "send", slow_send)
    monkeypatch.setattr(Loop, "_round", counted_round)
    with running(Slow(0)) as port, connect(port) as connection:
        assert read_answer(connection)
        connection.sendall(HEALTHZ)
        assert read_answer(connection)
    assert len(rounds) < 1000


def test_an_answer_is_sent_whole_after_a_half_close() -> None:
    """However it meets the worker that has just written it."""
    with running(large) as port:
        for _ in range(100):
            with connect(port) as connection:
                time.sleep(random.uniform(0, 0.008))
                connection.shutdown(socket.SHUT_WR)
                assert len(read_all(connection)) > 2_000_000


def test_all_that_was_asked_before_a_half_close_is_answered() -> None:
    with running(Slow(0.7)) as port, connect(port, HEALTHZ * 3) as connection:
        time.sleep(0.1)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).count(b"done\n") == 3


def test_a_half_close_is_one_however_long_the_server_was_held_up(monkeypatch: pytest.MonkeyPatch) -> None:
    read = channel.Channel.handle_read

    def slowly(self: channel.Channel) -> None:
        read(self)
        time.sleep(channel.HALF_CLOSE_SECONDS + 0.3)

    monkeypatch.setattr(channel.Channel, "handle_read", slowly)
    with running(Slow(1.5)) as port, connect(port) as connection:
        time.sleep(0.1)
        connection.shutdown(socket.SHUT_WR)
        assert read_all(connection).endswith(b"done\n")


def test_a_connection_that_fails_ends_alone_and_is_logged_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    check = channel.Channel.check

    def failing(self: channel.Channel, now: float) -> None:
        if self.source == "127.0.0.2":
            raise RuntimeError
        check(self, now)

    monkeypatch.setattr(channel.Channel, "check", failing)
    with running(Slow(0)) as port, connect(port, b"") as kept:
        with connect(port, b"", source_address=("127.0.0.2", 0)) as failed:
            assert failed.recv(1) == b""
        time.sleep(1.2)
        kept.sendall(HEALTHZ)
        assert read_answer(kept)
    assert len([record for record in caplog.records if "connection fails" in record.message]) == 1


class Busy:
    """A connection that is being answered, and counts how often it is asked about."""

    is_handshaking, is_open_request = False, True

    def __init__(self, source: str) -> None:
        self.source = source
        self.n_asked = 0

    def measure(self, _now: float) -> None:
        self.n_asked += 1

    def spent(self, _now: float) -> None:
        pass


def test_those_that_wait_for_room_do_not_have_all_looked_at_for_each() -> None:
    connections = Connections(ConnectionLimits(20, 0, 0, 0))
    busy = [Busy(f"10.0.0.{number}") for number in range(20)]
    for each in busy:
        connections.add(cast(Connection, each))
    assert not any(connections.make_room("10.0.1.1") for _ in range(500))
    assert sum(each.n_asked for each in busy) < 10 * len(busy)


def test_the_document_is_kept_once_for_all_who_do_not_read_it(server: Server) -> None:
    assert server.get("/openapi.json").status_code == 200
    before, crowd = memory_of(server), Crowd(server)
    for _ in range(300):
        crowd.connect(b"GET /openapi.json HTTP/1.1\r\nHost: localhost\r\n\r\n")
    time.sleep(0.5)
    assert server.get("/healthz").status_code == 200
    assert memory_of(server) - before < 25
    crowd.close()
