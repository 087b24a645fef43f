"""ZIP archives, checked before anything is unpacked: docx, odt and epub are such archives."""

from __future__ import annotations

import zipfile
import zlib
from typing import IO

from services.documents.parsing import failures
from services.documents.parsing.limits import ParseLimits

_MEMBERS = 20_000
# Below this, any ratio is harmless.
_ANY_RATIO = 10_000_000
_ENCRYPTED = 0x1
_ODT = "application/vnd.oasis.opendocument.text"
_OTHER_MIMES = {
    "application/vnd.oasis.opendocument.spreadsheet": "an OpenDocument spreadsheet",
    "application/vnd.oasis.opendocument.presentation": "an OpenDocument presentation",
}
_OTHERS = {"xl/workbook.xml": "an Excel workbook", "ppt/presentation.xml": "a PowerPoint presentation"}


def open_archive(file: IO[bytes]) -> zipfile.ZipFile:
    """Return the opened archive. Raises Unprocessable if it is damaged."""
    try:
        return zipfile.ZipFile(file)
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError) as error:
        raise failures.damaged("the file is damaged: it is a ZIP archive without a readable table of contents") from error


def content_of(archive: zipfile.ZipFile) -> str:
    """Return the kind of document that an archive is (docx, odt, epub), or what else it is, in words."""
    names = set(archive.namelist())
    mime = ""
    if "mimetype" in names and archive.getinfo("mimetype").file_size < 200:
        mime = read_member(archive, "mimetype").decode("ascii", "replace").strip()
    if mime in _OTHER_MIMES:
        return _OTHER_MIMES[mime]
    if mime == "application/epub+zip" or "META-INF/container.xml" in names:
        return "epub"
    if mime == _ODT:
        return "odt"
    if "[Content_Types].xml" in names and any(name.startswith("word/") for name in names):
        return "docx"
    return next((content for name, content in _OTHERS.items() if name in names), "a ZIP archive")


def check_archive(archive: zipfile.ZipFile, limits: ParseLimits) -> None:
    """Check what the archive will unpack to: zipfile never unpacks more of a member than its header says.

    Raises TooLarge if it is too much, Unprocessable if a member has a password or a compression that no document has.
    """
    members = archive.infolist()
    if len(members) > _MEMBERS:
        raise failures.unpacks_too_large(f"the file is an archive of more than {_MEMBERS:,} files")
    unpacked = sum(member.file_size for member in members)
    if unpacked > limits.unpacked:
        raise failures.unpacks_too_large(f"the file unpacks to more than {limits.unpacked // 1_000_000:,} MB")
    packed = sum(member.compress_size for member in members)
    if unpacked > _ANY_RATIO and unpacked > limits.ratio * packed:
        what = f"the file unpacks to more than {limits.ratio:,} times its size, as only bombs do"
        raise failures.unpacks_too_large(what)
    if any(member.flag_bits & _ENCRYPTED for member in members):
        raise failures.encrypted("the file is encrypted: it needs a password")
    if any(member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) for member in members):
        raise failures.damaged("the file is damaged: it is compressed in a way that its format does not have")


def read_member(archive: zipfile.ZipFile, name: str) -> bytes:
    """Return the unpacked bytes of a member. Raises Unprocessable if it is missing or damaged."""
    try:
        return archive.read(name)
    except KeyError as error:
        raise failures.damaged("the file is damaged: a part of it is missing") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError) as error:
        raise failures.damaged("the file is damaged: a part of it cannot be unpacked") from error
