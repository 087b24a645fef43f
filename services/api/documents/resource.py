"""The base of the endpoints about own files."""

from __future__ import annotations

from flask_restful import Resource

from services.documents.library import Library, present


class LibraryResource(Resource):
    """A resource over the library."""

    def __init__(self, library: Library | None) -> None:
        """`library` is None where the server keeps no files."""
        self._kept = library

    @property
    def library(self) -> Library:
        """The library. Raises Unavailable."""
        return present(self._kept)
