"""A strict HTTP/1.x parser for hostile clients: waitress's, refusing more than waitress does (RFC 9110, RFC 9112).

A request that two servers could read in two ways is refused, since a proxy in front may have read it the other way.
"""

from __future__ import annotations

import re

from typing_extensions import override

from services.api.http.bodies import most_bytes, too_large
from services.server.waitress_internals import (
    BadRequest,
    ChunkedReceiver,
    Error,
    ParsingError,
    RequestHeaderFieldsTooLarge,
    ServerNotImplemented,
    TransferEncodingNotImplemented,
    WaitressParser,
)

MAX_FIELDS = 200
# The most bytes of the line before a chunk, and of the fields after the last chunk.
_MAX_CHUNK_LINE, _MAX_TRAILER = 2**10, 2**13
# A body's framing may take as many bytes as its content, and this many more. Chunked bodies are read in small pieces, since
# a large block of many small chunks would hold the thread up.
_MAX_FRAMING, _PIECE = 2**13, 2**10

_VERSIONS = (b"HTTP/1.0", b"HTTP/1.1")
_CONTROL = re.compile(rb"[\x00-\x20\x7f]")
_HOST = re.compile(rb"(?:[\w.~%-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")
_ABSOLUTE = re.compile(rb"(?i:https?)://([^/?#]*)")
_LONE_LF = re.compile(rb"(?<!\r)\n")
# More digits than any body has bytes; Python refuses to read thousands of them.
_MAX_DIGITS = 18


class Refusal(Error, Exception):  # type: ignore[misc, unused-ignore]
    """An error answer to a request that the application never sees. `error_code` is for programs, `param` a header."""

    def __init__(
        self, code: int, reason: str, message: str, error_code: str = "bad_http", param: str | None = None
    ) -> None:
        super().__init__(message)
        self.code, self.reason, self.error_code, self.param = code, reason, error_code, param


class RequestParser(WaitressParser):
    """One arriving request. Owned by the server's thread until it is complete, then by the thread that answers it.

    After an error, nothing more of it is read.
    """

    @override
    def received(self, data: bytes) -> int:
        """Parse more data; return the number of bytes consumed."""
        consumed = int(super().received(data[:_PIECE] if isinstance(self.body_rcv, ChunkedReceiver) else data))
        if self.empty:
            self.error = BadRequest("the first line is not METHOD PATH HTTP/1.1")
        elif self.error is None and self.body_rcv is not None:
            self.error = self._body_error()
        elif self.error is None and _LONE_LF.search(self.header_plus[-len(data) - 1 :]):
            self.error = BadRequest("a line of the header ends without CR LF")
        if self.error is not None:
            self.refuse(self.error)
        # waitress would resume a completed request after "100 Continue".
        self.expect_continue = self.expect_continue and not self.completed and not self.body_bytes_received
        return consumed

    def refuse(self, error: Error) -> None:
        """Complete the request with this error, and drop its body."""
        self.error, self.completed, self.version = error, True, "1.1"
        self._drop_body()

    @override
    def parse_header(self, header_plus: bytes) -> None:
        """Parse the request line and the fields. A fault becomes `error`, and the body is not read."""
        try:
            first, *lines = header_plus.removesuffix(b"\r\n").removesuffix(b"\r\n").split(b"\r\n")
            method, target, version = _request_line(first)
            fields = _fields(lines)
            _check_framing(version, fields)
            # Without the blanks on which waitress's regular expressions backtrack for minutes.
            normalized = [b" ".join((method, target, version)), *(name + b":" + value for name, value in fields), b""]
            super().parse_header(b"\r\n".join(normalized))
            self._check_headers()
            _check_host(version, target, [value for name, value in fields if name.lower() == b"host"])
        except Refusal as refusal:
            self.error = refusal
        except TransferEncodingNotImplemented:
            self.error = ServerNotImplemented("of the transfer codings only chunked is read here")
        except ParsingError as error:
            self.error = BadRequest(error.args[0])
        except ValueError:
            # From urlsplit, for brackets that hold no address.
            self.error = BadRequest("the request's target is no path")
        if self.error is not None:
            self.content_length = 0
            self._drop_body()

    def _check_headers(self) -> None:
        """Raise Refusal for an expectation, a coding or a length that waitress would accept."""
        expected = self.headers.get("EXPECT", "").lower()
        if self.version == "1.1" and expected not in ("", "100-continue"):
            raise Refusal(417, "Expectation Failed", "of the expectations only 100-continue is met here", param="Expect")
        codings = {coding.strip(" \t").lower() for coding in self.headers.get("CONTENT_ENCODING", "").split(",")}
        if codings - {"", "identity"}:
            what = "compressed bodies are not taken: send it as it is, without Content-Encoding"
            raise Refusal(415, "Unsupported Media Type", what, "unsupported_media_type", "Content-Encoding")
        if self.content_length > most_bytes(self.path):
            raise _too_large(self.path)

    def _body_error(self) -> Error | None:
        """Return the fault in the part of the body that has arrived, or None."""
        body = self.body_rcv
        assert body is not None
        if len(body) > most_bytes(self.path):
            return _too_large(self.path)
        if isinstance(body, ChunkedReceiver):
            if len(body.control_line) > _MAX_CHUNK_LINE:
                return BadRequest("the line before a chunk is too long")
            if len(body.trailer) > _MAX_TRAILER:
                return RequestHeaderFieldsTooLarge("there is too much after the last chunk")
            if self.body_bytes_received - len(body) > len(body) + _MAX_FRAMING:
                return BadRequest("the chunks are so small that there is more around them than in them: send larger ones")
        return None

    def _drop_body(self) -> None:
        if self.body_rcv is not None:
            self.close()
            self.body_rcv = None


def _too_large(path: str) -> Refusal:
    return Refusal(413, "Content Too Large", too_large(path), "request_entity_too_large")


def _fields(lines: list[bytes]) -> list[tuple[bytes, bytes]]:
    """The header's fields, names and values. Raises Refusal for a line that is no field."""
    if len(lines) > MAX_FIELDS:
        what = f"there are more than {MAX_FIELDS} header fields"
        raise Refusal(431, "Request Header Fields Too Large", what)
    fields = []
    for line in lines:
        if line.startswith((b" ", b"\t")):
            raise _bad("a header field goes on in a second line")
        name, colon, value = line.partition(b":")
        if not colon or _CONTROL.search(name):
            raise _bad("a header field is not NAME: VALUE")
        fields.append((name, value.strip(b" \t")))
    return fields


def _request_line(line: bytes) -> tuple[bytes, bytes, bytes]:
    """The method, the target and the version. Raises Refusal for any other line."""
    parts = line.split(b" ")
    if len(parts) != 3 or not parts[2].startswith(b"HTTP/"):
        raise _bad("the first line is not METHOD PATH HTTP/1.1")
    if parts[2] not in _VERSIONS:
        raise Refusal(505, "HTTP Version Not Supported", "HTTP/1.1 and HTTP/1.0 are spoken here")
    method, target, version = parts
    is_path = target.startswith(b"/") or (method, target) == (b"OPTIONS", b"*") or _ABSOLUTE.match(target)
    if not is_path or _CONTROL.search(target):
        raise _bad("the request's target is no path")
    return method, target, version


def _check_framing(version: bytes, fields: list[tuple[bytes, bytes]]) -> None:
    """Raise Refusal where two servers could disagree on the body's length."""
    lengths = [value for name, value in fields if name.lower() == b"content-length"]
    codings = [value for name, value in fields if name.lower() == b"transfer-encoding"]
    if len(lengths) > 1:
        raise _bad("there is more than one", "Content-Length")
    if lengths and codings:
        raise _bad("it stands beside Transfer-Encoding", "Content-Length")
    if lengths and not (lengths[0].isdigit() and lengths[0].isascii()):
        raise _bad("it is no number of bytes", "Content-Length")
    if lengths and len(lengths[0].lstrip(b"0")) > _MAX_DIGITS:
        raise _too_large("")
    if codings and version == b"HTTP/1.0":
        raise _bad("HTTP/1.0 has none", "Transfer-Encoding")
    named = [coding.strip(b" \t").lower() for value in codings for coding in value.split(b",")]
    if named != [b"chunked"] and set(named) <= {b"chunked", b""} and codings:
        raise _bad("it should be chunked, once", "Transfer-Encoding")


def _check_host(version: bytes, target: bytes, hosts: list[bytes]) -> None:
    """Raise Refusal unless the request names its host exactly once, and well."""
    if len(hosts) > 1:
        raise _bad("there is more than one", "Host")
    if version != b"HTTP/1.0" and not any(hosts):
        raise _bad("it is missing, and HTTP/1.1 needs it", "Host")
    if any(hosts) and not _HOST.fullmatch(hosts[0]):
        raise _bad("it is no NAME or NAME:PORT", "Host")
    absolute = _ABSOLUTE.match(target)
    if absolute and (not hosts or absolute[1].lower() != hosts[0].lower()):
        raise _bad("it is another one than in the request's target", "Host")


def _bad(what: str, param: str | None = None) -> Refusal:
    return Refusal(400, "Bad Request", f"{param}: {what}" if param else what, param=param)
