"""The undocumented members of huggingface_hub, httpx2 and httpcore2 that services/models/hub_internals.py relies on."""

from __future__ import annotations

import http.server
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpcore2
import httpx2
import pytest
from huggingface_hub import close_session, constants, file_download, get_session, set_client_factory
from huggingface_hub.utils import _http

from services.models import hub_hosts, hub_internals
from services.models.hub_internals import hub_headers, resume_download, use_client
from tests.unit.adapters.signatures import check_signatures

DATA = bytes(range(256)) * 4


class Handler(http.server.BaseHTTPRequestHandler):
    """Serves DATA from the first byte that is asked for."""

    seen: list[dict[str, str]] = []

    def do_GET(self) -> None:
        self.seen.append(dict(self.headers))
        start = int(self.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")[0])
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str(len(DATA) - start))
        self.end_headers()
        self.wfile.write(DATA[start:])

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def url() -> Iterator[str]:
    Handler.seen.clear()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/file"
    server.shutdown()
    server.server_close()


@pytest.fixture(autouse=True)
def _own_client() -> Iterator[None]:
    yield
    set_client_factory(_http.default_client_factory)
    close_session()
    # The next test that allows hosts makes a client of its own.
    hub_hosts._allowed = None


class Counting(httpcore2.SyncBackend):
    def __init__(self) -> None:
        self.hosts: list[str] = []

    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        self.hosts.append(host)
        return super().connect_tcp(host, port, *arguments, **named)


def test_signatures() -> None:
    check_signatures(_http, {"hf_request_event_hook": "(request)"})
    check_signatures(
        file_download,
        {
            "http_get": "(url, temp_file, *, resume_size=0, headers=None, expected_size=None, displayed_filename=None, "
            "tqdm_class=None, _nb_retries=5, _tqdm_bar=None)"
        },
    )
    check_signatures(
        httpcore2.SyncBackend, {"connect_tcp": "(self, host, port, timeout=None, local_address=None, socket_options=None)"}
    )
    assert hub_headers()["user-agent"]


@pytest.mark.parametrize("proxy", [None, "http://127.0.0.1:9"])
def test_a_client_keeps_its_network_backend_where_it_is_replaced(
    proxy: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("NO_PROXY", "")
    monkeypatch.setenv("HTTPS_PROXY", proxy or "")
    client = httpx2.Client()
    transports = [client._transport, *(each for each in client._mounts.values() if each)]
    assert len(transports) == (2 if proxy else 1)
    for transport in transports:
        assert isinstance(transport, httpx2.HTTPTransport)
        assert isinstance(transport._pool, httpcore2.ConnectionPool)
        assert "_network_backend" in vars(transport._pool)
    client.close()


def test_requests_are_checked_connected_by_the_backend_and_marked_as_the_librarys(url: str) -> None:
    checked: list[str] = []
    backend = Counting()
    use_client(lambda request: checked.append(request.url.path), backend, timeout=5)
    assert get_session().get(url).content == DATA
    assert checked == ["/file"]
    assert backend.hosts == ["127.0.0.1"]
    assert "X-Amzn-Trace-Id".lower() in {name.lower() for name in Handler.seen[0]}


def test_a_check_that_raises_stops_the_request(url: str) -> None:
    def refuse(_request: httpx2.Request) -> None:
        raise PermissionError

    use_client(refuse, Counting(), timeout=5)
    with pytest.raises(PermissionError):
        get_session().get(url)
    assert not Handler.seen


def test_a_download_goes_on_in_a_file_in_small_pieces(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "DOWNLOAD_CHUNK_SIZE", constants.DOWNLOAD_CHUNK_SIZE)
    sizes: list[int | None] = []
    read = httpx2.Response.iter_bytes

    def iter_bytes(self: httpx2.Response, chunk_size: int | None = None) -> Iterator[bytes]:
        sizes.append(chunk_size)
        return read(self, chunk_size)

    monkeypatch.setattr(httpx2.Response, "iter_bytes", iter_bytes)
    path = tmp_path / "part"
    path.write_bytes(DATA[:100])
    resume_download(url, path, 100, len(DATA))
    assert path.read_bytes() == DATA
    assert sizes == [hub_internals.PIECE]
    path.write_bytes(DATA[:100])
    with pytest.raises(OSError, match="Consistency check failed") as caught:
        resume_download(url, path, 100, len(DATA) + 1)
    assert caught.value.errno is None
