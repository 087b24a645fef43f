"""Real files of every kind that services/documents/parsing reads, and of kinds that it refuses."""

from __future__ import annotations

import io
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from functools import cache

# The handbook of docs/documents.md, a page for each title.
HANDBOOK = {
    "Holidays": ["Each baker has 28 days of holiday a year.", "Ask Peter for them two weeks before."],
    "Illness": ["If you are ill, call Maria before 6 in the morning."],
    "Wages": ["Wages are paid on the last working day of each month."],
}
CHAPTERS = (("Beginnings", "The lamp was lit at dusk."), ("Ends", "The lamp went out at dawn."))


def pdf(pages: Sequence[Sequence[str]], outline: Mapping[int, str] | None = None) -> bytes:
    """Return a PDF with these lines on its pages; `outline` has titles by the number of their page, from 0."""
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas = Canvas(out)
    for number, lines in enumerate(pages):
        if outline and number in outline:
            canvas.bookmarkPage(str(number))
            canvas.addOutlineEntry(outline[number], str(number), 0)
        text = canvas.beginText(72, 760)
        for line in lines:
            text.textLine(line)
        canvas.drawText(text)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def book_pdf() -> bytes:
    """Return a PDF of CHAPTERS, each with a page and an entry in the outline."""
    return pdf(list(CHAPTERS), {number: title for number, (title, _) in enumerate(CHAPTERS)})


def handbook_pdf() -> bytes:
    """Return a PDF of HANDBOOK, each page with an entry in the outline."""
    return pdf([[title, *lines] for title, lines in HANDBOOK.items()], dict(enumerate(HANDBOOK)))


def encrypted_pdf(password: str, algorithm: str = "AES-256") -> bytes:
    """Return the book with this password for its readers."""
    from pypdf import PdfReader, PdfWriter

    writer = PdfWriter(PdfReader(io.BytesIO(book_pdf())))
    writer.encrypt(password, "the owner's", algorithm=algorithm)
    out = io.BytesIO()
    writer.write(out)
    return out.getvalue()


def scanned_pdf(pages: int = 3, with_text: int = 0) -> bytes:
    """Return a PDF whose pages are images, except the first `with_text`."""
    from PIL import Image
    from reportlab.lib.utils import ImageReader
    from reportlab.pdfgen.canvas import Canvas

    out = io.BytesIO()
    canvas = Canvas(out)
    for number in range(pages):
        if number < with_text:
            canvas.drawString(72, 700, "A cover with words on it.")
        canvas.drawImage(ImageReader(Image.new("RGB", (60, 80), (240, 240, number))), 0, 0, 500, 700)
        canvas.showPage()
    canvas.save()
    return out.getvalue()


def raw_pdf(objects: Sequence[bytes]) -> bytes:
    """Return a PDF of these objects, numbered from 1; the first is its catalog."""
    out = bytearray(b"%PDF-1.7\n")
    offsets = []
    for number, body in enumerate(objects, 1):
        offsets.append(len(out))
        out += b"%d 0 obj\n%s\nendobj\n" % (number, body)
    start = len(out)
    out += b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1)
    out += b"".join(b"%010d 00000 n \n" % offset for offset in offsets)
    out += b"trailer\n<</Size %d /Root 1 0 R>>\nstartxref\n%d\n%%%%EOF\n" % (len(objects) + 1, start)
    return bytes(out)


def damaged_pdf() -> bytes:
    """Return a PDF whose first page has a content that nobody can unpack."""
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources <</Font <</F 3>>>> /Contents 4 0 R>>"
    content = b"<</Length 3 /Filter /NoSuchFilter>>\nstream\nxyz\nendstream"
    tree = b"<</Type /Pages /Kids [3 0 R] /Count 1>>"
    return raw_pdf([b"<</Type /Catalog /Pages 2 0 R>>", tree, page, content])


def pdf_bomb(size: int = 60_000_000) -> bytes:
    """Return a PDF whose page has a content that unpacks to `size` bytes."""
    packer = zlib.compressobj(9)
    piece = b" " * 1_000_000
    packed = b"".join(packer.compress(piece) for _ in range(size // len(piece))) + packer.flush()
    content = b"<</Length %d /Filter /FlateDecode>>\nstream\n%s\nendstream" % (len(packed), packed)
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources <</Font <</F 5 0 R>>>> /Contents 4 0 R>>"
    font = b"<</Type /Font /Subtype /Type1 /BaseFont /Helvetica>>"
    tree = b"<</Type /Pages /Kids [3 0 R] /Count 1>>"
    return raw_pdf([b"<</Type /Catalog /Pages 2 0 R>>", tree, page, content, font])


def cyclic_pdf() -> bytes:
    """Return a PDF whose tree of pages holds itself."""
    tree = b"<</Type /Pages /Kids [3 0 R] /Count 1>>"
    return raw_pdf([b"<</Type /Catalog /Pages 2 0 R>>", tree, b"<</Type /Pages /Parent 2 0 R /Kids [2 0 R] /Count 1>>"])


def many_pages_pdf(pages: int) -> bytes:
    """Return a PDF whose tree lists one page again and again."""
    tree = b"<</Type /Pages /Count %d /Kids [%s]>>" % (pages, b"3 0 R " * pages)
    page = b"<</Type /Page /Parent 2 0 R /MediaBox [0 0 9 9] /Resources <<>>>>"
    return raw_pdf([b"<</Type /Catalog /Pages 2 0 R>>", tree, page])


def docx() -> bytes:
    """Return a Word document with headings, paragraphs, lists and a table."""
    from docx import Document

    document = Document()
    document.add_heading("The lamp", 0)
    for title, text in CHAPTERS:
        document.add_heading(title, 1)
        document.add_paragraph(text)
    document.add_heading("Details", 2)
    document.add_paragraph("oil", style="List Bullet")
    document.add_paragraph("a wick", style="List Bullet")
    table = document.add_table(rows=2, cols=2)
    for cell, text in zip((cell for row in table.rows for cell in row.cells), ("part", "price", "wick", "3"), strict=True):
        cell.text = text
    out = io.BytesIO()
    document.save(out)
    return out.getvalue()


def changed_archive(data: bytes, changes: Mapping[str, bytes | None]) -> bytes:
    """Return an archive with these members instead of its own; those of None are left out."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        members = {name: old.read(name) for name in old.namelist()}
        for name, content in {**members, **changes}.items():
            if content is not None:
                new.writestr(name, content)
    return out.getvalue()


def archive(members: Mapping[str, str | bytes]) -> bytes:
    """Return a ZIP archive of these members, of which "mimetype" is not compressed."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name, content in members.items():
            new.writestr(name, content, zipfile.ZIP_STORED if name == "mimetype" else None)
    return out.getvalue()


LAUGHS = "".join(f'<!ENTITY l{n} "{f"&l{n - 1};" * 10}">' for n in range(1, 10))
_W = "http://schemas.openxmlformats.org/wordprocessingml/2006/main"


def docx_with_body(body: str, declarations: str = "") -> bytes:
    """Return a Word document with this XML as its body, and these declarations in a DTD."""
    dtd = f"<!DOCTYPE w:document [{declarations}]>" if declarations else ""
    xml = f'<?xml version="1.0"?>{dtd}<w:document xmlns:w="{_W}"><w:body>{body}</w:body></w:document>'
    return changed_archive(docx(), {"word/document.xml": xml.encode()})


def laughing_docx() -> bytes:
    """Return a Word document with the "billion laughs"."""
    return docx_with_body("<w:p><w:r><w:t>&l9;</w:t></w:r></w:p>", f'<!ENTITY l0 "ha">{LAUGHS}')


_ODT = "urn:oasis:names:tc:opendocument:xmlns"
_ODT_TEXT = "".join(
    f'<text:h text:outline-level="1">{title}</text:h><text:p>{text}</text:p>' for title, text in CHAPTERS
) + (
    "<text:list><text:list-item><text:p>oil</text:p><text:list><text:list-item><text:p>whale</text:p></text:list-item>"
    "</text:list></text:list-item></text:list>"
    "<table:table><table:table-row><table:table-cell><text:p>part</text:p></table:table-cell><table:table-cell>"
    "<text:p>price</text:p></table:table-cell></table:table-row></table:table>"
    '<text:p>a<text:s text:c="2"/>b<text:line-break/>c<text:note><text:note-citation>1</text:note-citation>'
    "<text:note-body><text:p>so it was</text:p></text:note-body></text:note>"
    "<office:annotation><text:p>unseen</text:p></office:annotation></text:p>"
)


def odt(text: str = _ODT_TEXT, declarations: str = "", encrypted: bool = False) -> bytes:
    """Return an OpenDocument text with this XML as its text."""
    names = "".join(f' xmlns:{each}="{_ODT}:{each}:1.0"' for each in ("office", "text", "table", "manifest"))
    dtd = f"<!DOCTYPE office:document-content [{declarations}]>" if declarations else ""
    entry = "<manifest:encryption-data/>" if encrypted else ""
    return archive(
        {
            "mimetype": "application/vnd.oasis.opendocument.text",
            "META-INF/manifest.xml": f"<manifest:manifest{names}><manifest:file-entry>{entry}</manifest:file-entry>"
            "</manifest:manifest>",
            "content.xml": f"{dtd}<office:document-content{names}><office:body><office:text>{text}"
            "</office:text></office:body></office:document-content>",
        }
    )


def epub(encrypted: str = "", pages: Sequence[str] | None = None) -> bytes:
    """Return an e-book of CHAPTERS, or of these bodies, its spine in another order than its files.

    `encrypted` is the name of a file that is encrypted.
    """
    bodies = pages or [f"<h1>{title}</h1><p>{text}&nbsp;&eacute;</p>" for title, text in CHAPTERS]
    head = '<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head>'
    names = [f"text/{chr(ord('z') - n)} {n}.xhtml" for n in range(len(bodies))]
    items = "".join(f'<item id="i{n}" href="{name.replace(" ", "%20")}"/>' for n, name in reversed([*enumerate(names)]))
    refs = "".join(f'<itemref idref="i{n}"/>' for n in range(len(names)))
    members: dict[str, str | bytes] = {
        "mimetype": "application/epub+zip",
        "META-INF/container.xml": '<container xmlns="urn:oasis:names:tc:opendocument:xmlns:container"><rootfiles>'
        '<rootfile full-path="OPS/book.opf"/></rootfiles></container>',
        "OPS/book.opf": f'<package xmlns="http://www.idpf.org/2007/opf"><manifest>{items}</manifest><spine>{refs}</spine>'
        "</package>",
        **{f"OPS/{name}": f"{head}<body>{body}</body></html>" for name, body in zip(names, bodies, strict=True)},
    }
    if encrypted:
        reference = f'<CipherReference URI="{encrypted}"/>'
        members["META-INF/encryption.xml"] = f"<encryption><EncryptedData>{reference}</EncryptedData></encryption>"
    return archive(members)


def zip_bomb(data: bytes, size: int = 500_000_000) -> bytes:
    """Return a document's archive with one more member, of `size` bytes."""
    out = io.BytesIO(data)
    with zipfile.ZipFile(out, "a", zipfile.ZIP_DEFLATED) as bomb, bomb.open("bomb.bin", "w", force_zip64=True) as member:
        piece = bytes(1_000_000)
        for _ in range(size // len(piece)):
            member.write(piece)
    return out.getvalue()


HTML = """<!DOCTYPE html><html><head><title>unseen</title><style>p {}</style><script>if (1 < 2) "unseen"</script></head>
<body><nav>unseen <a href="/">links</a></nav><h1>The  <em>lamp</em></h1><p>Oil &amp; wick &eacute;&#33;<br>second line
<h2>Parts</h2><ul><li>oil<ul><li>whale</ul><li>wick</ul><p hidden>unseen</p>
<table><tr><th>part<th>price</tr><tr><td>wick<td>3</tr></table><pre>a
  b</pre></body></html>"""
MARKDOWN = """---
title: no heading
---
# The lamp #

The lamp
========

text

```sh
# no heading
```

Parts
---

- item
---
## Ends
"""
CSV = 'name,city,name,\nAna,"Ulm, old",2,x\n\nBen,Rom\nCy,"a\n\nb",3,y,z\n'


@cache
def samples() -> dict[str, bytes]:
    """Return a small whole file of each kind by its name."""
    return {
        "a.pdf": book_pdf(),
        "a.docx": docx(),
        "a.odt": odt(),
        "a.epub": epub(),
        "a.html": HTML.encode(),
        "a.md": MARKDOWN.encode(),
        "a.csv": CSV.encode(),
        "a.txt": "Grüße\n\nund mehr".encode("utf-16"),
        "a.py": b"def f():\n    return 1\n",
    }


OTHERS: dict[str, bytes] = {
    "a PNG image": b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR",
    "a JPEG image": b"\xff\xd8\xff\xe0\0\x10JFIF",
    "an executable": b"\x7fELF\2\1\1\0",
    "a gzip archive": b"\x1f\x8b\x08\0\0\0",
    "an SQLite database": b"SQLite format 3\0",
    "an RTF document": b"{\\rtf1 hello}",
    "a ZIP archive": archive({"a.txt": "hello"}),
    "an Excel workbook": archive({"[Content_Types].xml": "<Types/>", "xl/workbook.xml": "<workbook/>"}),
    "an OpenDocument spreadsheet": archive({"mimetype": "application/vnd.oasis.opendocument.spreadsheet"}),
    "a Microsoft Office 97-2003 file": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "binary data": b"some text\0and more",
}
