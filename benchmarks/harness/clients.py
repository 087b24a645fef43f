"""One streamed answer, timed as it comes in: the same reader for both servers, at the level of http.client."""

from __future__ import annotations

import contextlib
import http.client
import json
import socket
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import perf_counter
from typing import Any
from urllib.parse import urlsplit

TIMEOUT = 300


@dataclass
class Reply:
    """A reply and its timing. Times are seconds of `perf_counter`."""

    sent: float = 0.0
    arrivals: list[float] = field(default_factory=list)
    """The arrival of each chunk of text."""
    ended: float = 0.0
    text: str = ""
    last: dict[str, Any] = field(default_factory=dict)
    """The event that sums the answer up."""

    @property
    def first_token(self) -> float:
        """Seconds from sending the request to the first chunk of text."""
        return self.arrivals[0] - self.sent

    @property
    def decode_rate(self) -> float:
        """Tokens a second after the first. A chunk may hold several tokens, so the server's count is taken."""
        return (self.tokens - 1) / (self.arrivals[-1] - self.arrivals[0])

    @property
    def tokens(self) -> int:
        """Tokens of the answer, as the server counts them."""
        usage = self.last.get("usage")
        return int(usage["completion_tokens"] if usage else self.last["tokens_predicted"])

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt, as the server counts them."""
        usage = self.last.get("usage")
        return int(usage["prompt_tokens"] if usage else self.last["tokens_evaluated"])

    @property
    def read_tokens(self) -> int:
        """Tokens of the prompt that had to be computed; only of answers at OpenAI's paths."""
        return self.prompt_tokens - int(self.last["usage"]["prompt_tokens_details"]["cached_tokens"])


def total_rate(replies: Sequence[Reply]) -> float:
    """Return all answers' tokens over the seconds from the first token of any to the last of all."""
    begun, ended = min(reply.arrivals[0] for reply in replies), max(reply.arrivals[-1] for reply in replies)
    return sum(reply.tokens for reply in replies) / (ended - begun)


class Flight:
    """A streamed answer that a thread of its own reads; `hang_up` closes the connection."""

    def __init__(self, url: str, path: str, body: Mapping[str, Any], headers: Mapping[str, str]) -> None:
        self.reply = Reply()
        self._url = urlsplit(url)
        self._request = (path, json.dumps(body).encode(), {**headers, "Content-Type": "application/json"})
        self._socket: socket.socket | None = None
        self._left = False
        self._problem: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def wait(self) -> Reply:
        """Return the whole reply. Raises the error of the reading thread, unless `hang_up` was called."""
        self._thread.join(TIMEOUT)
        if self._thread.is_alive():
            raise TimeoutError(f"no end of the answer after {TIMEOUT} s")
        if self._problem and not self._left:
            raise self._problem
        return self.reply

    def hang_up(self) -> float:
        """Close the connection as a client that disconnects does; return the time."""
        self._left = True
        with contextlib.suppress(OSError):
            if self._socket:
                self._socket.shutdown(socket.SHUT_RDWR)
        return perf_counter()

    def _run(self) -> None:
        try:
            self._read()
        except BaseException as problem:
            self._problem = problem

    def _read(self) -> None:
        connection = http.client.HTTPConnection(self._url.hostname or "", self._url.port, timeout=TIMEOUT)
        path, body, headers = self._request
        try:
            self.reply.sent = perf_counter()
            connection.connect()
            self._socket = connection.sock
            connection.request("POST", path, body, headers)
            response = connection.getresponse()
            if response.status != 200:
                raise RuntimeError(f"{path} answered {response.status}: {response.read()[:500]!r}")
            with response:
                while line := response.readline():
                    if line.startswith(b"data: "):
                        self._note(line[6:].strip())
            self.reply.ended = perf_counter()
        finally:
            connection.close()

    def _note(self, data: bytes) -> None:
        now = perf_counter()
        if data == b"[DONE]":
            return
        event = json.loads(data)
        if "error" in event:
            raise RuntimeError(f"an error in the stream: {event}")
        # Hearth sends {"chunk"} and sums up in {"result"}; llama-server sends {"content"}, the last one with "stop": true.
        # Both send {"choices"} at OpenAI's path, and sum up in {"usage"}.
        choice = (event.get("choices") or [{}])[0]
        delta = choice.get("delta", {})
        piece = event.get("chunk") or event.get("content") or choice.get("text") or delta.get("content") or ""
        if piece or delta.get("tool_calls"):
            self.reply.arrivals.append(now)
            self.reply.text += piece
        if "result" in event or event.get("stop") or event.get("usage"):
            self.reply.last = event
