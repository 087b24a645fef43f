"""The log: lines for people, or JSON for programs, each with the id of its request."""

from __future__ import annotations

import logging
import re
from contextvars import ContextVar

# Control characters (C0, DEL, C1), zero-width characters, direction marks, line separators, embeddings, isolates and the
# byte order mark: those of the "Trojan Source" attacks (CVE-2021-42574).
_HIDDEN = "\x00-\x1f\x7f-\x9f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff"
_ANY = re.compile(f"[{_HIDDEN}]")
_ANY_BUT_SPACING = re.compile(f"(?![\n\t])[{_HIDDEN}]")

# The id of the request that this thread serves; "": none.
request_id: ContextVar[str] = ContextVar("request_id", default="")


# A key of this server. Somebody may paste one into another field, which an error then quotes.
_KEY = re.compile(r"hearth-[\w-]{20,}")


def redacted(text: str) -> str:
    """Return the text with each key of this server cut off after its prefix."""
    return _KEY.sub("hearth-…", text)


class _Handler(logging.StreamHandler):  # type: ignore[type-arg]
    def format(self, record: logging.LogRecord) -> str:
        return visible_lines(redacted(super().format(record)))


class _LineFormatter(logging.Formatter):
    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        line = super().formatMessage(record)
        known = getattr(record, "request_id", "")
        # One line each, whatever is in the names that people give.
        return visible(f"{line} [{known}]" if known else line)


def set_up(level: str, form: str) -> None:
    """Write the log to standard error, from `level` on, as "text", or as "json" with a line for each request."""
    handler = _Handler()
    handler.addFilter(_with_request_id)
    if form == "json":
        from pythonjsonlogger.json import JsonFormatter

        named = {"asctime": "time", "levelname": "level", "name": "logger"}
        handler.setFormatter(JsonFormatter("%(asctime)s %(levelname)s %(name)s %(message)s", rename_fields=named))
    else:
        handler.setFormatter(_LineFormatter("%(asctime)s %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    if form == "text":
        logging.getLogger("hearth.requests").setLevel(logging.WARNING)
    logging.getLogger("filelock").setLevel(logging.WARNING)
    # waitress warns of every request that waits for a thread.
    logging.getLogger("waitress.queue").setLevel(logging.ERROR)
    # It logs every request.
    logging.getLogger("httpx2").setLevel(logging.WARNING)


def _with_request_id(record: logging.LogRecord) -> bool:
    if known := request_id.get():
        record.request_id = known
    return True


def visible(text: str) -> str:
    r"""Return the text with invisible characters written out, as \x1b and \u202e."""
    return _ANY.sub(_escaped, text)


def visible_lines(text: str) -> str:
    """Return a text of several lines with invisible characters written out, except line feeds and tabs."""
    return _ANY_BUT_SPACING.sub(_escaped, text)


def _escaped(found: re.Match[str]) -> str:
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}"
