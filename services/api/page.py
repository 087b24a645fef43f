"""GET /: the chat page, and what it loads: from files of our own, so that it works without a network."""

from __future__ import annotations

from flask import Response
from flask_restful import Resource

from services.api.http.static import FOLDER, StaticFiles

SHELL = "chat/index.html"
WORKER = "chat/offline_worker.js"
OFFLINE = "chat/offline.html"
_PATTERNS = (
    *("chat/*.js", "chat/*.css", "chat/*.svg", "chat/*.png", "chat/*.webmanifest", OFFLINE),
    *("dompurify/*.js", "highlight/*.js", "highlight/languages/*.js", "marked/*.js"),
    *("temml/*.mjs", "temml/*.css", "temml/*.woff2", "noto-sans-math/*.woff2"),
    *("diagram/*.css", "diagram/*.html", "diagram/*.js", "mermaid/*.js"),
)
# Nothing comes from elsewhere, nothing inline runs, and only the sanitizer may make markup of text. The second policy of
# Trusted Types gives one worker's address.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "font-src 'self'",
        "connect-src 'self'",
        "frame-src 'self'",
        "manifest-src 'self'",
        "worker-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify offline-worker",
    )
)
# A diagram's frame in the page has no origin, and nothing leaves it. What draws in it writes styles of its own.
_FRAME_POLICY = "; ".join(
    (
        "sandbox allow-scripts",
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self' 'unsafe-inline'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'self'",
    )
)


def page_files() -> list[str]:
    """Return the names of the files that the page loads, in the folder of static files."""
    found = (path for pattern in _PATTERNS for path in FOLDER.glob(pattern))
    return [path.relative_to(FOLDER).as_posix() for path in found]


class PageResource(Resource):
    """The chat page. It needs no key, since the page is what asks for one."""

    def __init__(self, files: StaticFiles) -> None:
        self._files = files

    def get(self) -> Response:
        """Show the chat page."""
        response = self._files.response(SHELL)
        response.headers["Content-Security-Policy"] = _POLICY
        # To look up a link's host before anybody follows it would tell that a model wrote it.
        response.headers["X-DNS-Prefetch-Control"] = "off"
        return response


class FileResource(Resource):
    """A file that a page loads."""

    def __init__(self, files: StaticFiles) -> None:
        self._files = files

    def get(self, name: str) -> Response:
        """Return the file."""
        response = self._files.response(name)
        if name.endswith(".html"):
            response.headers["Content-Security-Policy"] = _FRAME_POLICY
        if name in (WORKER, OFFLINE):
            response.headers["Content-Security-Policy"] = _POLICY
        if name == WORKER:
            # It may stand before the page, which is at the root.
            response.headers["Service-Worker-Allowed"] = "/"
        return response
