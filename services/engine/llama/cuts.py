"""Cutting a long text where a SentencePiece tokenizer makes the same tokens of the parts.

llama.cpp copies all tokens so far for each letter that it has to spell in bytes (src/llama-vocab.cpp,
llm_tokenizer_spm_session): a hundred thousand such letters take seconds, and twice as many take four times as long.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from services.engine.llama.fragments import SPACE
from services.errors import InvalidRequest

# The fewest letters of a part, and the most letters spelled in bytes in a part that cannot be cut.
PART, MOST_SPELLED = 1_000, 20_000


class Cuts:
    """Finds the cuts for one vocabulary. Any thread may call it."""

    def __init__(self, tokens: Iterable[str], added: Iterable[str]) -> None:
        """`tokens` are the texts of all tokens, `added` those of the added tokens, which are looked for first."""
        self._joining = set("".join(added))
        """The letters that occur in tokens of several letters."""
        self._alone: set[str] = set(" ")
        """The letters that are tokens."""
        for text in tokens:
            if len(text) > 1:
                self._joining.update(text)
            else:
                self._alone.add(text)

    def parts(self, text: str, has_special: bool) -> Iterator[tuple[str, str]]:
        """Yield the parts of a text, each with a guard: a letter to put in front, where some vocabularies insert a space.

        A letter that occurs in no token with others is never merged: the text may be cut beside it, and it is a safe guard.
        Raises InvalidRequest for a text that would take too long.
        """
        # White space is dropped beside some special tokens.
        loners = set(text) - self._joining - set(SPACE if has_special else " ")
        cuts, at = [0], 0
        if loners:
            pattern = re.compile(f"[{re.escape(''.join(sorted(loners)))}]")
            while match := pattern.search(text, at + PART):
                at = match.start()
                cuts.append(at)
        guard = min(loners, default="")
        for start, end in pairwise([*cuts, len(text)]):
            part = text[start:end]
            if len(part) > MOST_SPELLED:
                self._check(part)
            yield guard if start else "", part

    def _check(self, part: str) -> None:
        if sum(letter not in self._alone for letter in part) > MOST_SPELLED:
            what = f"the text has more than {MOST_SPELLED:,} letters on end that this model has no tokens for"
            raise InvalidRequest(what, code="text_too_slow")
