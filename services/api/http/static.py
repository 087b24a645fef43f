"""The pages' files: compressed, and sent again only when they have changed."""

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
# Not what the system's own table says, which may be anything.
_TYPES = {
    ".js": "text/javascript",
    ".mjs": "text/javascript",
    ".css": "text/css",
    ".html": "text/html",
    ".svg": "image/svg+xml",
}


_lock = threading.Lock()


class StaticFiles:
    """Some of the files in services/web/static, and no others, whatever lies beside them."""

    def __init__(self, names: Iterable[str]) -> None:
        self._names = frozenset(names)

    def response(self, name: str) -> Response:
        """The file, or that the browser's copy is still good. Raises NotFound."""
        if name not in self._names:
            raise NotFound
        try:
            # Many may ask for a file that nobody has asked for before: it is compressed once.
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
    """A file as it is, compressed, and what changes with it."""
    plain = (FOLDER / name).read_bytes()
    return plain, gzip.compress(plain, 9, mtime=0), hashlib.sha256(plain).hexdigest()[:32]
