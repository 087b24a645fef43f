"""A loaded model's vocabulary: tokenizing prompts, and the bytes of tokens."""

from __future__ import annotations

import ctypes
import itertools
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from functools import cached_property

from services.backend.special_text import special_pattern
from services.backend.types import ChatFormat, Infill, Mark, Prompt
from services.engine.llama.bindings import llama_cpp
from services.engine.llama.cuts import Cuts
from services.engine.llama.fragments import SPACE, Added, Fragments
from services.engine.llama.prefix_table import PrefixTable
from services.errors import InvalidRequest

# For some vocabularies llama.cpp splits text with std::regex, which recurses over a run of like characters, taking about
# 320 bytes of stack each: a run of 26,000 crashes a thread of usual stack size (llama.cpp's issue 27783).
LONG_TEXT = 4_000
BIG_STACK = 2**29

# A long run may take hundreds of megabytes of stack, so only one such text is tokenized at a time, beside smaller ones.
_LARGE_TEXT = 100_000
_large, _small = threading.Semaphore(1), threading.Semaphore(3)
# Texts of models whose tokens are kept.
MOST_TAGS = 256
# Protects the process-wide stack size of new threads.
_starting = threading.Lock()
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# An added token that is written like markup: <|channel>, [INST], <think>.
_MARK = re.compile(r"[<\[{]\S+[>\]}]")
# Gemma's vocabulary has such tokens for HTML, which people type and which control nothing.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|caption|code|div|em|footer|h[1-6]|html|i|iframe|img|li|span|strong|su[bp]|t[dhr]|"
    r"table|tbody|tfoot|thead|u|ul)>"
)
# Tokenizers (tokenizer.ggml.model) that make one token of an unknown word, however long.
_CLOSED = ("whitespace", "hybriddna")
# The characters for white space in the texts of tokens: SentencePiece's and GPT-2's.
_WRITTEN_SPACE = str.maketrans("", "", "\u2581\u0120\u010a\u0109\u010d \n\t\r")
# In front of a text these prevent the space that some vocabularies insert there, and merge with nothing.
_GUARDS = ("\n", "\x02")


@dataclass(frozen=True, slots=True)
class TokenText:
    """A token as text: its bytes in an answer, which a control token has none of, and those that name it in any case.

    `mark` is the text of a special token, else None.
    """

    piece: bytes
    written: bytes
    mark: Mark | None
    ends_answer: bool


def on_big_stack(work: Callable[[], list[int]], size: int) -> list[int]:
    """Run `work`, on a text of `size` letters, in a thread with a stack of BIG_STACK bytes; return or raise its result."""
    done: Future[list[int]] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    with _large if size > _LARGE_TEXT else _small:
        with _starting:
            usual = threading.stack_size(BIG_STACK)
            try:
                threading.Thread(target=run, name="tokenize").start()
            finally:
                threading.stack_size(usual)
        return done.result()


class Vocabulary:
    """A model's vocabulary. Any thread may call it while the model is loaded: llama.cpp's tokenizer is thread-safe."""

    def __init__(self, model: int) -> None:
        """`model` is llama.cpp's pointer to the model; `pointer` becomes the one to its vocabulary."""
        self.pointer = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.pointer)
        self._bos: int | None = None
        if llama_cpp.llama_vocab_get_add_bos(self.pointer):
            bos = llama_cpp.llama_vocab_bos(self.pointer)
            self._bos = bos if bos >= 0 else None
        self._asked: dict[int, TokenText] = {}
        self._tags: dict[str, tuple[int, ...]] = {}
        self._added = self._added_tokens()
        self._controls = {each.id for each in self._added if each.is_control}
        self._specials, marks = _special_texts(self._added)
        self._marks = {each.id: Mark(each.text) for each in self._added if each.text in self._specials}
        self._fragments = Fragments(self._added)
        self._special, self._mark = special_pattern(self._specials), special_pattern(marks)
        self.chat_format = ChatFormat(
            template=_template(model, None),
            tool_template=_template(model, b"tool_use"),
            bos=self._text(llama_cpp.llama_vocab_bos(self.pointer)),
            eos=self._text(llama_cpp.llama_vocab_eos(self.pointer)),
            specials=tuple(sorted(self._specials, key=len, reverse=True)),
            longest_token=self._longest_token(model),
        )
        self._rank_template = _template(model, b"rerank")
        self._is_spm = llama_cpp.llama_vocab_type(self.pointer) == llama_cpp.LLAMA_VOCAB_TYPE_SPM

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, with the model's beginning-of-sequence token first if it uses one.

        A special token's text becomes that token in the template, and plain text in the spans that people typed.
        Raises InvalidRequest for ids that do not exist, and for a gap to fill in where there are no tokens for it.
        """
        if prompt.ids:
            self.check(prompt.ids, "prompt")
            return list(prompt.ids)
        if prompt.infill:
            return self._around_gap(prompt.infill)
        special, typed = self._find_specials(prompt)
        if typed:
            tokens = list(self._tokenize_around(prompt.text, special, typed))
        else:
            tokens = self._tokenize(prompt.text, parse_special=True)
        if prompt.bos and self._bos is not None and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tokens

    @property
    def marks(self) -> Collection[int]:
        """The ids of the special tokens: between messages, and between parts of a reply."""
        return self._marks.keys()

    @property
    def ending(self) -> list[int]:
        """The tokens that embedding models expect at the end of a text: BERT's separator, or the end token."""
        if llama_cpp.llama_vocab_get_add_sep(self.pointer):
            return [token for token in [llama_cpp.llama_vocab_sep(self.pointer)] if token >= 0]
        return [llama_cpp.llama_vocab_eos(self.pointer)] if llama_cpp.llama_vocab_get_add_eos(self.pointer) else []

    def _around_gap(self, infill: Infill) -> list[int]:
        """Return the tokens of the texts around a gap, as models for code were trained (prefix, suffix, middle).

        Other files come first, by the tokens for repositories where there are any. Source: llama.cpp's
        tools/server/server-common.cpp, format_prompt_infill; arXiv 2409.12186.
        """
        before, behind, middle = (
            int(find(self.pointer))
            for find in (llama_cpp.llama_vocab_fim_pre, llama_cpp.llama_vocab_fim_suf, llama_cpp.llama_vocab_fim_mid)
        )
        if min(before, behind, middle) < 0:
            what = f"{infill.param}: this model has no tokens for filling in the middle of a text"
            raise InvalidRequest(what, param=infill.param, code="no_infill")
        repository, file = llama_cpp.llama_vocab_fim_rep(self.pointer), llama_cpp.llama_vocab_fim_sep(self.pointer)

        def plain(text: str) -> list[int]:
            return self._tokenize(text, parse_special=False) if text else []

        tokens = [] if self._bos is None else [self._bos]
        if infill.files and min(repository, file) >= 0:
            tokens += [repository, *plain("project\n")]
            for name, text in infill.files:
                tokens += [file, *plain(f"{name}\n{text}")]
            tokens += [file, *plain("file\n")]
        else:
            for _, text in infill.files:
                tokens += plain(f"\n\n--- snippet ---\n\n{text}")
        return [*tokens, before, *plain(infill.before), behind, *plain(infill.behind), middle]

    def tokenize_pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """Return the tokens of a query with each document, as models that rank texts were trained.

        By the template of the file's `tokenizer.chat_template.rerank`, or else with the separators that the vocabulary adds
        to texts. Source: llama.cpp's tools/server/server-common.cpp, format_prompt_rerank.
        """
        if self._rank_template:
            return [self.tokenize(_filled(self._rank_template, query, document)) for document in documents]
        eos, sep = llama_cpp.llama_vocab_eos(self.pointer), llama_cpp.llama_vocab_sep(self.pointer)
        ends = [eos if eos >= 0 else sep] if llama_cpp.llama_vocab_get_add_eos(self.pointer) else []
        separators = [sep] if llama_cpp.llama_vocab_get_add_sep(self.pointer) else []
        # BERT was trained with its separator behind the document too.
        between, ends = [*ends, *separators], ends or separators
        bos = [] if self._bos is None else [self._bos]
        asked = self._tokenize(query, parse_special=False)
        return [[*bos, *asked, *between, *self._tokenize(each, parse_special=False), *ends] for each in documents]

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token, special ones included. Raises InvalidRequest for ids that do not exist."""
        self.check(tokens, "tokens")
        return list(self._pieces(tokens))

    def check(self, tokens: Iterable[int], param: str) -> None:
        """Raise InvalidRequest, naming `param`, if one of them is not a token id."""
        for token in tokens:
            if not 0 <= token < self.size:
                message = f"{param}: {token} is no token of this model, whose ids go from 0 to {self.size - 1}"
                raise InvalidRequest(message, param=param, code="no_such_token")

    def piece(self, token: int) -> bytes:
        """Return the bytes of a token; b"" for a special one."""
        return self.known(token).piece

    def ends_answer(self, token: int) -> bool:
        """Return whether this token ends an answer."""
        return self.known(token).ends_answer

    def known(self, token: int) -> TokenText:
        """Return a token as text, cached: each call of llama.cpp releases the GIL."""
        known = self._asked.get(token)
        if known is None:
            mark = self._marks.get(token)
            [written] = self._pieces([token])
            piece = b"" if token in self._controls else written
            ends = bool(llama_cpp.llama_vocab_is_eog(self.pointer, token))
            known = self._asked[token] = TokenText(piece, written or (mark.encode() if mark else b""), mark, ends)
        return known

    @cached_property
    def endings(self) -> list[int]:
        """The tokens that end an answer, ascending."""
        return [token for token in range(self.size) if llama_cpp.llama_vocab_is_eog(self.pointer, token)]

    @cached_property
    def suppressed(self) -> list[int]:
        """The tokens that the model's makers rule out in answers (GGUF's tokenizer.ggml.suppress_tokens)."""
        count = ctypes.c_int32()
        tokens = llama_cpp.llama_vocab_get_suppress_tokens(self.pointer, ctypes.byref(count))
        return [token for token in tokens[: count.value] if 0 <= token < self.size] if tokens and count.value else []

    def continuation(self, text: str) -> list[int]:
        """Return tokens that write exactly `text` behind other text, none of them special; [] if none do."""
        tokens = [token for part in self._plain_parts(text) for token in self._tokenize_rest(part)]
        return tokens if b"".join(self._pieces(tokens)) == text.encode() else []

    def tag(self, text: str) -> tuple[int, ...]:
        """Return the tokens of a text that a model writes, special tokens among them; cached."""
        tokens = self._tags.get(text)
        if tokens is None:
            found = self.tokenize(Prompt(text, bos=False)) if text else []
            # Some vocabularies put a space in front of a text.
            is_exact = b"".join(self.known(token).written for token in found) == text.encode()
            tokens = tuple(found if is_exact else self.continuation(text) or found)
            if len(self._tags) >= MOST_TAGS:
                self._tags.clear()
            self._tags[text] = tokens
        return tokens

    @cached_property
    def prefixes(self) -> PrefixTable:
        """The tokens by the beginnings of their bytes; made when it is first needed, since that takes a while."""
        marks = self._marks
        pieces = enumerate(self._pieces(range(self.size)))
        return PrefixTable([piece or marks.get(token, "").encode() for token, piece in pieces])

    def _pieces(self, tokens: Iterable[int]) -> Iterator[bytes]:
        """Yield the bytes of each token; of a control token those of its text."""
        piece, pointer = llama_cpp.llama_token_to_piece, self.pointer
        size = 64
        buffer = ctypes.create_string_buffer(size)
        for token in tokens:
            length: int = piece(pointer, token, buffer, size, 0, True)
            if length < 0:
                size = -length
                buffer = ctypes.create_string_buffer(size)
                length = piece(pointer, token, buffer, size, 0, True)
            yield buffer.raw[:length]

    def _find_specials(self, prompt: Prompt) -> tuple[list[re.Match[str]], list[int]]:
        """The template's special tokens, and the positions of those that people typed, at least in part."""
        special, typed, at = [], [], 0
        while match := self._special.search(prompt.text, at):
            if _is_typed(match, prompt):
                typed.append(match.start())
                # Another one may begin within it.
                at = match.start() + 1
            else:
                special.append(match)
                at = match.end()
        return special, typed

    def _tokenize_around(self, text: str, special: list[re.Match[str]], typed: list[int]) -> Iterator[int]:
        """Yield llama.cpp's tokens of a text, except that typed text becomes no special tokens.

        llama.cpp tokenizes the fragments between special tokens separately (src/llama-vocab.cpp, tokenizer_st_partition),
        so that those without typed special tokens can be tokenized together.
        """
        done = 0
        for before, after in itertools.pairwise([None, *special, None]):
            start, end = before.end() if before else 0, after.start() if after else len(text)
            first = bisect_left(typed, start)
            if first == len(typed) or typed[first] >= end:
                continue
            yield from self._tokenize(text[done:start], parse_special=True)
            fragment = text[start:end]
            if before and self._specials[before[0]].strips_right:
                fragment = fragment.lstrip(SPACE)
            if after and self._specials[after[0]].strips_left:
                fragment = fragment.rstrip(SPACE)
            yield from self._tokenize_plain(fragment)
            done = end
        yield from self._tokenize(text[done:], parse_special=True)

    def _tokenize_plain(self, text: str) -> Iterator[int]:
        """Yield the tokens of a text without special tokens.

        llama.cpp still recognizes added tokens that are not control tokens, so each of them is cut in two.
        """
        first, *rest = self._plain_parts(text)
        yield from self._tokenize(first, parse_special=False)
        for part in rest:
            yield from self._tokenize_rest(part)

    def _plain_parts(self, text: str) -> list[str]:
        """A text in parts, none of which holds the whole text of an added token that is written like markup."""
        cuts, at = [0], 0
        while match := self._mark.search(text, at):
            at = match.start() + 1
            cuts.append(at)
        return [text[start:end] for start, end in itertools.zip_longest(cuts, cuts[1:])]

    def _tokenize_rest(self, text: str) -> list[int]:
        """The tokens of a continued text, in front of which no space may be inserted."""
        tokens = self._tokenize(text, parse_special=False)
        for guard in _GUARDS:
            if b"".join(self._pieces(tokens)) == text.encode():
                break
            before = self._tokenize(guard, parse_special=False)
            guarded = self._tokenize(guard + text, parse_special=False)
            if guarded[: len(before)] == before:
                tokens = guarded[len(before) :]
        return tokens

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        """The tokens of a text, part by part: llama.cpp's time grows with the square of the text's length."""
        tokens = []
        for part in self._fragments.split(text, parse_special):
            if isinstance(part, int):
                tokens.append(part)
            elif self._is_spm and len(part.text) > LONG_TEXT:
                tokens += self._tokenize_long(part.text, part.has_special)
            else:
                tokens += self._tokenize_part(part.text, part.has_special)
        return tokens

    def _tokenize_long(self, text: str, parse_special: bool) -> Iterator[int]:
        """The tokens of a long text for a SentencePiece model, cut by `Cuts`."""
        for guard, part in self._cuts.parts(text, parse_special):
            n_before = len(self._tokenize_here(guard, False))
            yield from self._tokenize_here(guard + part, parse_special)[n_before:]

    @cached_property
    def _cuts(self) -> Cuts:
        return Cuts(map(self._text, range(self.size)), (each.text for each in self._added))

    def _tokenize_part(self, text: str, parse_special: bool) -> list[int]:
        if len(text) <= LONG_TEXT:
            return self._tokenize_here(text, parse_special)
        return on_big_stack(lambda: self._tokenize_here(text, parse_special), len(text))

    def _tokenize_here(self, text: str, parse_special: bool) -> list[int]:
        data = text.encode()
        size = len(data) + 8
        while True:
            buffer = (llama_cpp.llama_token * size)()
            count: int = llama_cpp.llama_tokenize(self.pointer, data, len(data), buffer, size, False, parse_special)
            if count >= 0:
                return list(buffer[:count])
            size = -count

    def _text(self, token: int) -> str:
        """The text of a special token; "" for none (-1)."""
        return "" if token < 0 else llama_cpp.llama_vocab_get_text(self.pointer, token).decode("utf-8", "replace")

    def _added_tokens(self) -> list[Added]:
        """The tokens that llama.cpp looks for in a text before it tokenizes the text between them."""
        found = []
        for token in range(self.size):
            attributes = llama_cpp.llama_vocab_get_attr(self.pointer, token)
            if attributes & (_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED):
                found.append(
                    Added(
                        token,
                        self._text(token),
                        is_control=bool(attributes & _CONTROL),
                        strips_left=bool(attributes & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP),
                        strips_right=bool(attributes & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP),
                    )
                )
        return found

    def _longest_token(self, model: int) -> int:
        """The value of `ChatFormat.longest_token`: the most bytes of a token, white space apart; 0: unknown."""
        kinds = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE)
        name = ctypes.create_string_buffer(64)
        llama_cpp.llama_model_meta_val_str(model, b"tokenizer.ggml.model", name, len(name))
        # Others drop parts of a text, or make one token of any unknown part.
        if llama_cpp.llama_vocab_type(self.pointer) not in kinds or name.value.decode() in _CLOSED:
            return 0
        longest = 1
        for token in range(self.size):
            text = llama_cpp.llama_vocab_get_text(self.pointer, token)
            if len(text) > longest:
                longest = max(longest, len(text.decode("utf-8", "replace").translate(_WRITTEN_SPACE).encode()))
        return longest


def _special_texts(added: Iterable[Added]) -> tuple[dict[str, Added], list[str]]:
    """The special tokens by their texts, and the texts of those that are marks.

    Special are control and unknown tokens, and of the other added tokens the marks: the rest are runs of white space and
    ordinary words, which anybody may type.
    """
    texts, marks = {}, []
    for each in added:
        if each.text and (each.is_control or _is_mark(each.text)):
            texts[each.text] = each
            if not each.is_control:
                marks.append(each.text)
    return texts, marks


def _is_mark(text: str) -> bool:
    return bool(_MARK.fullmatch(text.strip()) and not _HTML.fullmatch(text))


def _template(model: int, name: bytes | None) -> str:
    """The named chat template in the model's file (None: the default one); "" if there is none."""
    return (llama_cpp.llama_model_chat_template(model, name) or b"").decode("utf-8", "replace")


def _filled(template: str, query: str, document: str) -> Prompt:
    """Return a rank template with its texts, in which nothing is a special token."""
    pieces, typed, at = [], [], 0
    for part in re.split(r"(\{query\}|\{document\})", template):
        text = {"{query}": query, "{document}": document}.get(part)
        if text is not None:
            typed.append((at, at + len(text)))
        pieces.append(part if text is None else text)
        at += len(pieces[-1])
    return Prompt("".join(pieces), tuple(typed))


def _is_typed(match: re.Match[str], prompt: Prompt) -> bool:
    """Return whether a typed span overlaps the match."""
    # The spans ascend: only the first that ends behind the match's beginning can overlap it.
    at = bisect_right(prompt.typed, match.start(), key=lambda span: span[1])
    return at < len(prompt.typed) and prompt.typed[at][0] < match.end()
