"""The static files of the pages: compressed, and sent again only when they have changed."""

from __future__ import annotations

import gzip
import hashlib
import mimetypes
import threading
from collections.abc import Iterable
from functools import cache
from pathlib import Path

from flask import Response, request
from werkzeug.exceptions import NotFound

FOLDER = Path(__file__).resolve().parent.parent.parent / "web" / "static"
# The system's own table may say anything.
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
    ".woff2": "font/woff2",
    ".png": "image/png",
    ".webmanifest": "application/manifest+json",
}


_lock = threading.Lock()


class StaticFiles:
    """Files of services/web/static by name, and no others, whatever lies beside them. Any thread may call it."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def response(self, name: str) -> Response:
        """Return the file, or status 304 where the browser's copy is still good. Raises NotFound."""
        if name not in self._names:
            raise NotFound
        try:
            # Many requests may want a file that is not cached yet: it is compressed once.
            with _lock:
                plain, packed, tag = _read(name, (FOLDER / name).stat().st_mtime_ns)
        except OSError:
            raise NotFound from None
        takes_gzip = request.accept_encodings["gzip"] > 0
        kind = _TYPES.get(Path(name).suffix) or mimetypes.guess_type(name)[0]
        response = Response(packed if takes_gzip else plain, mimetype=kind)
        if takes_gzip:
            response.content_encoding = "gzip"
        response.vary.add("Accept-Encoding")
        response.set_etag(tag + "-gzip" * takes_gzip)
        response.cache_control.no_cache = True
        response.make_conditional(request)
        return response


@cache
def _read(name: str, _changed: int) -> tuple[bytes, bytes, str]:
    """Return a file's bytes, the same compressed, and its ETag."""
    plain = (FOLDER / name).read_bytes()
    return plain, gzip.compress(plain, 9, mtime=0), hashlib.sha256(plain).hexdigest()[:32]
