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

from services.backend import ChatFormat, Prompt
from services.errors import InvalidRequest
from services.special_text import special_pattern

# For some vocabularies llama.cpp splits text with std::regex, which recurses over a run of like characters: about 320 bytes
# of stack each, so that a run of 26,000 ends the process on a thread of usual size (llama.cpp's issue 27783).
LONG_TEXT = 4_000
BIG_STACK = 2**29

# One at a time: such a run may take hundreds of megabytes.
_big_stack = threading.Lock()
_CONTROL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN
# What C's isspace knows, and llama.cpp strips beside some tokens.
_SPACE = " \t\n\v\f\r"
# A token of the kind that its makers added, written as one writes a mark: <|channel>, [INST], <think>.
_MARK = re.compile(r"[<\[{]\S+[>\]}]")
# Gemma has such tokens for HTML, which people type and which mean no more than that.
_HTML = re.compile(
    r"</?(?:a|b|blockquote|body|caption|code|div|em|footer|h[1-6]|html|i|iframe|img|li|span|strong|su[bp]|t[dhr]|"
    r"table|tbody|tfoot|thead|u|ul)>"
)
# In front of a text these keep away the space that some vocabularies put there, and merge with nothing.
_GUARDS = ("\n", "\x02")


def on_big_stack(work: Callable[[], list[int]]) -> list[int]:
    """Do the work on a thread that has a stack of BIG_STACK bytes, of which only what is used takes memory."""
    done: Future[list[int]] = Future()

    def run() -> None:
        try:
            done.set_result(work())
        except BaseException as error:
            done.set_exception(error)

    with _big_stack:
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
        self._specials, marks = self._special_texts()
        self._special, self._mark = special_pattern(self._specials), special_pattern(marks)
        self.chat_format = ChatFormat(
            template=_template(model, None),
            tool_template=_template(model, b"tool_use"),
            bos=self._text(llama_cpp.llama_vocab_bos(self.pointer)),
            eos=self._text(llama_cpp.llama_vocab_eos(self.pointer)),
            specials=tuple(sorted(self._specials, key=len, reverse=True)),
        )

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
            if before and self._specials[before[0]] & llama_cpp.LLAMA_TOKEN_ATTR_RSTRIP:
                fragment = fragment.lstrip(_SPACE)
            if after and self._specials[after[0]] & llama_cpp.LLAMA_TOKEN_ATTR_LSTRIP:
                fragment = fragment.rstrip(_SPACE)
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
        if len(text) <= LONG_TEXT:
            return self._tokenize_here(text, parse_special)
        return on_big_stack(lambda: self._tokenize_here(text, parse_special))

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

    def _special_texts(self) -> tuple[dict[str, int], list[str]]:
        """The texts of special tokens with llama.cpp's attributes of each, and which of them are marks.

        Special are the control and unknown tokens, and of those that a model's makers added beside them the marks: others
        are runs of white space and ordinary words, which stay the tokens that they are.
        """
        texts, marks = {}, []
        for token in range(self.size):
            attributes = llama_cpp.llama_vocab_get_attr(self.pointer, token)
            if attributes & (_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_USER_DEFINED):
                text = self._text(token)
                if not attributes & _CONTROL:
                    if not _is_mark(text):
                        continue
                    marks.append(text)
                texts[text] = attributes
        texts.pop("", None)
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
