"""The formats of strings and numbers that JSON schemas name (JSON Schema 2020-12, Validation, section 7.3; OpenAPI 3)."""

from __future__ import annotations

_YEAR = r"(?:[1-9]\d{3}|0[1-9]\d\d|00[1-9]\d|000[1-9])"
_LEAP = r"(?:\d\d(?:0[48]|[2468][048]|[13579][26])|(?:0[48]|[2468][048]|[13579][26])00)"
_DATE = (
    rf"(?:{_YEAR}-(?:(?:0[13578]|1[02])-(?:0[1-9]|[12]\d|3[01])|(?:0[469]|11)-(?:0[1-9]|[12]\d|30)"
    rf"|02-(?:0[1-9]|1\d|2[0-8]))|{_LEAP}-02-29)"
)
_ZONE = r"(?:Z|[+-](?:[01]\d|2[0-3]):[0-5]\d)"
_TIME = r"(?:[01]\d|2[0-3]):[0-5]\d:[0-5]\d(?:\.\d{1,9})?"
_BYTE = r"(?:25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)"
_IPV4 = rf"{_BYTE}(?:\.{_BYTE}){{3}}"
_WORD = "[0-9a-fA-F]{1,4}"
_LAST_WORDS = rf"(?:{_WORD}:{_WORD}|{_IPV4})"
# RFC 3986, appendix A: the address is full, or "::" stands for one word or more.
_IPV6 = (
    "(?:"
    + "|".join(
        [
            rf"(?:{_WORD}:){{6}}{_LAST_WORDS}",
            rf"::(?:{_WORD}:){{0,5}}{_LAST_WORDS}",
            *(rf"{_WORD}(?::{_WORD}){{{n}}}::(?:{_WORD}:){{0,{4 - n}}}{_LAST_WORDS}" for n in range(5)),
            *(rf"(?:{_WORD}(?::{_WORD}){{0,{n}}})?::{_WORD}" for n in [5]),
            rf"(?:{_WORD}(?::{_WORD}){{0,6}})?::",
        ]
    )
    + ")"
)
_LABEL = r"[a-zA-Z0-9](?:[a-zA-Z0-9-]{0,30}[a-zA-Z0-9])?"
# Seven labels of 32 letters at most, so that the whole name keeps to 253.
_HOST = rf"{_LABEL}(?:\.{_LABEL}){{0,6}}"
_ATOM = r"[a-zA-Z0-9!#$%&'*+/=?^_`{|}~-]{1,20}"
_PERCENT = "%[0-9a-fA-F]{2}"
_PCHAR = rf"(?:[a-zA-Z0-9\-._~!$&'()*+,;=:@]|{_PERCENT})"
_SEGMENT_NC = rf"(?:[a-zA-Z0-9\-._~!$&'()*+,;=@]|{_PERCENT})+"
_TAIL = rf"(?:\?(?:{_PCHAR}|[/?])*)?(?:#(?:{_PCHAR}|[/?])*)?"
_AUTHORITY = (
    rf"(?:(?:[a-zA-Z0-9\-._~!$&'()*+,;=:]|{_PERCENT})*@)?"
    rf"(?:\[{_IPV6}\]|{_IPV4}|{_HOST})(?::\d{{1,4}})?"
)
_HIER = rf"(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?|{_PCHAR}+(?:/{_PCHAR}*)*)"
_URI = rf"[a-zA-Z][a-zA-Z0-9+.-]*:{_HIER}{_TAIL}"
_RELATIVE = rf"(?://{_AUTHORITY}(?:/{_PCHAR}*)*|/(?:{_PCHAR}+(?:/{_PCHAR}*)*)?|{_SEGMENT_NC}(?:/{_PCHAR}*)*)?{_TAIL}"
_DAYS = r"(?:\d+D|\d+M(?:\d+D)?|\d+Y(?:\d+M(?:\d+D)?)?)"
_HOURS = r"T(?:\d+S|\d+M(?:\d+S)?|\d+H(?:\d+M(?:\d+S)?)?)"
_HEX4, _HEX8, _HEX12 = (f"[0-9a-fA-F]{{{n}}}" for n in (4, 8, 12))
_POINTER = r"(?:/(?:[^/~]|~[01])*)*"
_BASE64 = r"(?:[A-Za-z0-9+/]{4})*(?:[A-Za-z0-9+/]{2}==|[A-Za-z0-9+/]{3}=)?"

STRING_FORMATS: dict[str, str] = {
    "date": _DATE,
    "time": f"{_TIME}{_ZONE}",
    "date-time": f"{_DATE}T{_TIME}{_ZONE}",
    "duration": f"P(?:{_DAYS}(?:{_HOURS})?|{_HOURS}|\\d+W)",
    "email": rf"{_ATOM}(?:\.{_ATOM}){{0,2}}@{_HOST}",
    "hostname": _HOST,
    "ipv4": _IPV4,
    "ipv6": _IPV6,
    "uri": _URI,
    "uri-reference": f"(?:{_URI}|{_RELATIVE})",
    "uuid": f"{_HEX8}-{_HEX4}-{_HEX4}-{_HEX4}-{_HEX12}",
    "json-pointer": _POINTER,
    "relative-json-pointer": f"(?:0|[1-9]\\d*)(?:#|{_POINTER})",
    "byte": _BASE64,
    # Of pydantic.
    "uuid1": f"{_HEX8}-{_HEX4}-1[0-9a-fA-F]{{3}}-[89abAB][0-9a-fA-F]{{3}}-{_HEX12}",
    "uuid3": f"{_HEX8}-{_HEX4}-3[0-9a-fA-F]{{3}}-[89abAB][0-9a-fA-F]{{3}}-{_HEX12}",
    "uuid4": f"{_HEX8}-{_HEX4}-4[0-9a-fA-F]{{3}}-[89abAB][0-9a-fA-F]{{3}}-{_HEX12}",
    "uuid5": f"{_HEX8}-{_HEX4}-5[0-9a-fA-F]{{3}}-[89abAB][0-9a-fA-F]{{3}}-{_HEX12}",
    "ipv4network": rf"{_BYTE}(?:\.{_BYTE}){{3}}/32",
    "ipv6network": f"{_IPV6}/128",
    "ipvanyaddress": f"(?:{_IPV4}|{_IPV6})",
}
"""Patterns for the whole of a string, by the format's name."""

REFUSED_FORMATS = ("idn-email", "idn-hostname", "iri", "iri-reference", "uri-template", "regex", "json-string")
"""Formats that are known, and that no regular expression describes."""

INTEGER_FORMATS: dict[str, tuple[int, int]] = {
    "int8": (-(2**7), 2**7 - 1),
    "int16": (-(2**15), 2**15 - 1),
    "int32": (-(2**31), 2**31 - 1),
    "uint8": (0, 2**8 - 1),
    "uint16": (0, 2**16 - 1),
    "uint32": (0, 2**32 - 1),
    # The widest bounds that a 64-bit float holds exactly.
    "int64": (-(2**53) + 1, 2**53 - 1),
    "uint64": (0, 2**53 - 1),
}
"""The least and the greatest number of a format, for the numbers that are integers."""
