"""Error answers to requests that the application never sees, sent so that their clients can read them."""

from __future__ import annotations

import json
import logging
import secrets
import socket
import time
from contextlib import suppress
from typing import Any

from typing_extensions import override

from services.api.http.errors import error_body
from services.logs import request_id
from services.server.parser import Refusal, RequestParser
from services.server.waitress_internals import WaitressChannel, WaitressErrorTask

log = logging.getLogger("hearth.requests")

# Bytes that a client may still send of a refused request, and seconds that it may take, before the connection is closed.
LINGER_BYTES, LINGER_SECONDS = 2**24, 3.0


class RefusalTask(WaitressErrorTask):
    """Writes one error in the API's error format, and ends the connection."""

    @override
    def execute(self) -> None:
        """Write the answer."""
        error = self.request.error
        param, name = getattr(error, "param", None), getattr(error, "error_code", "bad_http")
        message = error.body if isinstance(error, Refusal) else f"{error.reason}: {error.body}"
        body = json.dumps(error_body(error.code, message, param, name)).encode()
        request_id.set(secrets.token_hex(8))
        self.status = f"{error.code} {error.reason}"
        self.response_headers += [
            ("Content-Type", "application/json"),
            ("Cache-Control", "no-store"),
            ("X-Content-Type-Options", "nosniff"),
            ("X-Request-Id", request_id.get()),
        ]
        self.response_headers += [("Accept-Encoding", "identity")] if error.code == 415 else []
        self.response_headers += [("Retry-After", "1")] if error.code in (429, 503) else []
        self.set_close_on_finish()
        self.content_length = len(body)
        log.info("refused: %d %s", error.code, error.body, extra={"status": error.code})
        self.write(b"" if getattr(self.request, "command", "") == "HEAD" else body)


class RefusingChannel(WaitressChannel):
    """A connection that parses requests strictly, and lingers after a refusal.

    After a refusal only the sending side is closed, and the rest of the request is discarded for a while: closing a socket
    that holds unread data resets the connection, and the client could not read the refusal.
    """

    parser_class = RequestParser
    error_task_class = RefusalTask

    def __init__(self, *arguments: Any, **named: Any) -> None:
        self.is_refused = False
        self._linger_until: float | None = None
        self._n_discarded = 0
        super().__init__(*arguments, **named)

    def discard(self, data: bytes) -> None:
        """Throw away data of a refused request; close the connection where it is too much."""
        self._n_discarded += len(data)
        if self._n_discarded > LINGER_BYTES:
            self.handle_close()

    def has_lingered(self, now: float) -> bool:
        """Return whether the client has had its time to read the refusal."""
        return self._linger_until is not None and now > self._linger_until

    @override
    def handle_write(self) -> None:
        """Send more of the output; after a refusal, close the sending side once all is sent."""
        if self.is_refused and self.close_when_flushed and not self.will_close:
            self.flush()
            if not self.total_outbufs_len and not self.will_close:
                self.close_when_flushed = False
                self._linger_until = time.monotonic() + LINGER_SECONDS
                with suppress(OSError):
                    self.socket.shutdown(socket.SHUT_WR)
                return
        super().handle_write()
