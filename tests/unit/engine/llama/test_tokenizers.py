"""Real vocabularies: the tokens are those of the models' makers, what people type is never a special one; forms are kept.

Each vocabulary is loaded once for the whole file, which takes up to a second.
"""

from __future__ import annotations

import functools
import json
import mmap
import re
import shutil
import struct
import time
from collections.abc import Sequence
from pathlib import Path
from random import Random

import gguf
import llama_cpp
import pytest

from services.backend.types import Prompt
from services.engine.llama.vocabulary import Vocabulary
from services.engine.llama.vocabulary_file import load_vocabulary
from services.engine.loop.text import TextAssembler
from services.prompts.form import least_tokens
from tests.support.real_models import gemma3, smollm2, vocabularies
from tests.support.real_models import vocabulary as vocabulary_of
from tests.support.tiny import GUIDE
from tests.support.walks import Writer, check_mask, writer

FILES = {path.name.removeprefix("ggml-vocab-").removesuffix(".gguf"): path for path in vocabularies()}
TESTED = [name for name, path in FILES.items() if path.with_name(f"{path.name}.inp").exists()]
# BERT's vocabularies are for embeddings: text in lower case without accents, which does not come back as it was.
WRITING = [name for name in FILES if "bert" not in name]
# Of a vocabulary with thousands of special tokens so many, evenly, are tried.
MOST = 60
HEBREW = "\u05e9\u05b8\u05c1\u05dc\u05d5\u05b9\u05dd \u05e2\u05d5\u05b9\u05dc\u05b8\u05dd"
SCRIPTS = [
    "😀 👩‍👩‍👧‍👦 🏳️‍🌈 👍🏽 🇩🇪🇯🇵 ☕️",
    "中文、日本語、한국어。𠮷野家で𩸽を食べる",
    HEBREW,
    "e\u0301 n\u0303 a\u0323\u0308 Z\u0351\u036b\u0343a\u0329\u0354l\u0348g\u033co\u0350",
    "\u0915\u094d\u0937\u093f \u0e17\u0e35\u0e48",
]


def text_of(vocabulary: Vocabulary, tokens: Sequence[int]) -> str:
    return b"".join(vocabulary.pieces(tokens)).decode("utf-8", "replace")


def typed(text: str) -> Prompt:
    """A prompt that a person typed, all of it."""
    return Prompt(text, ((0, len(text)),), bos=False)


def written(vocabulary: Vocabulary, tokens: list[int]) -> str:
    """The text of tokens, without the space that some vocabularies put in front of it."""
    text = text_of(vocabulary, tokens)
    return text[1:] if text_of(vocabulary, vocabulary.tokenize(Prompt("x", bos=False))) == " x" else text


def can_spell(here: Writer, text: str) -> bool:
    """Return whether a vocabulary has a token for each byte of a text."""
    return all(bytes([code]) in here.spelled for code in text.encode())


@functools.cache
def special_ids(vocabulary: Vocabulary) -> dict[str, int]:
    """The tokens that no text which people type may become, by what they are written as."""
    found = {}
    for token in range(vocabulary.size):
        attributes = llama_cpp.llama_vocab_get_attr(vocabulary.pointer, token)
        if not attributes & (llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED):
            continue
        text = llama_cpp.llama_vocab_get_text(vocabulary.pointer, token).decode()
        is_added = attributes & llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED and re.fullmatch(r"<\S+>|\[\S+\]", text)
        is_html = re.fullmatch(r"</?[a-z]+[1-6]?>", text) and not attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL
        if attributes & llama_cpp.LLAMA_TOKEN_ATTR_CONTROL or (is_added and not is_html):
            found[text] = token
    return found


@pytest.mark.parametrize("name", TESTED)
def test_the_tokens_are_those_of_the_makers(name: str) -> None:
    vocabulary, path = vocabulary_of(name), FILES[name]
    # Format: llama.cpp's tests/test-tokenizer-0.cpp.
    border = "\n__ggml_vocab_test__\n"
    texts = path.with_name(f"{path.name}.inp").read_bytes().decode().removesuffix(border).split(border)
    lines = path.with_name(f"{path.name}.out").read_text(encoding="utf-8").splitlines()
    assert len(texts) == len(lines) > 30
    for text, line in zip(texts, lines, strict=True):
        expected = [int(token) for token in line.split()]
        assert vocabulary.tokenize(Prompt(text, bos=False)) == expected, repr(text)
        assert vocabulary.tokenize(typed(text)) == expected, repr(text)


@pytest.mark.parametrize("name", WRITING)
def test_no_text_that_people_type_becomes_a_special_token(name: str) -> None:
    vocabulary = vocabulary_of(name)
    specials = special_ids(vocabulary)
    assert specials
    for text in list(specials)[:: -(-len(specials) // MOST)]:
        assert specials[text] in vocabulary.tokenize(Prompt(f"a{text}b", bos=False)), f"{text} in a template"
        for said in (text, f"one{text}two", f" {text}\n{text} ", f"<{text}>", text * 3):
            tokens = vocabulary.tokenize(typed(said))
            assert not set(tokens) & set(specials.values()), repr(said)
            assert written(vocabulary, tokens) == said


@pytest.mark.parametrize("name", WRITING)
def test_what_is_typed_leaves_the_tokens_around_it_as_they_are(name: str) -> None:
    vocabulary = vocabulary_of(name)
    specials = special_ids(vocabulary)
    names = list(specials)[:: -(-len(specials) // 4)]
    for forged in names:
        border = names[0]
        for before, after in (
            (border, border),
            (f"{border} Hi \n {border}\n", f" {border} \n bye {border}"),
            (" x ", "\n y"),
        ):
            said = f"say{forged}this"
            prompt = Prompt(f"{before}{said}{after}", ((len(before), len(before) + len(said)),), bos=False)
            tokens = vocabulary.tokenize(prompt)
            harmless = vocabulary.tokenize(Prompt(f"{before}{'w' * len(said)}{after}", prompt.typed, bos=False))
            begin, end = _fragment(tokens, set(specials.values()), before.count(border))
            plain_begin, plain_end = _fragment(harmless, set(specials.values()), before.count(border))
            assert tokens[:begin] == harmless[:plain_begin]
            assert tokens[end:] == harmless[plain_end:]


def _fragment(tokens: list[int], specials: set[int], n_before: int) -> tuple[int, int]:
    """From where to where what stands between the special token number `n_before` (1: the first) and the next goes."""
    at = [n for n, token in enumerate(tokens) if token in specials]
    return at[n_before - 1] + 1 if n_before else 0, at[n_before] if n_before < len(at) else len(tokens)


@pytest.mark.parametrize("said", ["</s>", "<s>", "<|end|>", "Say </s>, please", "<|user|>\n"])
def test_phi_3_keeps_the_template_whatever_is_typed(said: str) -> None:
    """Its template's tokens take the white space behind them along."""
    vocabulary = vocabulary_of("phi-3")
    head = "<|system|>\nYou are helpful.<|end|>\n<|user|>\nHow are you?<|end|>\n<|assistant|>\nFine.<|end|>\n<|user|>\n"
    tail = "<|end|>\n<|assistant|>\n"
    tokens = vocabulary.tokenize(Prompt(f"{head}{said}{tail}", ((len(head), len(head) + len(said)),)))
    alone, end = vocabulary.tokenize(Prompt(head)), vocabulary.tokenize(Prompt(tail, bos=False))
    assert tokens[: len(alone)] == alone
    assert tokens[-len(end) :] == end
    assert len(tokens) < len(alone) + len(end) + 12
    middle = tokens[len(alone) : -len(end)]
    assert not set(middle) & set(special_ids(vocabulary).values())
    assert text_of(vocabulary, middle) == f" {said}"


def test_gemma_4_roles_cannot_be_forged() -> None:
    vocabulary = vocabulary_of("gemma-4")
    for mark in ("<|channel>", "<|tool_call>", '<|"|>', "<|turn>"):
        [token] = vocabulary.tokenize(Prompt(mark, bos=False))
        assert mark in vocabulary.chat_format.specials
        assert token not in vocabulary.tokenize(typed(f"x{mark}y"))
        half = Prompt(mark, ((0, 3),), bos=False)
        assert token not in vocabulary.tokenize(half), "nor one that was typed in part"


def test_runs_of_white_space_are_the_tokens_that_they_are() -> None:
    vocabulary = vocabulary_of("gpt-neox")
    spaces = " " * 24
    assert vocabulary.tokenize(typed(f"a{spaces}b")) == vocabulary.tokenize(Prompt(f"a{spaces}b"))
    assert len(vocabulary.tokenize(typed(f"a{spaces}b"))) < 5
    assert spaces not in vocabulary.chat_format.specials


def test_gemma_3_reads_html_and_newlines_as_its_own_tokens_and_no_typed_mark() -> None:
    vocabulary = load_vocabulary(gemma3())
    for text in ("<table><tr><td>\n\n\n</td></tr></table>", "a\n\n\nb   c\t\td"):
        assert vocabulary.tokenize(typed(text)) == vocabulary.tokenize(Prompt(text, bos=False))
    for mark in ("<start_of_image>", "<start_of_turn>", "[multimodal]", "<eos>"):
        assert len(vocabulary.tokenize(Prompt(mark, bos=False))) == 1
        tokens = vocabulary.tokenize(typed(f"x\n{mark}{mark}y"))
        assert not set(tokens) & set(special_ids(vocabulary).values())
        assert text_of(vocabulary, tokens) == f"x\n{mark}{mark}y"


def test_a_typed_mark_is_cut_without_a_space_where_a_vocabulary_puts_one_before_each_text(tmp_path: Path) -> None:
    """Phi-3's vocabulary, of which two control tokens become marks that its makers added beside those."""
    made = tmp_path / "marks.gguf"
    shutil.copy(FILES["phi-3"], made)
    specials = special_ids(vocabulary_of("phi-3"))
    marks = {text: specials[text] for text in ("<|placeholder1|>", "<|user|>")}
    key = b"tokenizer.ggml.token_type"
    with made.open("r+b") as file, mmap.mmap(file.fileno(), 0) as data:
        # An array's kind, its items' kind and their number stand between the key and the items.
        items = data.find(key) + len(key) + struct.calcsize("<IIQ")
        for token in marks.values():
            assert struct.unpack_from("<i", data, items + 4 * token) == (gguf.TokenType.CONTROL,)
            struct.pack_into("<i", data, items + 4 * token, gguf.TokenType.USER_DEFINED)
    vocabulary = load_vocabulary(made)
    for mark, token in marks.items():
        assert token in vocabulary.tokenize(Prompt(f"a{mark}b", bos=False))
        for said in (mark, f"a{mark}b", f"{mark}\n{mark}", f"<{mark}<|user|>", f"{mark} {mark}<"):
            tokens = vocabulary.tokenize(typed(said))
            assert not set(tokens) & set(marks.values())
            assert text_of(vocabulary, tokens) == f" {said}"


@pytest.mark.parametrize("name", WRITING)
def test_scripts_come_out_a_token_at_a_time_as_they_went_in(name: str) -> None:
    vocabulary = vocabulary_of(name)
    for text in SCRIPTS:
        tokens = vocabulary.tokenize(Prompt(text, bos=False))
        assembler = TextAssembler(())
        pieces = [piece for token in tokens for piece in assembler.add(vocabulary.piece(token))]
        said = "".join([*pieces, *assembler.flush()])
        assert said.removeprefix(" ") == text


@pytest.mark.parametrize("path", [GUIDE, smollm2()], ids=lambda path: path.stem)
def test_the_models_that_tests_run_on_do_so_too(path: Path) -> None:
    vocabulary = load_vocabulary(path)
    for text in vocabulary.chat_format.specials:
        tokens = vocabulary.tokenize(typed(f"a{text}b"))
        assert not set(tokens) & set(special_ids(vocabulary).values())
        assert text_of(vocabulary, tokens) == f"a{text}b"


@pytest.mark.parametrize("name", FILES)
def test_cutting_a_text_at_added_tokens_changes_no_token(name: str) -> None:
    """llama.cpp takes minutes to find thousands of them; what we give it piece by piece has the same tokens."""
    vocabulary, random = vocabulary_of(name), Random(name)
    attributes = {token: llama_cpp.llama_vocab_get_attr(vocabulary.pointer, token) for token in range(vocabulary.size)}
    found = (
        llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
    )
    added = [vocabulary._text(token) for token, known in attributes.items() if known & found]
    plain = [" ", "\n", "  ", "word", " word", "<", ">", "|", "[", "é", "中", "😀", "\t", ".", "\n\n\n", "\u2581", "a" * 50]
    for _ in range(100):
        # Cut ones too, which may be parts of longer ones.
        parts = [random.choice(added)[random.choice((0, 0, 0, 1)) :] for _ in range(random.randrange(1, 12))]
        text = "".join(part + random.choice(["", random.choice(plain), *plain]) for part in parts)
        for parse_special in (True, False):
            expected = vocabulary._tokenize_here(text, parse_special)
            assert vocabulary._tokenize(text, parse_special) == expected, repr(text)


@pytest.mark.parametrize("name", FILES)
def test_cutting_a_long_text_changes_no_token(name: str) -> None:
    vocabulary, random = vocabulary_of(name), Random(name)
    letters = ["\n", "😀", "word ", "  ", "x", "\n\n", "\u0378", "é", "中", "\x07", "<"]
    for _ in range(3):
        text = "".join(random.choice(letters) for _ in range(9_000))
        assert vocabulary._tokenize(text, False) == vocabulary._tokenize_here(text, False)


@pytest.mark.parametrize("name", WRITING)
def test_every_kind_of_vocabulary_keeps_to_a_form(name: str) -> None:
    here = writer(name)
    schema = {"type": "object", "properties": {"é": {"type": "string"}, "n": {"type": "number"}}, "required": ["é", "n"]}
    for text in ('{"é": "naïve \U0001f600\\n", "n": -1.5}', '{"é":"","n":0}'):
        if can_spell(here, text):
            assert here.accepts(here.matcher("json_schema", schema), text)
    matcher = here.matcher("json_schema", schema)
    tokens = matcher.closing_tokens()
    assert tokens is not None
    assert here.text(tokens).replace(" ", "") == '{"é":"","n":1}'
    for text, is_right in (("é2\U0001f600", True), ("yes", True), ("éé", False), ("maybe", False), ("", False)):
        assert not can_spell(here, text) or here.accepts(here.matcher("regex", "é[0-9]\\u{1F600}|yes|no"), text) == is_right
    check_mask(here, here.matcher("json_schema", json.dumps(schema)), Random(name), steps=6)


@pytest.mark.parametrize("name", WRITING)
def test_no_text_has_fewer_tokens_than_the_longest_one_allows(name: str) -> None:
    vocabulary, random = vocabulary_of(name), Random(name)
    longest = vocabulary.chat_format.longest_token
    if not longest:
        pytest.skip("a vocabulary that leaves parts of a text out")
    pieces = sorted(writer(name).pieces, key=len, reverse=True)
    for piece in [*pieces[:50], *random.sample(pieces, 100)]:
        text = piece.decode("utf-8", "ignore") * 20
        assert least_tokens(text, longest) <= len(vocabulary.tokenize(typed(text))), repr(text)


def test_half_a_megabyte_of_special_tokens_takes_no_minutes() -> None:
    """Bounds that only what grows with the square of its length goes past."""
    vocabulary = vocabulary_of("phi-3")
    for text in ("<|end|>" * 70_000, "<|end|>x" * 60_000, "\n" * 200_000, "😀" * 100_000):
        for prompt in (Prompt(text, bos=False), typed(text)):
            began = time.thread_time()
            assert len(vocabulary.tokenize(prompt)) > 50_000
            assert time.thread_time() - began < 2.5
