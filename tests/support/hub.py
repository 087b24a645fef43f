"""A small hub on the loopback, which serves files as a Hugging Face hub does, and can be made to fail."""

from __future__ import annotations

import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Hub:
    """Its `files` are PATH → bytes by repository. `requests` are the method, path and Range of what it was asked."""

    def __init__(self) -> None:
        self.files: dict[str, dict[str, bytes]] = {}
        self.cut_after: int | None = None
        """After how many bytes of a file the connection is cut, each time."""
        self.digest: str | None = None
        """What it says each file's SHA-256 is, where that is not the truth."""
        self.damaged: set[str] = set()
        """The files, by the ends of their paths, whose last byte it sends wrong."""
        self.size: int | None = None
        self.pause = threading.Event()
        """While it is not set, no file goes on behind its first half; only the one called `pauses`, if that is set."""
        self.pauses = ""
        self.pause.set()
        self.gated: set[str] = set()
        self.leads_to = ""
        """Where it redirects downloads to; "": it sends the files itself."""
        self.requests: list[tuple[str, str, str | None]] = []
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    @property
    def env(self) -> dict[str, str]:
        return {"HF_ENDPOINT": self.url, "HF_TOKEN": "hf_test", "HF_HUB_DISABLE_TELEMETRY": "1"}

    def ranges(self) -> list[str | None]:
        """The Range of every request for a file's bytes."""
        return [range_ for method, path, range_ in self.requests if method == "GET" and "/resolve/" in path]

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer()

    def do_GET(self) -> None:
        self._answer()

    def _answer(self) -> None:
        self.hub.requests.append((self.command, self.path, self.headers.get("Range")))
        path = self.path.partition("?")[0]
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/(.+)", path):
            return self._tree(found[1])
        if found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            return self._file(found[1], found[2], found[3])
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(/.*)?", path):
            return self._json(200, {"id": found[1], "sha": "0" * 40, "siblings": []})
        return self._json(404, {"error": "nothing here"})

    def _tree(self, repo: str) -> None:
        if repo not in self.hub.files:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        files = self.hub.files[repo].items()
        return self._json(200, [{"type": "file", "oid": "0" * 40, "size": len(data), "path": name} for name, data in files])

    def _file(self, repo: str, revision: str, name: str) -> None:
        if repo in self.hub.gated:
            return self._json(403, {"error": "gated"}, {"X-Error-Code": "GatedRepo"})
        if repo not in self.hub.files:
            return self._json(404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})
        if revision not in ("main", "v1"):
            return self._json(404, {"error": "no such revision"}, {"X-Error-Code": "RevisionNotFound"})
        if name not in self.hub.files[repo]:
            return self._json(404, {"error": "Entry not found"}, {"X-Error-Code": "EntryNotFound"})
        if self.hub.leads_to and self.command == "GET":
            self.send_response(302)
            self.send_header("Location", self.hub.leads_to)
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        return self._bytes(self.hub.files[repo][name])

    def _bytes(self, data: bytes) -> None:
        start = int(match[1]) if (match := re.match(r"bytes=(\d+)-", self.headers.get("Range") or "")) else 0
        self.send_response(206 if start else 200)
        self.send_header("Content-Length", str((self.hub.size or len(data)) - start))
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(data) - 1}/{len(data)}")
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("X-Linked-Size", str(self.hub.size or len(data)))
        self.send_header("X-Linked-Etag", f'"{self.hub.digest or hashlib.sha256(data).hexdigest()}"')
        self.end_headers()
        if self.command == "HEAD":
            return
        if self.path.endswith(tuple(self.hub.damaged)):
            data = data[:-1] + bytes([data[-1] ^ 1])
        end = len(data) if self.hub.cut_after is None else start + self.hub.cut_after
        middle = max(start, len(data) // 2)
        self.wfile.write(data[start : min(middle, end)])
        if self.path.endswith(self.hub.pauses):
            self.hub.pause.wait(30)
        self.wfile.write(data[middle:end])
        if self.hub.cut_after is not None:
            self.close_connection = True

    def _json(self, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing."""
