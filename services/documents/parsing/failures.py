"""The errors of files, one function each. All name the field `file`, and none has a path in its message."""

from __future__ import annotations

from services.errors import TooLarge, Unprocessable, UnsupportedType

PARAM = "file"


def unsupported(what: str, working: str) -> UnsupportedType:
    """Return the error for a type of file that does not work; `working` lists the types that do."""
    return UnsupportedType(f"{what}; these types of files work: {working}", param=PARAM)


def disguised(extension: str, content: str) -> UnsupportedType:
    """Return the error for a file whose content is of another type than its name says."""
    what = f"the file's name ends in .{extension}, but its content is {content}"
    return UnsupportedType(what, param=PARAM, code="disguised_file")


def too_much_text(characters: int) -> TooLarge:
    """Return the error for a file with more text than this."""
    return TooLarge(f"the file has more than {characters:,} characters of text", param=PARAM, code="too_much_text")


def too_many_pages(pages: int, limit: int) -> TooLarge:
    """Return the error for a file with more pages than the limit."""
    return TooLarge(f"the file has {pages:,} pages; at most {limit:,} can be read", param=PARAM, code="too_many_pages")


def unpacks_too_large(what: str) -> TooLarge:
    """Return the error for an archive or a stream that unpacks to too much; `what` is the sentence."""
    return TooLarge(what, param=PARAM, code="unpacks_too_large")


def damaged(reason: str) -> Unprocessable:
    """Return the error for a file that is not in its format; `reason` is the sentence."""
    return Unprocessable(reason, param=PARAM, code="damaged_file")


def encrypted(what: str) -> Unprocessable:
    """Return the error for a file that cannot be read without a password or a licence; `what` is the sentence."""
    return Unprocessable(what, param=PARAM, code="encrypted_file")


def empty() -> Unprocessable:
    """Return the error for a file without a byte."""
    return Unprocessable("the file is empty", param=PARAM, code="no_text")


def no_text(what: str = "the file has no text") -> Unprocessable:
    """Return the error for a file without text; `what` is the sentence."""
    return Unprocessable(what, param=PARAM, code="no_text")


def wrong_encoding(reason: str) -> Unprocessable:
    """Return the error for a text that cannot be decoded; `reason` is the sentence."""
    return Unprocessable(f"{reason}; please save the file as UTF-8", param=PARAM, code="wrong_encoding")


def too_slow(seconds: float) -> Unprocessable:
    """Return the error for a file that takes longer than this."""
    return Unprocessable(f"reading the file took longer than {seconds:g} seconds", param=PARAM, code="too_slow")


def too_much_memory(limit: int) -> Unprocessable:
    """Return the error for a file that takes more bytes of memory than the limit."""
    mebibytes = limit // (1024 * 1024)
    return Unprocessable(
        f"reading the file took more than {mebibytes:,} MiB of memory", param=PARAM, code="too_much_memory"
    )


def crashed() -> Unprocessable:
    """Return the error for a file at which the parser's process has ended."""
    return Unprocessable("the file crashed its parser: it seems to be damaged", param=PARAM, code="damaged_file")
