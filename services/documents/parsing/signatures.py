"""The types of content that are known by their first bytes."""

from __future__ import annotations

from dataclasses import dataclass

# Bytes that are enough for all of them.
HEAD = 4096


@dataclass(frozen=True)
class Signature:
    """Bytes at an offset, and the content that they begin. Short ones count only in content with NUL bytes."""

    magic: bytes
    content: str
    offset: int = 0

    def matches(self, head: bytes) -> bool:
        """Return whether the content that begins so is of this type."""
        found = head[self.offset : self.offset + len(self.magic)] == self.magic
        return found and (len(self.magic) > 3 or b"\0" in head)


PDF = "a PDF"
ZIP = "a ZIP archive"
OLE = "a Microsoft Office 97-2003 file"
BINARY = "binary data"
_SIGNATURES = (
    Signature(b"%PDF-", PDF),
    Signature(b"PK\x03\x04", ZIP),
    Signature(b"PK\x05\x06", ZIP),
    Signature(b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", OLE),
    Signature(b"{\\rtf", "an RTF document"),
    Signature(b"%!PS", "a PostScript document"),
    Signature(b"\x89PNG", "a PNG image"),
    Signature(b"\xff\xd8\xff", "a JPEG image"),
    Signature(b"GIF87a", "a GIF image"),
    Signature(b"GIF89a", "a GIF image"),
    Signature(b"II*\0", "a TIFF image"),
    Signature(b"MM\0*", "a TIFF image"),
    Signature(b"BM", "a BMP image"),
    Signature(b"\0\0\1\0", "an icon"),
    Signature(b"8BPS", "a Photoshop image"),
    Signature(b"WEBP", "a WebP image", 8),
    Signature(b"WAVE", "a WAV recording", 8),
    Signature(b"AVI ", "an AVI video", 8),
    Signature(b"ftyp", "an MP4 video or a HEIC image", 4),
    Signature(b"\x1aE\xdf\xa3", "a Matroska or WebM video"),
    Signature(b"ID3", "an MP3 recording"),
    Signature(b"OggS", "an Ogg recording"),
    Signature(b"fLaC", "a FLAC recording"),
    Signature(b"\x7fELF", "an executable"),
    Signature(b"MZ", "an executable"),
    Signature(b"\xfe\xed\xfa\xce", "an executable"),
    Signature(b"\xfe\xed\xfa\xcf", "an executable"),
    Signature(b"\xce\xfa\xed\xfe", "an executable"),
    Signature(b"\xcf\xfa\xed\xfe", "an executable"),
    Signature(b"\xca\xfe\xba\xbe", "a Java class or an executable"),
    Signature(b"\0asm", "a WebAssembly module"),
    Signature(b"\x1f\x8b\x08", "a gzip archive"),
    Signature(b"BZh9", "a bzip2 archive"),
    Signature(b"\xfd7zXZ\0", "an xz archive"),
    Signature(b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive"),
    Signature(b"Rar!\x1a\x07", "a RAR archive"),
    Signature(b"\x28\xb5\x2f\xfd", "a Zstandard archive"),
    Signature(b"ustar", "a tar archive", 257),
    Signature(b"SQLite format 3\0", "an SQLite database"),
    Signature(b"GGUF", "a GGUF model"),
    Signature(b"PAR1", "a Parquet table"),
    Signature(b"\x89HDF", "an HDF5 file"),
    Signature(b"wOFF", "a font"),
    Signature(b"wOF2", "a font"),
    Signature(b"\0\1\0\0\0", "a font"),
    Signature(b"AT&TFORM", "a DjVu document"),
    Signature(b"BOOKMOBI", "a Mobipocket e-book", 60),
)
_BYTE_ORDER_MARKS = (b"\xff\xfe", b"\xfe\xff", b"\0\0\xfe\xff")


def binary_content(head: bytes) -> str | None:
    """Return what the content is that begins with the bytes `head`, in words; None if it may be text."""
    if head.startswith(_BYTE_ORDER_MARKS) and not head.startswith(b"\xff\xfe\xff"):
        # Text in UTF-16 or UTF-32.
        return None
    for signature in _SIGNATURES:
        if signature.matches(head):
            return signature.content
    if b"%PDF-" in head[:1024] and b"\0" not in head[:1024].partition(b"%PDF-")[0]:
        # Readers of PDFs pass over what stands before it, as headers of mails; a text may also speak of it.
        return PDF if b"\nxref" in head or b" obj" in head else None
    return BINARY if b"\0" in head else None
