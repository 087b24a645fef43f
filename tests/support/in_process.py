"""The application in the test's own process, over a fake backend, asked with `requests` as a server is."""

from __future__ import annotations

import gzip
import io
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes, urlsplit

import requests
from flask import Flask
from requests.adapters import BaseAdapter
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers
from werkzeug.test import run_wsgi_app

from services.api.application import Application
from services.app import build_application, create_app
from services.backend.protocols import Backend
from services.settings import Settings
from services.stores import file_stores
from tests.support.fake_backend import FakeBackend
from tests.support.serving import ROOT, Api

# Nobody listens there: the requests stay in this process.
URL = "http://localhost:5000"


def _build(settings: Settings, backend: Backend) -> tuple[Flask, Application]:
    """Build the application of a server by itself, and its parts. Raises DamagedFile."""
    parts = build_application(settings, backend, file_stores(settings))
    return create_app(parts), parts


class Client(Api):
    """The API without sockets. What a reply streams is computed by whoever reads it; closing it is a disconnect."""

    def __init__(
        self, data: Path, backend: Backend | None = None, models: Path = ROOT / "models", key: str = "", **settings: Any
    ) -> None:
        """`settings` are Settings' fields; `key` is the master key of a data folder that has one."""
        super().__init__(data, models, key)
        self.url = URL
        self.backend = backend or FakeBackend()
        self.settings = Settings(data=data, models=models, **settings)
        self.open()

    def open(self) -> None:
        """Make the application over the data folder."""
        self.app, self.parts = _build(self.settings, self.backend)
        self.parts.jobs.start()
        if minted := self.parts.stores.keys.mint_master():
            self.key = minted.key
        self.http = _session(self.app)
        # As a server does when it starts, so that health and status tell of a loaded model.
        self.parts.answers.models.warm_up()

    def close(self) -> None:
        """Close the application's files."""
        stores = self.parts.stores
        for close in (self.parts.jobs.close, stores.sessions.close, stores.keys.close, self.parts.jobs.release):
            close()
        stores.usage.close()
        stores.responses.close()
        if stores.documents:
            stores.documents.close()

    def restart(self) -> None:
        """Make the application anew over the same files."""
        self.close()
        self.open()

    def send(self, method: str, url: str, **arguments: Any) -> requests.Response:
        return _session(self.app).request(method, url, **arguments)


def _session(app: Flask) -> requests.Session:
    session = requests.Session()
    # No proxies, and no passwords of the machine's.
    session.trust_env = False
    session.mount("http://", _Transport(app))
    return session


class _Transport(BaseAdapter):
    """Hands requests to a WSGI application, as waitress does."""

    def __init__(self, app: Flask) -> None:
        super().__init__()
        self._app = app

    def send(self, request: requests.PreparedRequest, *_: Any, **__: Any) -> requests.Response:
        body = _Body()
        chunks, status, headers = run_wsgi_app(self._app, _environ(request, body))
        body.chunks = chunks
        reply = requests.Response()
        reply.request, reply.url, reply.raw = request, str(request.url), body
        reply.headers = CaseInsensitiveDict(headers.items())
        body.is_packed = reply.headers.get("Content-Encoding") == "gzip"
        code, reason = status.split(" ", 1)
        reply.status_code, reply.reason = int(code), reason
        reply.encoding = get_encoding_from_headers(reply.headers)
        return reply

    def close(self) -> None:
        pass


class _Body:
    """A reply's body, read as urllib3's is: by `stream`. Owned by the thread that reads it."""

    def __init__(self) -> None:
        self.chunks: Iterable[bytes] = ()
        self.is_packed = False
        self.is_closed = threading.Event()

    def stream(self, _size: int, **_: Any) -> Iterator[bytes]:
        """Yield the chunks as they come, or all of a packed body at once."""
        try:
            if self.is_packed:
                yield gzip.decompress(b"".join(self.chunks))
            else:
                yield from self.chunks
        finally:
            self._let_go()

    def close(self) -> None:
        """Disconnect."""
        self.is_closed.set()
        self._let_go()

    def _let_go(self) -> None:
        if close := getattr(self.chunks, "close", None):
            close()


def _environ(request: requests.PreparedRequest, body: _Body) -> dict[str, Any]:
    """The WSGI environment of a request (PEP 3333)."""
    url = urlsplit(str(request.url))
    sent = request.body or b""
    data = sent if isinstance(sent, bytes) else sent.encode() if isinstance(sent, str) else b"".join(sent)
    environ: dict[str, Any] = {
        "REQUEST_METHOD": request.method,
        "SCRIPT_NAME": "",
        "PATH_INFO": unquote_to_bytes(url.path).decode("latin-1"),
        "QUERY_STRING": url.query,
        "REMOTE_ADDR": "127.0.0.1",
        "SERVER_NAME": url.hostname,
        "SERVER_PORT": str(url.port),
        "SERVER_PROTOCOL": "HTTP/1.1",
        "HTTP_HOST": url.netloc,
        "CONTENT_LENGTH": str(len(data)),
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": url.scheme,
        "wsgi.input": io.BytesIO(data),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": True,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
        "waitress.client_disconnected": body.is_closed.is_set,
    }
    for name, value in request.headers.items():
        text = value.decode("latin-1") if isinstance(value, bytes) else value
        variable = name.upper().replace("-", "_")
        if variable == "CONTENT_TYPE":
            environ[variable] = text
        elif variable not in ("CONTENT_LENGTH", "TRANSFER_ENCODING"):
            environ[f"HTTP_{variable}"] = text
    return environ
