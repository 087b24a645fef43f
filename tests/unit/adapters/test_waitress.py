"""The undocumented members of waitress that services/server/waitress_internals.py relies on."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
from collections import deque
from collections.abc import Iterator
from typing import Any

import pytest
from waitress.adjustments import Adjustments
from waitress.buffers import ReadOnlyFileBasedBuffer
from waitress.channel import HTTPChannel
from waitress.parser import HTTPRequestParser
from waitress.receiver import ChunkedReceiver, FixedStreamReceiver
from waitress.server import TcpWSGIServer
from waitress.task import ErrorTask, ThreadedTaskDispatcher
from waitress.utilities import Error

from services.server import waitress_internals
from services.server.waitress_internals import (
    WaitressChannel,
    WaitressDispatcher,
    WaitressListener,
    WaitressTask,
    close_sockets,
)
from tests.unit.adapters.signatures import check_signatures


class Owner:
    """The server of a channel, which waitress calls."""

    def __init__(self) -> None:
        self.adj = Adjustments()
        self.active_channels: dict[int, Any] = {}
        self.n_tasks = self.n_pulled = 0

    def add_task(self, _channel: Any) -> None:
        self.n_tasks += 1

    def pull_trigger(self) -> None:
        self.n_pulled += 1


@pytest.fixture
def pair() -> Iterator[tuple[WaitressChannel, socket.socket]]:
    """A channel, and its client's socket."""
    ours, theirs = socket.socketpair()
    theirs.settimeout(5)
    channel = WaitressChannel(Owner(), ours, ("127.0.0.1", 1), Adjustments(), map={})
    with contextlib.closing(channel), theirs:
        yield channel, theirs


def request(data: bytes) -> HTTPRequestParser:
    parser = HTTPRequestParser(Adjustments())
    parser.received(data)
    return parser


def check_attributes(of: object, adapter: type) -> None:
    for name in adapter.__annotations__:
        assert hasattr(of, name), f"{type(of).__mro__[1]} has no {name} any more"


def test_signatures() -> None:
    channel = {
        "__init__": "(self, server, sock, addr, adj, map=None)",
        "_flush_exception": "(self, flush, do_close=True)",
        "_flush_some": "(self, do_close=True)",
        "add_channel": "(self, map=None)",
        "del_channel": "(self, map=None)",
        "send": "(self, data, do_close=True)",
        "send_continue": "(self)",
        "service": "(self)",
        "write_soon": "(self, data)",
        **dict.fromkeys(("readable", "writable", "handle_read", "handle_write", "handle_close"), "(self)"),
    }
    server = {
        "__init__": "(self, application, map=None, _start=True, _sock=None, dispatcher=None, adj=None, sockinfo=None, "
        "bind_socket=True, **kw)",
        "add_task": "(self, task)",
        "maintenance": "(self, now)",
        "pull_trigger": "(self)",
        "readable": "(self)",
        "set_socket_options": "(self, conn)",
    }
    check_signatures(HTTPChannel, channel)
    check_signatures(TcpWSGIServer, server)
    check_signatures(
        HTTPRequestParser, {"received": "(self, data)", "parse_header": "(self, header_plus)", "close": "(self)"}
    )
    check_signatures(ErrorTask, {"execute": "(self)", "write": "(self, data)", "set_close_on_finish": "(self)"})
    check_signatures(
        ThreadedTaskDispatcher,
        {"set_thread_count": "(self, count)", "shutdown": "(self, cancel_pending=True, timeout=5)"},
    )
    assert {"parser_class", "error_task_class"} <= vars(HTTPChannel).keys()
    assert "channel_class" in dir(TcpWSGIServer)


def test_a_channel_has_the_attributes_that_are_used(pair: tuple[WaitressChannel, socket.socket]) -> None:
    channel, _ = pair
    check_attributes(channel, WaitressChannel)
    assert (channel.requests, channel.total_outbufs_len, channel.connected) == ([], 0, True)
    assert (channel.will_close, channel.close_when_flushed) == (False, False)
    assert isinstance(channel.outbuf_lock, threading.Condition)
    assert channel.server.active_channels == {channel.socket.fileno(): channel}


def test_a_channel_counts_its_output_and_flushes_it(pair: tuple[WaitressChannel, socket.socket]) -> None:
    channel, client = pair
    blocked = threading.Event()
    blocked.set()
    channel.send = lambda data, do_close=True: 0 if blocked.is_set() else channel.socket.send(data)  # type: ignore[method-assign, unused-ignore]
    assert channel.write_soon(b"one") == 3
    assert channel.write_shared(b"two") == 3
    assert channel.total_outbufs_len == 6
    assert any(isinstance(each, ReadOnlyFileBasedBuffer) for each in channel.outbufs)
    assert channel.server.n_pulled == 2
    blocked.clear()
    channel.flush()
    assert channel.total_outbufs_len == 0
    assert client.recv(100) == b"onetwo"


def test_flushing_to_a_socket_that_fails_asks_for_the_channel_to_be_closed(
    pair: tuple[WaitressChannel, socket.socket],
) -> None:
    channel, _ = pair

    def fails(_data: bytes, do_close: bool = True) -> int:
        raise OSError(5, "no")

    channel.outbufs[0].append(b"x")
    channel.total_outbufs_len = 1
    channel.send = fails  # type: ignore[method-assign, unused-ignore]
    channel.flush()
    assert channel.will_close


def test_a_channel_takes_its_request_out_last_and_closes_after_an_error(
    pair: tuple[WaitressChannel, socket.socket],
) -> None:
    channel, client = pair
    refused = request(b"GET / HTTP/1.1\r\n\r\n")
    refused.error = Error("wrong")
    refused.error.code, refused.error.reason = 400, "Bad Request"
    channel.requests = [refused]
    channel.service()
    assert channel.requests == []
    assert channel.close_when_flushed
    channel.handle_write()
    assert client.recv(1000).startswith(b"HTTP/1.1 400")
    assert not channel.connected


def test_a_parser_has_the_attributes_that_are_used() -> None:
    parser = request(b"GET /a HTTP/1.1\r\nX-One: 1\r\n")
    check_attributes(parser, waitress_internals.WaitressParser)
    assert (parser.header_plus[:6], parser.headers_finished, parser.completed) == (b"GET /a", False, False)
    parser.received(b"\r\n")
    assert (parser.headers, parser.headers_finished, parser.completed) == ({"X_ONE": "1"}, True, True)
    assert (parser.version, parser.command, parser.error, parser.empty) == ("1.1", "GET", None, False)
    assert request(b"\r\n\r\n").empty


def test_a_body_is_counted_and_what_stands_around_chunks_is_kept() -> None:
    fixed = request(b"POST / HTTP/1.1\r\nContent-Length: 9\r\nExpect: 100-continue\r\n\r\n")
    assert isinstance(fixed.body_rcv, FixedStreamReceiver)
    assert (fixed.content_length, fixed.expect_continue, len(fixed.body_rcv)) == (9, True, 0)
    fixed.received(b"1234")
    assert (fixed.body_bytes_received, len(fixed.body_rcv)) == (4, 4)
    chunked = request(b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert isinstance(chunked.body_rcv, ChunkedReceiver)
    chunked.received(b"3\r\nabc\r\n1;x=")
    assert (len(chunked.body_rcv), chunked.body_rcv.control_line) == (3, b"1;x=")
    chunked.received(b"y\r\nd\r\n0\r\nTrailer: ")
    assert (len(chunked.body_rcv), chunked.body_rcv.trailer, chunked.completed) == (4, b"Trailer: ", False)


def test_an_error_task_has_the_attributes_that_are_used(pair: tuple[WaitressChannel, socket.socket]) -> None:
    task = ErrorTask(pair[0], request(b"GET / HTTP/1.1\r\n\r\n"))
    check_attributes(task, waitress_internals.WaitressErrorTask)
    task.set_close_on_finish()
    assert task.close_on_finish
    assert task.response_headers == [("Connection", "close")]


def test_a_task_writes_the_header_with_the_first_piece(pair: tuple[WaitressChannel, socket.socket]) -> None:
    channel, _ = pair
    joined: list[bytes] = []

    @contextlib.contextmanager
    def joining() -> Iterator[None]:
        begun = len(written)
        yield
        joined.append(b"".join(written[begun:]))

    written: list[bytes] = []
    channel.joined = joining
    channel.write_soon = written.append  # type: ignore[method-assign, unused-ignore]
    task = WaitressTask(channel, request(b"GET / HTTP/1.1\r\n\r\n"))
    check_attributes(task, WaitressTask)
    task.complete, task.status, task.content_length = True, "200 OK", 6
    task.start()
    task.write(b"abc")
    task.write(b"def")
    assert [piece[:12] for piece in joined] == [b"HTTP/1.1 200"]
    assert joined[0].endswith(b"\r\n\r\nabc")
    assert written[-1] == b"def"


def test_the_dispatcher_takes_from_the_queue_that_it_is_given() -> None:
    class Last(deque[Any]):
        """Gives the newest one first."""

        def popleft(self) -> Any:
            return self.pop()

    class Task:
        def __init__(self, number: int) -> None:
            self.number = number

        def service(self) -> None:
            done.append(self.number)
            if len(done) == 3:
                over.set()

    done: list[int] = []
    over = threading.Event()
    dispatcher = WaitressDispatcher(Last())
    for number in range(3):
        dispatcher.add_task(Task(number))
    assert not dispatcher.threads
    dispatcher.set_thread_count(1)
    assert over.wait(5)
    dispatcher.shutdown()
    assert done == [2, 1, 0]


def test_a_listener_listens_and_its_full_pipe_holds_nobody_up() -> None:
    sockets: dict[int, Any] = {}
    bound = socket.create_server(("127.0.0.1", 0))
    listener = WaitressListener(lambda _environ, _start: [], bound, sockets, WaitressDispatcher(deque()), Adjustments())
    check_attributes(listener, WaitressListener)
    assert {id(each) for each in sockets.values()} == {id(listener), id(listener.trigger)}
    assert int(listener.effective_port) == bound.getsockname()[1]
    assert all(
        hasattr(each, name) for each in sockets.values() for name in ("readable", "writable", "handle_read", "socket")
    )
    with contextlib.suppress(BlockingIOError):
        while True:
            os.write(listener.trigger.trigger, b"x" * 2**16)
    listener.pull_trigger()
    close_sockets(sockets)
    assert not sockets
    assert bound.fileno() == -1


def test_adjustments_take_the_settings_and_keep_socket_options() -> None:
    names = "threads ident backlog recv_bytes inbuf_overflow outbuf_high_watermark max_request_header_size"
    settings = dict.fromkeys((*names.split(), "max_request_body_size"), 7)
    adjustments = Adjustments(**settings, url_scheme="https")
    assert all(int(getattr(adjustments, name)) == 7 for name in settings if name != "ident")
    assert all(len(option) == 3 for option in adjustments.socket_options)
