from __future__ import annotations

import io
import os
import random
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from services.documents.parsing import parser
from services.documents.parsing.child import read
from services.documents.parsing.document import Heading, ParsedDocument
from services.documents.parsing.kinds import extension_of
from services.documents.parsing.limits import ParseLimits
from services.documents.parsing.markdown import headings_of
from services.documents.parsing.parser import parse
from services.documents.parsing.pdf_text import LineFinder, mend
from services.documents.parsing.protocol import ReplyError, ReplyReader, document_lines
from services.errors import HearthError, TooLarge, Unavailable, Unprocessable, UnsupportedType
from tests.support import documents
from tests.support.serving import ROOT

Parse = Callable[..., ParsedDocument]


@pytest.fixture
def parse_bytes(scratch: Path) -> Parse:
    """Parses bytes as a file of this name, stored under a name of its own, as uploads are."""

    def parse_(data: bytes, name: str, **options: object) -> ParsedDocument:
        path = scratch / "9f86d081"
        path.write_bytes(data)
        document = parse(path, name, **options)  # type: ignore[arg-type]
        check(document)
        return document

    return parse_


def check(document: ParsedDocument) -> None:
    """Check what holds for every document: where its pages and headings are."""
    assert document.text.strip()
    assert "\r" not in document.text
    assert list(document.pages) == sorted(document.pages)
    for heading in document.headings:
        line = document.text[heading.start :].split("\n")[0]
        assert heading.start == 0 or document.text[heading.start - 1] == "\n"
        assert heading.title.split()[0] in line


def read_here(data: bytes, name: str, limits: ParseLimits = ParseLimits()) -> ParsedDocument:  # noqa: B008
    """Parse in this process, where a start of another one would only cost time."""
    return read(io.BytesIO(data), Path("/nowhere"), name, limits, lambda done, of: None)


def refusal(data: bytes, name: str, limits: ParseLimits = ParseLimits()) -> HearthError:  # noqa: B008
    with pytest.raises((UnsupportedType, TooLarge, Unprocessable)) as raised:
        read_here(data, name, limits)
    assert raised.value.param == "file"
    return raised.value


def outline(document: ParsedDocument) -> list[tuple[int, str]]:
    return [(heading.level, heading.title) for heading in document.headings]


CHAPTERS = [(1, "Beginnings"), (1, "Ends")]


def test_a_pdf_has_pages_and_its_outline(parse_bytes: Parse) -> None:
    reports: list[tuple[int, int]] = []
    document = parse_bytes(documents.book_pdf(), "Book.PDF", on_progress=lambda done, of: reports.append((done, of)))
    assert document.text == "Beginnings\n\nThe lamp was lit at dusk.\n\nEnds\n\nThe lamp went out at dawn."
    assert document.kind == "pdf"
    assert document.pages == (0, document.text.index("Ends"))
    assert outline(document) == CHAPTERS
    assert reports[-1] == (2, 2)


def test_a_word_document(parse_bytes: Parse) -> None:
    document = parse_bytes(documents.docx(), "a.docx")
    assert document.kind == "docx"
    assert outline(document) == [(1, "The lamp"), *CHAPTERS, (2, "Details")]
    assert document.text.startswith("The lamp\n\nBeginnings\n\nThe lamp was lit at dusk.\n\nEnds")
    assert document.text.endswith("Details\n\n- oil\n\n- a wick\n\npart | price\nwick | 3")


def test_a_word_document_with_changes_and_controls() -> None:
    def run(text: str) -> str:
        return f"<w:r><w:t>{text}</w:t></w:r>"

    body = (
        f"<w:sdt><w:sdtPr><w:alias w:val='x'/></w:sdtPr><w:sdtContent><w:p>{run('controlled')}</w:p></w:sdtContent></w:sdt>"
        f"<w:p>{run('kept ')}<w:ins>{run('added')}</w:ins><w:del><w:r><w:delText>gone</w:delText></w:r></w:del>"
        f"<w:r><w:tab/><w:t>x</w:t><w:br/><w:t>y</w:t></w:r></w:p>"
        f"<w:p><w:pPr><w:outlineLvl w:val='2'/></w:pPr>{run('by level')}</w:p>"
    )
    document = read_here(documents.docx_with_body(body), "a.docx")
    assert document.text == "controlled\n\nkept added\tx\ny\n\nby level"
    assert outline(document) == [(3, "by level")]


def test_an_opendocument_text(parse_bytes: Parse) -> None:
    document = parse_bytes(documents.odt(), "a.odt")
    assert document.kind == "odt"
    assert outline(document) == CHAPTERS
    assert document.text.endswith("at dawn.\n\n- oil\n\n  - whale\n\npart | price\n\na  b\nc [so it was]")


def test_an_e_book_is_read_in_the_order_of_its_spine(parse_bytes: Parse) -> None:
    document = parse_bytes(documents.epub(), "a.epub")
    assert document.kind == "epub"
    assert outline(document) == CHAPTERS
    assert document.text.startswith("Beginnings\n\nThe lamp was lit at dusk. é\n\nEnds")


def test_a_web_page(parse_bytes: Parse) -> None:
    document = parse_bytes(documents.HTML.encode(), "a.htm")
    assert document.kind == "html"
    assert outline(document) == [(1, "The lamp"), (2, "Parts")]
    assert document.text == (
        "The lamp\n\nOil & wick é!\nsecond line\n\nParts\n\n"
        "- oil\n\n  - whale\n\n- wick\n\npart | price\nwick | 3\n\na\n  b"
    )


def test_a_web_page_names_its_encoding() -> None:
    page = '<meta charset="koi8-r"><p>Привет</p>'
    assert read_here(page.encode("koi8-r"), "a.html").text == "Привет"
    assert read_here(page.encode("utf-16"), "a.html").text == "Привет"
    for mistaken in ("x-none", "utf-16", "ascii", "zip"):
        assert read_here(f'<meta charset="{mistaken}"><p>café'.encode(), "a.html").text == "café"
    assert read_here(b'<meta charset="latin1"><p>\x93caf\xe9\x94', "a.html").text == "“café”"


def test_markdown(parse_bytes: Parse) -> None:
    document = parse_bytes(documents.MARKDOWN.encode(), "a.md")
    assert document.kind == "markdown"
    assert document.text == documents.MARKDOWN.rstrip()
    assert outline(document) == [(1, "The lamp"), (1, "The lamp"), (2, "Parts"), (2, "Ends")]


@pytest.mark.parametrize(
    ("text", "headings"),
    [
        ("#no\n####### no\n    # no", []),
        ("# a #b\n#\n## c ##\n### d#", [(0, 1, "a #b"), (9, 2, "c"), (17, 3, "d#")]),
        ("| a |\n---\n\n> b\n---\n1. c\n---", []),
        ("~~~\n# no\n```\n# no\n~~~\n# yes", [(22, 1, "yes")]),
        ("````\n```\n# no\n````\nyes\n==", [(19, 1, "yes")]),
    ],
)
def test_headings_in_markdown(text: str, headings: list[tuple[int, int, str]]) -> None:
    assert list(headings_of(text)) == [Heading(*each) for each in headings]


def test_a_table_has_a_paragraph_for_each_row(parse_bytes: Parse) -> None:
    document = parse_bytes(documents.CSV.encode("utf-8-sig"), "a.csv")
    assert document.kind == "csv"
    assert document.text == (
        "name: Ana\ncity: Ulm, old\nname (column 3): 2\ncolumn 4: x\n\n"
        "name: Ben\ncity: Rom\nname (column 3): \ncolumn 4:\n\n"
        "name: Cy\ncity: a\nb\nname (column 3): 3\ncolumn 4: y\nmore: z"
    )


@pytest.mark.parametrize(
    ("data", "name", "text"),
    [
        (b"a;b\n1;2,5\n", "a.csv", "a: 1\nb: 2,5"),
        (b"a\tb\n1\t2,3\n", "a.tsv", "a: 1\nb: 2,3"),
        ("a|b\n1|ü".encode("cp1252"), "a.csv", "a: 1\nb: ü"),
        (b"a,b\n", "a.csv", "a\nb"),
    ],
)
@pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
def test_tables_of_other_forms(scratch: Path, data: bytes, name: str, text: str) -> None:
    path = scratch / "table"
    path.write_bytes(data)
    with path.open("rb") as file:
        assert read(file, path, name, ParseLimits(), lambda done, of: None).text == text


@pytest.mark.parametrize(
    ("text", "encoding"),
    [
        ("Grüße aus Köln, schöne Straße", "utf-8"),
        ("Grüße aus Köln", "utf-8-sig"),
        ("Grüße 😀", "utf-16"),
        ("Grüße 😀", "utf-32"),
        ("Grüße aus Köln, schöne Straße", "latin-1"),
        ("naïve “quotes” \u2013 and a dash", "cp1252"),
        ("Привет, как дела сегодня?", "cp1251"),
        ("こんにちは世界、今日は良い天気です", "shift_jis"),
    ],
)
def test_text_in_many_encodings(text: str, encoding: str) -> None:
    document = read_here(f"{text}\r\nmore\r".encode(encoding), "a.txt")
    assert document == ParsedDocument(f"{text}\nmore", "text")


def test_source_code_stands_as_it_is(parse_bytes: Parse) -> None:
    source = (ROOT / "services/errors.py").read_text()
    document = parse_bytes(source.encode(), "errors.py")
    assert (document.text, document.kind) == (source.rstrip(), "code")
    assert read_here(b"all:\n\tcc a.c\n", "Makefile").kind == "text"


@pytest.mark.parametrize(
    ("name", "extension"),
    [
        ("a.TXT", "txt"),
        ("../../etc/passwd.md", "md"),
        ("C:\\files.v2\\notes", ""),
        ("folder.pdf/notes", ""),
        ("a\x00.p\u202edf\n", "pdf"),
        (".gitignore", ""),
        ("Mr. Smith's notes", ""),
        ("", ""),
        ("x." + "y" * 300, ""),
    ],
)
def test_the_extension_of_a_name(name: str, extension: str) -> None:
    assert extension_of(name) == extension


@pytest.mark.parametrize("kind", ["pdf", "docx", "odt", "epub", "html"])
def test_a_file_without_extension_is_recognized(kind: str) -> None:
    data = documents.samples()[f"a.{kind}"]
    assert read_here(data, "upload").kind == kind
    if kind != "html":
        error = refusal(data, "a.txt")
        assert (type(error), error.code) == (UnsupportedType, "disguised_file")


@pytest.mark.parametrize("content", documents.OTHERS)
@pytest.mark.parametrize("extension", ["pdf", "txt", "docx"])
def test_a_disguised_file_is_refused(content: str, extension: str) -> None:
    error = refusal(documents.OTHERS[content], f"a.{extension}")
    assert (type(error), error.code) == (UnsupportedType, "disguised_file")
    assert error.message == f"the file's name ends in .{extension}, but its content is {content}"


def test_a_type_that_is_not_known_is_refused() -> None:
    error = refusal(documents.OTHERS["an Excel workbook"], "a.xlsx")
    assert (type(error), error.code) == (UnsupportedType, "unsupported_file_type")
    assert error.message.startswith(
        "files of the type .xlsx, here an Excel workbook, cannot be read; these types of files work: PDF,"
    )
    assert "an executable" in refusal(documents.OTHERS["an executable"], "setup").message
    assert "is text" in refusal(b"hello", "a.pdf").message


def test_binary_data_after_some_text_is_refused() -> None:
    assert "NUL" in refusal(b"text " * 2000 + b"\0", "a.txt").message
    assert "control characters" in refusal(b"text\x01\x02\x03" * 2000, "a.txt").message


@pytest.mark.parametrize("algorithm", ["AES-256", "AES-128", "RC4-128"])
def test_an_encrypted_pdf(algorithm: str) -> None:
    error = refusal(documents.encrypted_pdf("secret", algorithm), "a.pdf")
    assert (type(error), error.code) == (Unprocessable, "encrypted_file")
    assert error.message == "the PDF is encrypted: it needs a password"
    assert outline(read_here(documents.encrypted_pdf("", algorithm), "a.pdf")) == CHAPTERS


def test_other_encrypted_files() -> None:
    word = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600) + "EncryptedPackage".encode("utf-16-le")
    for data, name in (
        (word, "a.docx"),
        (documents.odt(encrypted=True), "a.odt"),
        (documents.epub(encrypted="OPS/text/z 0.xhtml"), "a.epub"),
    ):
        assert refusal(data, name).code == "encrypted_file"
    # Fonts often are, so that nobody takes them out.
    assert read_here(documents.epub(encrypted="OPS/font.otf"), "a.epub").headings


def test_a_scanned_pdf() -> None:
    error = refusal(documents.scanned_pdf(3), "a.pdf")
    assert (type(error), error.code) == (Unprocessable, "no_text")
    assert error.message.startswith("the PDF seems to be scanned: 3 of its 3 pages have no text, only images")
    assert "19 of its 20 pages" in refusal(documents.scanned_pdf(20, with_text=1), "a.pdf").message
    assert "its only page has no text" in refusal(documents.scanned_pdf(1), "a.pdf").message
    document = read_here(documents.scanned_pdf(3, with_text=1), "a.pdf")
    assert document.text == "A cover with words on it."
    assert len(document.pages) == 3


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (b"", "a.pdf", "the file is empty"),
        (b"", "a.txt", "the file is empty"),
        (b" \n\n", "a.txt", "the file has no text"),
        (b"<p></p>", "a.html", "the file has no text"),
        (documents.odt(""), "a.odt", "the file has no text"),
        (documents.docx_with_body("<w:p/>"), "a.docx", "the file has no text"),
        (documents.pdf([[]]), "a.pdf", "the PDF has no text (1 page)"),
    ],
)
def test_no_text(data: bytes, name: str, message: str) -> None:
    error = refusal(data, name)
    assert (type(error), error.code, error.message) == (Unprocessable, "no_text", message)


def test_a_wrong_encoding() -> None:
    error = refusal("Grüße\n".encode() * 50 + b"\xff\n", "a.txt")
    assert (type(error), error.code) == (Unprocessable, "wrong_encoding")
    assert (
        error.message == "the text is in UTF-8, but byte 401 (line 51) is no character in it; please save the file as UTF-8"
    )
    assert refusal(bytes(range(128, 256)) * 40, "a.txt").code == "wrong_encoding"
    assert refusal(b"\xff\xfea\0b", "a.txt").code == "wrong_encoding"


@pytest.mark.parametrize(
    ("data", "name", "message"),
    [
        (documents.book_pdf()[:1500], "a.pdf", "as a PDF"),
        (b"%PDF-1.7\n" + random.Random(1).randbytes(5000), "a.pdf", "as a PDF"),
        (documents.cyclic_pdf(), "a.pdf", "pages cannot be read"),
        (documents.damaged_pdf(), "a.pdf", "page 1 of the PDF"),
        (documents.docx()[:5000], "a.docx", "ZIP archive"),
        (documents.changed_archive(documents.docx(), {"word/document.xml": b"<w:document"}), "a.docx", "Word document"),
        (documents.laughing_docx(), "a.docx", "Word document"),
        (documents.docx_with_body("<w:p/>", '<!ENTITY x SYSTEM "file:///etc/passwd">'), "a.docx", "XML entities"),
        (documents.odt("<text:p>&x;</text:p>", '<!ENTITY x SYSTEM "file:///etc/passwd">'), "a.odt", "XML entities"),
        (documents.odt("<text:p>&l9;</text:p>", f'<!ENTITY l0 "ha">{documents.LAUGHS}'), "a.odt", "XML"),
        (documents.changed_archive(documents.odt(), {"content.xml": None}), "a.odt", "part of it is missing"),
        (documents.changed_archive(documents.epub(), {"OPS/book.opf": b"<package/>"}), "a.epub", "no pages"),
        (documents.odt("<text:p>" * 5000), "a.odt", "no XML"),
    ],
)
def test_a_damaged_file(data: bytes, name: str, message: str) -> None:
    try:
        error = refusal(data, name)
    except RecursionError:
        pytest.fail("the parser recurses")
    assert (type(error), error.code) == (Unprocessable, "damaged_file")
    assert message in error.message


def test_what_is_too_large() -> None:
    few = replace(ParseLimits(), characters=30, unpacked=40_000_000)
    for name, data in documents.samples().items():
        if name not in ("a.txt", "a.py", "a.csv"):
            assert refusal(data, name, few).code == "too_much_text"
    error = refusal(b"x" * 31, "a.txt", few)
    assert (type(error), error.message) == (TooLarge, "the file has more than 30 characters of text")
    assert refusal(b"x" * 1000, "a.txt", few).code == "too_much_text"
    error = refusal(documents.many_pages_pdf(10_001), "a.pdf")
    assert (error.code, error.message) == ("too_many_pages", "the file has 10,001 pages; at most 10,000 can be read")
    for name in ("a.docx", "a.odt", "a.epub"):
        bomb = documents.zip_bomb(documents.samples()[name], 50_000_000)
        assert refusal(bomb, name, few).message == "the file unpacks to more than 40 MB"
        assert refusal(bomb, name).message.endswith("as only bombs do")
    error = refusal(documents.pdf_bomb(), "a.pdf")
    assert (error.code, error.message) == ("unpacks_too_large", "page 1 of the PDF unpacks to more than any page of text")


def test_the_number_of_headings_is_bounded() -> None:
    few = replace(ParseLimits(), headings=2)
    for name, data in (("a.md", b"# a\n# b\n# c"), ("a.html", b"<h1>a</h1><h1>b</h1><h1>c</h1>")):
        document = read_here(data, name, few)
        assert outline(document) == [(1, "a"), (1, "b")]
        assert "c" in document.text


def test_depth_and_size_cost_neither_stack_nor_time(parse_bytes: Parse) -> None:
    began = time.monotonic()
    assert parse_bytes(b"<div>" * 100_000 + b"deep", "a.html").text == "deep"
    assert read_here(b"<table>" + b"<tr><td>a<td>b" * 20_000, "a.html").text.count("a | b\n") == 19_999
    paragraphs = "<w:p><w:r><w:t>words</w:t></w:r></w:p>" * 8_000
    assert read_here(documents.docx_with_body(paragraphs), "a.docx").text.count("words") == 8_000
    assert read_here(("# " + " " * 100_000 + "x\n#" + "# " * 50_000).encode(), "a.md").text
    assert time.monotonic() - began < 15


def test_the_page_is_mended() -> None:
    full = "The quick brown fox jumps over the lazy dog again and"
    text = f"{full}\n{full} exam-\nple of it\n{full}\nshort end.\n{full}\n{full}\n\ufb01ne, well-\nKnown\n"
    assert mend(text) == (f"{full}\n{full} example\nof it\n{full}\nshort end.\n\n{full}\n{full}\nfine, well-\nKnown\n")


def test_titles_are_found_by_their_letters() -> None:
    finder = LineFinder("see Intro here\n1.2  Intro-\nduction\n3 Ends", 100)
    assert finder.find("Introduction") == (115, 134)
    assert finder.find("3. Ends!") == finder.find("ends") == (135, 141)
    assert finder.find("see") is finder.find("") is finder.find("?") is None


# The process.


def test_a_file_that_takes_too_long(parse_bytes: Parse) -> None:
    table = b"a,b\n" + b"1,2\n" * 300_000
    began = time.monotonic()
    with pytest.raises(Unprocessable, match="took longer than 1 seconds") as raised:
        parse_bytes(table, "a.csv", limits=replace(ParseLimits(), seconds=1))
    assert raised.value.code == "too_slow"
    assert time.monotonic() - began < 4


def test_a_file_that_takes_too_much_memory(parse_bytes: Parse) -> None:
    body = "<w:p><w:r><w:t>words</w:t></w:r></w:p>" * 50_000
    with pytest.raises(Unprocessable, match="took more than 70 MiB of memory") as raised:
        parse_bytes(documents.docx_with_body(body), "a.docx", limits=replace(ParseLimits(), memory=70 * 1024 * 1024))
    assert raised.value.code == "too_much_memory"


def test_a_cancelled_file(parse_bytes: Parse) -> None:
    began = time.monotonic()
    with pytest.raises(Unavailable) as raised:
        parse_bytes(b"a,b\n" + b"1,2\n" * 300_000, "a.csv", is_cancelled=lambda: time.monotonic() - began > 0.3)
    assert raised.value.code == "cancelled"
    assert time.monotonic() - began < 3


@pytest.mark.parametrize(
    ("program", "code"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", "damaged_file"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "too_much_memory"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGXCPU)", "too_slow"),
        ("raise MemoryError", "too_much_memory"),
        ("pass", "damaged_file"),
        ("print('no JSON')", "damaged_file"),
        ("print('x' * 3_000_000)", "damaged_file"),
        ("print('{\"text\": 1}')", "damaged_file"),
        ("import sys; sys.stderr.write('x' * 3_000_000); print('{}')", "damaged_file"),
        ("import os, time; os.close(1); os.close(2); time.sleep(60)", "damaged_file"),
    ],
)
def test_a_process_that_fails(parse_bytes: Parse, monkeypatch: pytest.MonkeyPatch, program: str, code: str) -> None:
    monkeypatch.setattr(parser, "_COMMAND", [sys.executable, "-S", "-c", program])
    with pytest.raises(Unprocessable) as raised:
        parse_bytes(b"x", "a.txt", limits=replace(ParseLimits(), seconds=1))
    assert raised.value.code == code


def test_a_process_that_cannot_be_started(parse_bytes: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parser, "_COMMAND", ["/no/such/program"])
    with pytest.raises(Unavailable) as raised:
        parse_bytes(b"x", "a.txt")
    assert raised.value.code == "no_process"


@pytest.mark.parametrize(
    "line",
    [
        b"[]",
        b'{"kind": "pdf"}',
        b'{"kind": []}',
        b'{"error": {"kind": "SystemExit", "message": "", "code": ""}}',
        b'{"progress": [1]}',
        b'{"pages": ["x"]}',
        b'{"pages": [-1]}',
        b'{"headings": [[1, 2]]}',
        b'{"text": "%s"}' % (b"x" * 40),
        b"[" * 100_000,
    ],
)
def test_a_reply_is_not_believed(line: bytes) -> None:
    with pytest.raises(ReplyError):
        ReplyReader(replace(ParseLimits(), characters=30)).read(line)


def test_a_large_document_comes_in_pieces() -> None:
    headings = tuple(Heading(n, 1, "x") for n in range(1200))
    document = ParsedDocument("é\n" * 100_000, "pdf", tuple(range(1200)), headings)
    lines = list(document_lines(document))
    assert max(map(len, lines)) < 1 << 19
    reply = ReplyReader(ParseLimits())
    for line in lines:
        assert reply.document is None
        reply.read(line)
    assert reply.document == document


def test_the_process_is_confined() -> None:
    program = """if True:
        import os, socket, subprocess, sys, tempfile
        from pathlib import Path
        from services.documents.parsing.confinement import limit_resources, refuse_other_files
        from services.documents.parsing.limits import ParseLimits
        limit_resources(ParseLimits(memory=400_000_000))
        refuse_other_files(Path(sys.argv[1]))
        open(sys.argv[1]).close()
        for forbidden in (
            lambda: open("data/config.example.json"), lambda: open(sys.argv[1] + "2"), lambda: open(sys.argv[1], "w"),
            lambda: os.open(sys.argv[1], os.O_RDWR), lambda: socket.create_connection(("127.0.0.1", 1)),
            lambda: tempfile.mkstemp(dir="/tmp"),
            lambda: subprocess.run(["true"]), lambda: os.system("true"), lambda: os.remove(sys.argv[1]), os.fork,
        ):
            try:
                forbidden()
            except PermissionError as error:
                assert "a parser" in str(error), error
            else:
                raise AssertionError("allowed")
        try:
            bytes(500_000_000)
        except MemoryError:
            print("confined", os.nice(0))
        """
    path = ROOT / "README.md"
    run = subprocess.run([sys.executable, "-c", program, path], cwd=ROOT, capture_output=True, text=True, check=False)
    assert run.stdout.split() == ["confined", str(min(19, os.nice(0) + 10))], run.stderr


def test_nothing_is_left_behind(parse_bytes: Parse, scratch: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HEARTH_SECRET", "unseen")
    before = set(os.listdir(tempfile.gettempdir()))  # noqa: PTH208
    threads = threading.active_count()
    open_files = len(os.listdir("/proc/self/fd")) if sys.platform == "linux" else 0  # noqa: PTH208
    for name in ("a.pdf", "a.docx"):
        parse_bytes(documents.samples()[name], name)
    with pytest.raises(UnsupportedType):
        parse_bytes(b"\0", "a.txt")
    new = set(os.listdir(tempfile.gettempdir())) - before  # noqa: PTH208
    assert not [name for name in new if "pypdf" in name or "docx" in name]
    assert [path.name for path in scratch.iterdir()] == ["9f86d081"]
    assert threading.active_count() == threads
    if sys.platform == "linux":
        assert len(os.listdir("/proc/self/fd")) == open_files  # noqa: PTH208


def test_many_threads_parse_at_once(scratch: Path) -> None:
    samples = documents.samples()
    kinds: dict[str, str] = {}

    def run(name: str) -> None:
        (scratch / name).write_bytes(samples[name])
        kinds[name] = parse(scratch / name, name).kind

    threads = [threading.Thread(target=run, args=[name]) for name in ("a.odt", "a.epub", "a.html", "a.md", "a.py")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert kinds == {"a.odt": "odt", "a.epub": "epub", "a.html": "html", "a.md": "markdown", "a.py": "code"}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """Return the data with a few changes: bytes, a piece that is missing, doubled or moved, or an end."""
    changed = bytearray(data)
    for _ in range(chance.choice((1, 2, 8))):
        at, length = chance.randrange(len(changed) or 1), chance.choice((1, 4, 40, 400))
        piece = bytes(changed[at : at + length])
        kind = chance.randrange(5)
        if kind == 0:
            changed[at : at + 1] = chance.randbytes(1)
        elif kind == 1:
            del changed[at : at + length]
        elif kind == 2:
            changed[at:at] = piece * chance.choice((1, 50))
        elif kind == 3:
            changed[at : at + length] = chance.choice((b"\0", b"999999999", b"<a>", b"/", b"-1")) * chance.choice((1, 9))
        else:
            del changed[max(at, 20) :]
    return bytes(changed)


@pytest.mark.filterwarnings("ignore:`langchain-community` is being sunset:DeprecationWarning")
@pytest.mark.parametrize("name", documents.samples())
def test_mutated_files_give_a_document_or_an_error_of_ours(name: str, scratch: Path) -> None:
    """HEARTH_MUTATIONS=500 tries more. Parsed here: what else were raised, the real process would call damaged."""
    chance = random.Random(f"{name}{os.environ.get('HEARTH_SEED', '')}")
    original = documents.samples()[name]
    limits = ParseLimits()
    refused: list[HearthError] = []
    for number in range(int(os.environ.get("HEARTH_MUTATIONS", "12"))):
        data = mutated(original, chance)
        # The insides of archives too.
        if name in ("a.docx", "a.odt", "a.epub") and number % 2:
            data = mutated_members(original, chance)
        path = scratch / "mutated"
        path.write_bytes(data)
        try:
            with path.open("rb") as file:
                check(read(file, path, name, limits, lambda done, of: None))
        except (TooLarge, UnsupportedType, Unprocessable) as error:
            refused.append(error)
    assert all(error.param == "file" and str(scratch) not in error.message for error in refused)


def mutated_members(data: bytes, chance: random.Random) -> bytes:
    import zipfile

    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        members = {
            name: archive.read(name) for name in archive.namelist() if name.endswith((".xml", ".xhtml", ".opf", ".rels"))
        }
    name = chance.choice([*members])
    return documents.changed_archive(data, {name: mutated(members[name], chance)})


def test_mutated_files_in_the_real_process(parse_bytes: Parse) -> None:
    chance = random.Random(2)
    codes = set()
    for name in ("a.pdf", "a.docx"):
        for _ in range(3):
            try:
                parse_bytes(mutated(documents.samples()[name], chance), name)
                codes.add("")
            except (TooLarge, UnsupportedType, Unprocessable) as error:
                codes.add(error.code)
    assert codes <= {"", "damaged_file", "disguised_file", "no_text", "unpacks_too_large", "encrypted_file"}


def test_a_large_table_takes_little_memory(parse_bytes: Parse) -> None:
    limits = replace(ParseLimits(), memory=256 * 1024 * 1024)
    assert parse_bytes(b"a,b\n" + b"one,two\n" * 50_000, "a.csv", limits=limits).text.endswith("a: one\nb: two")
