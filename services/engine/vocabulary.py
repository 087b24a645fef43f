"""A loaded model's vocabulary: prompts to token ids, and token ids to bytes."""

from __future__ import annotations

import ctypes
import re
import threading
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future
from functools import cached_property

import llama_cpp

from services.backend import ChatFormat, Prompt
from services.errors import InvalidRequest

# For some vocabularies llama.cpp splits text with std::regex, which recurses over a run of like characters: about 320 bytes
# of stack each, so that a run of 26,000 ends the process on a thread of usual size (llama.cpp's issue 27783).
LONG_TEXT = 4_000
BIG_STACK = 2**29

# One at a time: such a run may take hundreds of megabytes.
_big_stack = threading.Lock()
_SPECIAL = llama_cpp.LLAMA_TOKEN_ATTR_CONTROL | llama_cpp.LLAMA_TOKEN_ATTR_UNKNOWN


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
        self._specials = self._special_texts()
        by_length = sorted(self._specials, key=len, reverse=True)
        self._special = re.compile("|".join(map(re.escape, by_length)) or r"(?!)")
        self.chat_format = ChatFormat(
            template=(llama_cpp.llama_model_chat_template(model, None) or b"").decode("utf-8", "replace"),
            bos=self._text(llama_cpp.llama_vocab_bos(self.pointer)),
            eos=self._text(llama_cpp.llama_vocab_eos(self.pointer)),
            specials=tuple(by_length),
        )

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt's token ids, the model's beginning-of-sequence token first where it wants one.

        A special token's text is that token in the template, and plain text in the spans that people typed.
        Raises InvalidRequest for ids that there are not.
        """
        if prompt.ids:
            self.check(prompt.ids, "prompt")
            return list(prompt.ids)
        matches = list(self._special.finditer(prompt.text))
        special = [match for match in matches if not _is_typed(match, prompt)]
        if len(special) < len(matches):
            tokens = list(self._tokenize_apart(prompt.text, special))
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

    def detokenize(self, tokens: Sequence[int]) -> str:
        """The text of token ids, special ones included. Raises InvalidRequest for ids that there are not."""
        self.check(tokens, "tokens")
        return b"".join(self._piece(token, special=True) for token in tokens).decode("utf-8", "replace")

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

    def _tokenize_apart(self, text: str, special: list[re.Match[str]]) -> Iterator[int]:
        """The tokens `special`, and the text between them with nothing special in it."""
        at = 0
        for match in special:
            yield from self._tokenize(text[at : match.start()], parse_special=False)
            yield self._specials[match[0]]
            at = match.end()
        yield from self._tokenize(text[at:], parse_special=False)

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

    def _special_texts(self) -> dict[str, int]:
        """The texts that llama.cpp's tokenizer takes for special tokens: the control and unknown ones."""
        texts = {}
        for token in range(self.size):
            if llama_cpp.llama_vocab_get_attr(self.pointer, token) & _SPECIAL:
                texts[self._text(token)] = token
        texts.pop("", None)
        return texts


def _is_typed(match: re.Match[str], prompt: Prompt) -> bool:
    """Whether a person or a model wrote any of it."""
    # The spans ascend: the first that ends behind the match's beginning is the only one to look at.
    at = bisect_right(prompt.typed, match.start(), key=lambda span: span[1])
    return at < len(prompt.typed) and prompt.typed[at][0] < match.end()
