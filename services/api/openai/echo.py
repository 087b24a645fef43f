"""The prompt of a completion, as its reply tells it: its text, and how likely its tokens were."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from services.answers.request import AnswerRequest
from services.answers.stream import Answer
from services.api.openai.shapes import prompt_logprobs, with_top


class Echo:
    """The prompt of one answer, whose tokens are known once the answer is open. Owned by the thread that opens it."""

    def __init__(self, request: AnswerRequest) -> None:
        """`request` is the one that continues the prompt."""
        self.request = replace(request, on_prompt=self._read)
        """The same request, to be opened in its place."""
        self._pieces: Sequence[bytes] = ()
        assert request.text is not None
        self._given = request.text.text

    @property
    def text(self) -> str:
        """The prompt's text; that of token ids is put together from their texts."""
        return self._given or b"".join(self._pieces).decode("utf-8", "replace")

    def logprobs(self, answer: Answer, n_top: int) -> dict[str, Any]:
        """Return the `logprobs` of the prompt's tokens with `n_top` likeliest ones, once the answer's text has begun."""
        return prompt_logprobs(self._pieces[0], with_top(answer.prompt_choices, n_top), self.text)

    def _read(self, _ids: Sequence[int], pieces: Sequence[bytes]) -> None:
        self._pieces = pieces
