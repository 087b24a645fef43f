"""Where a long text may be cut, so that a SentencePiece tokenizer makes the same tokens of its parts.

llama.cpp copies all tokens so far for each letter that it has to spell in bytes (src/llama-vocab.cpp,
llm_tokenizer_spm_session): for a hundred thousand of them that takes seconds, and four times as long for twice as many.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from itertools import pairwise

from services.engine.llama.fragments import SPACE
from services.errors import InvalidRequest

# Letters of a part at least, and the most that are spelled in bytes in one that cannot be cut.
PART, MOST_SPELLED = 1_000, 20_000


class Cuts:
    """Finds them for one vocabulary. Any thread may call it."""

    def __init__(self, tokens: Iterable[str], added: Iterable[str]) -> None:
        """`tokens` are the texts of all tokens, `added` those that are found in a text before anything else."""
        self._joining = set("".join(added))
        """The letters that stand in some token beside others."""
        self._alone: set[str] = set(" ")
        """Those that are tokens themselves."""
        for text in tokens:
            if len(text) > 1:
                self._joining.update(text)
            else:
                self._alone.add(text)

    def parts(self, text: str, has_special: bool) -> Iterator[tuple[str, str]]:
        """The parts of a text, and in front of each a letter that keeps away the space which some vocabularies put there.

        A letter that stands in no token with others joins nothing: beside it the text may be cut, and it joins nothing in
        front of a part either. Raises InvalidRequest for what would take too long.
        """
        # White space is left out beside some special tokens.
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
