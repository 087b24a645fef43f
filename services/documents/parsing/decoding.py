"""Bytes as text: Unicode by its marks and forms, older encodings by what makes sense of them."""

from __future__ import annotations

import codecs
import re

from services.documents.parsing import failures
from services.documents.parsing.signatures import BINARY

_MARKS = (
    (codecs.BOM_UTF8, "utf-8-sig"),
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)
_OLDER = [
    *("cp1250", "cp1251", "cp1253", "cp1254", "cp1255", "cp1256", "cp1257", "koi8_r"),
    *("cp932", "euc_jp", "gb18030", "big5", "euc_kr"),
]
# charset-normalizer is slow, and so much text is enough for it.
_SAMPLE = 30_000
_LONG_SAMPLE = 1_000_000
# The forms of characters beyond ASCII in UTF-8; other encodings hardly ever have them.
_MULTIBYTE = re.compile(rb"[\xc3-\xdf][\x80-\xbf]|[\xe1-\xef][\x80-\xbf]{2}|\xf0[\x90-\xbf][\x80-\xbf]{2}")
_CONTROLS = re.compile(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]")


def encoding_of(data: bytes) -> str:
    """Return the name of the encoding in which the bytes are text.

    Raises UnsupportedType if they are binary data, Unprocessable if they are text in no known encoding.
    """
    marked = next((encoding for mark, encoding in _MARKS if data.startswith(mark)), None)
    if marked:
        return _checked(data, marked)
    if b"\0" in data:
        raise failures.unsupported(f"the content is {BINARY}, not text (it has NUL bytes)", "text of any kind")
    if len(_CONTROLS.findall(data[:_SAMPLE])) > len(data[:_SAMPLE]) // 50:
        raise failures.unsupported(
            f"the content is {BINARY}, not text (it has many control characters)", "text of any kind"
        )
    try:
        data.decode("utf-8")
    except UnicodeDecodeError as error:
        if _is_mostly_utf8(data[:_LONG_SAMPLE]):
            raise failures.wrong_encoding(_where("UTF-8", data, error)) from error
        return _checked(data, _guess(data))
    return "utf-8"


def decode(data: bytes) -> str:
    """Return the bytes as text. Raises what `encoding_of` raises."""
    return data.decode(encoding_of(data))


def _is_mostly_utf8(data: bytes) -> bool:
    in_form = sum(map(len, _MULTIBYTE.findall(data)))
    return in_form > 0.8 * sum(map(len, re.findall(rb"[\x80-\xff]+", data)))


def _checked(data: bytes, encoding: str) -> str:
    try:
        data.decode(encoding)
    except UnicodeDecodeError as error:
        raise failures.wrong_encoding(_where(encoding.upper().removesuffix("-SIG"), data, error)) from error
    return encoding


def _where(encoding: str, data: bytes, error: UnicodeDecodeError) -> str:
    line = data.count(b"\n", 0, error.start) + 1
    return f"the text is in {encoding}, but byte {error.start + 1:,} (line {line:,}) is no character in it"


def _guess(data: bytes) -> str:
    from charset_normalizer import from_bytes

    # Around the first byte that matters.
    first = re.search(rb"[\x80-\xff]", data)
    begin = max(0, first.start() - _SAMPLE // 2) if first else 0
    sample = data[begin : begin + _SAMPLE]
    # Western Europe first: other code pages too make words of its few letters beyond ASCII.
    for candidates in (["cp1252"], _OLDER):
        if best := from_bytes(sample, cp_isolation=candidates).best():
            return best.encoding
    raise failures.wrong_encoding("the text is in an unknown encoding")
