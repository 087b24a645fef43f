"""A loaded model's vocabulary: prompts to token ids, and token ids to bytes."""

from __future__ import annotations

import ctypes
import itertools
import re
import threading
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property

import llama_cpp

from services.backend.special_text import special_pattern
from services.backend.types import ChatFormat, Prompt
from services.engine.llama.cuts import Cuts
from services.engine.llama.fragments import SPACE, Added, Fragments
from services.errors import InvalidRequest

# For some vocabularies llama.cpp splits text with std::regex, which recurses over a run of like characters: about 320 bytes
# of stack each, so that a run of 26,000 ends the process on a thread of usual size (llama.cpp's issue 27783).
LONG_TEXT = 4_000
BIG_STACK = 2**29

# Such a run may take hundreds of megabytes: one at a time. A text that takes a few may go beside it.
_LARGE_TEXT = 100_000
_large, _small = threading.Semaphore(1), threading.Semaphore(3)
# Protects the size of the stacks of new threads.
_starting = threading.Lock()
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# A token of the kind that its makers added, written as one writes a mark: <|channel>, [INST], <think>.
_MARK = re.compile(r"[<\[{]\S+[>\]}]")
# Gemma has such tokens for HTML, which people type and which mean no more than that.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|caption|code|div|em|footer|h[1-6]|html|i|iframe|img|li|span|strong|su[bp]|t[dhr]|"
    r"table|tbody|tfoot|thead|u|ul)>"
)
# Kinds of tokenizers (tokenizer.ggml.model) that make one token of a word however long, if they do not know it.
_CLOSED = ("whitespace", "hybriddna")
# What white space is written as in the texts of tokens: SentencePiece's way, and GPT-2's.
_WRITTEN_SPACE = str.maketrans("", "", "\u2581\u0120\u010a\u0109\u010d \n\t\r")
# In front of a text these keep away the space that some vocabularies put there, and merge with nothing.
_GUARDS = ("\n", "\x02")


def on_big_stack(work: Callable[[], list[int]], size: int) -> list[int]:
    """Do the work, on a text of `size` letters, on a thread whose stack may take BIG_STACK bytes."""
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
    """Any thread may call it while the model is loaded: llama.cpp's tokenizer is thread-safe."""

    def __init__(self, model: int) -> None:
        """`model` is llama.cpp's pointer to the model; `pointer` will be the one to its vocabulary."""
        self.pointer = llama_cpp.llama_model_get_vocab(model)
        self.size: int = llama_cpp.llama_vocab_n_tokens(self.pointer)
        self._bos: int | None = None
        if llama_cpp.llama_vocab_get_add_bos(self.pointer):
            bos = llama_cpp.llama_vocab_bos(self.pointer)
            self._bos = bos if bos >= 0 else None
        self._asked: dict[int, tuple[bytes, bool]] = {}
        self._added = self._added_tokens()
        self._specials, marks = _special_texts(self._added)
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
        self._is_spm = llama_cpp.llama_vocab_type(self.pointer) == llama_cpp.LLAMA_VOCAB_TYPE_SPM

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, the model's beginning-of-sequence token first where it wants one.

        A special token's text is that token in the template, and plain text in the spans that people typed.
        Raises InvalidRequest for ids that there are not.
        """
        if prompt.ids:
            self.check(prompt.ids, "prompt")
            return list(prompt.ids)
        special, typed = self._find_specials(prompt)
        if typed:
            tokens = list(self._tokenize_around(prompt.text, special, typed))
        else:
            tokens = self._tokenize(prompt.text, parse_special=True)
        if prompt.bos and self._bos is not None and tokens[:1] != [self._bos]:
            tokens.insert(0, self._bos)
        return tokens

    @property
    def ending(self) -> list[int]:
        """What models for embeddings want at the end of a text: the separator of BERT's kind, or the end token."""
        if llama_cpp.llama_vocab_get_add_sep(self.pointer):
            return [token for token in [llama_cpp.llama_vocab_sep(self.pointer)] if token >= 0]
        return [llama_cpp.llama_vocab_eos(self.pointer)] if llama_cpp.llama_vocab_get_add_eos(self.pointer) else []

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special ones included. Raises InvalidRequest for ids that there are not."""
        self.check(tokens, "tokens")
        return [self._piece(token, special=True) for token in tokens]

    def check(self, tokens: Iterable[int], param: str) -> None:
        """Raises InvalidRequest where one of them is no token id."""
        for token in tokens:
            if not 0 <= token < self.size:
                message = f"{param}: {token} is no token of this model, whose ids go from 0 to {self.size - 1}"
                raise InvalidRequest(message, param=param, code="no_such_token")

    @cached_property
    def closers(self) -> list[int]:
        """What ends a JSON text soonest, the best first: the ends of an answer, a quotation mark, brackets."""
        rank = {b'"': 1, b"}": 2, b"]": 3}
        found = []
        for token in range(self.size):
            place = 0 if llama_cpp.llama_vocab_is_eog(self.pointer, token) else rank.get(self._piece(token))
            if place is not None:
                found.append((place, token))
        return [token for _, token in sorted(found)]

    def piece(self, token: int) -> bytes:
        """The bytes of a token; b"" for a special one."""
        return self._known(token)[0]

    def ends_answer(self, token: int) -> bool:
        """Whether a model says with this token that its answer is complete."""
        return self._known(token)[1]

    def _known(self, token: int) -> tuple[bytes, bool]:
        """Ask llama.cpp once: each call lets another thread have the interpreter, and the engine's waits for it then."""
        if token not in self._asked:
            self._asked[token] = self._piece(token), bool(llama_cpp.llama_vocab_is_eog(self.pointer, token))
        return self._asked[token]

    def _piece(self, token: int, special: bool = False) -> bytes:
        size = 64
        while True:
            buffer = ctypes.create_string_buffer(size)
            length: int = llama_cpp.llama_token_to_piece(self.pointer, token, buffer, size, 0, special)
            if length >= 0:
                return buffer.raw[:length]
            size = -length

    def _find_specials(self, prompt: Prompt) -> tuple[list[re.Match[str]], list[int]]:
        """The template's special tokens, and where what looks like one begins that was typed, be it in part."""
        special, typed, at = [], [], 0
        while match := self._special.search(prompt.text, at):
            if _is_typed(match, prompt):
                typed.append(match.start())
                # Another may begin within it.
                at = match.start() + 1
            else:
                special.append(match)
                at = match.end()
        return special, typed

    def _tokenize_around(self, text: str, special: list[re.Match[str]], typed: list[int]) -> Iterator[int]:
        """The tokens of a text as llama.cpp makes them, but that what was typed holds no special one.

        llama.cpp takes the fragments between special tokens one by one (src/llama-vocab.cpp, tokenizer_st_partition), so
        that those with nothing typed in them can be tokenized together.
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
        """The tokens of a text in which nothing is special.

        llama.cpp takes the marks that a model's makers added for tokens all the same, so each is cut in two.
        """
        cuts, at = [0], 0
        while match := self._mark.search(text, at):
            at = match.start() + 1
            cuts.append(at)
        yield from self._tokenize(text[: cuts[1] if len(cuts) > 1 else None], parse_special=False)
        for start, end in itertools.zip_longest(cuts[1:], cuts[2:]):
            yield from self._tokenize_rest(text[start:end])

    def _tokenize_rest(self, text: str) -> list[int]:
        """The tokens of a text that goes on, in front of which no space may come."""
        tokens = self._tokenize(text, parse_special=False)
        for guard in _GUARDS:
            if b"".join(map(self._piece, tokens)) == text.encode():
                break
            before = self._tokenize(guard, parse_special=False)
            guarded = self._tokenize(guard + text, parse_special=False)
            if guarded[: len(before)] == before:
                tokens = guarded[len(before) :]
        return tokens

    def _tokenize(self, text: str, parse_special: bool) -> list[int]:
        """The tokens of a text, part by part: llama.cpp's time grows with the square of what it is given at once."""
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
        """The same for a long text of a SentencePiece model; see `Cuts`."""
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
        """A special token as it is written; "" for none (-1)."""
        return "" if token < 0 else llama_cpp.llama_vocab_get_text(self.pointer, token).decode("utf-8", "replace")

    def _added_tokens(self) -> list[Added]:
        """The tokens that llama.cpp looks for in a text before it tokenizes what is between them."""
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
        """See `ChatFormat.longest_token`."""
        kinds = (llama_cpp.LLAMA_VOCAB_TYPE_SPM, llama_cpp.LLAMA_VOCAB_TYPE_BPE)
        name = ctypes.create_string_buffer(64)
        llama_cpp.llama_model_meta_val_str(model, b"tokenizer.ggml.model", name, len(name))
        # Others drop parts of a text, or make one token of whatever they do not know.
        if llama_cpp.llama_vocab_type(self.pointer) not in kinds or name.value.decode() in _CLOSED:
            return 0
        longest = 1
        for token in range(self.size):
            text = llama_cpp.llama_vocab_get_text(self.pointer, token)
            if len(text) > longest:
                longest = max(longest, len(text.decode("utf-8", "replace").translate(_WRITTEN_SPACE).encode()))
        return longest


def _special_texts(added: Iterable[Added]) -> tuple[dict[str, Added], list[str]]:
    """The special tokens by their texts, and which of them are marks.

    Special are the control and unknown tokens, and of those that a model's makers added beside them the marks: others are
    runs of white space and ordinary words, which stay the tokens that they are.
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
    """The chat template of that name in the model's file, None for the usual one; "" where there is none."""
    return (llama_cpp.llama_model_chat_template(model, name) or b"").decode("utf-8", "replace")


def _is_typed(match: re.Match[str], prompt: Prompt) -> bool:
    """Whether a person or a model wrote any of it."""
    # The spans ascend: the first that ends behind the match's beginning is the only one to look at.
    at = bisect_right(prompt.typed, match.start(), key=lambda span: span[1])
    return at < len(prompt.typed) and prompt.typed[at][0] < match.end()
