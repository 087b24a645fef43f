"""The interface between answers and whatever computes them: an engine on this machine, or workers on others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Protocol

from services.backend.status import Status
from services.backend.types import (
    ChatFormat,
    Finish,
    GenerationRequest,
    Health,
    LoadSettings,
    PrefetchRequest,
    Prompt,
    Spent,
    TokenChoice,
)


class Generation(Protocol):
    """One request under way. Owned by the thread that submitted it."""

    finish: Finish | None
    tokens: list[int]
    """The tokens chosen so far: none comes later than its text."""
    choices: list[TokenChoice]
    """How they were chosen, where `Sampling.n_top` asks for it."""
    queue_position: int | None
    """Which in line it is while it waits for a slot; 0 once it has one, None before that is known."""

    @property
    def spent(self) -> Spent:
        """What it has cost so far; all that it has, once it has ended or been cancelled."""

    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        """The text as it is decoded, and "" each quarter of a second in which none came; then `finish` says how it ended.

        `poll` is called at least every quarter of a second, from the caller's thread; what it raises ends the iteration.
        Raises EngineFailure where the engine broke.
        """

    def stop(self) -> None:
        """End it within one step with the text so far; its reader gets that, and the finish "cancelled".

        Any thread may call it; again, or after the end, that does nothing.
        """

    def cancel(self) -> None:
        """Break it off within one step: nothing more comes. Calling it again, or after the end, does nothing."""


class Model(Protocol):
    """A loaded model. Any thread may call it, for as long as its lease lasts."""

    n_ctx: int
    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """The prompt as token ids, the model's own beginning included. Raises InvalidRequest for ids that it has not."""

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """The same for several prompts."""

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """The bytes of each token, special ones included. Raises InvalidRequest for ids that it has not."""

    def submit_all(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Queue requests, which are begun together; returns at once.

        Raises InvalidRequest where one has no tokens, or asks for what the model has not; Unavailable where the engine has
        stopped, or where too many wait. Then none is queued.
        """

    def prefetch(self, request: PrefetchRequest) -> None:
        """Compute the state of a prompt's beginning when nothing else is to be done; returns at once.

        A later request of the same conversation takes the place of an earlier one.
        """


class Embedder(Protocol):
    """A loaded model that makes embeddings. Any thread may call it, for as long as its lease lasts."""

    n_ctx: int
    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """See `Model.tokenize`."""

    def embed(self, tokens: Sequence[int], poll: Callable[[], None] = lambda: None) -> tuple[list[float], Spent]:
        """The text's vector, of length 1, and what it cost.

        `poll` is called meanwhile; what it raises breaks it off, within one step. Raises InvalidRequest where there are no
        tokens, or too many.
        """


class Backend(Protocol):
    """Whatever holds models. Any thread may call it."""

    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> AbstractContextManager[Model]:
        """The model of these settings, loaded first where it is not, and kept loaded until the lease ends.

        `poll` is called while it loads, then and whenever the lease waits for that again; what it raises gives up, and the
        model is loaded all the same. Raises BadModelFile where it cannot be loaded; whatever was loaded before still is.
        """

    def lease_embedder(
        self, settings: LoadSettings, poll: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Embedder]:
        """The model of these settings as one that makes embeddings; otherwise as `lease`."""

    def loaded(self) -> list[Path]:
        """The files of the models that are loaded."""

    def unload(self, file: Path) -> bool:
        """Free the models of a file from memory; False where none is loaded. A later request loads them again.

        Raises Unavailable, with the code `model_in_use`, while one of them answers.
        """

    def status(self) -> Status:
        """How busy it is."""

    def forget(self, owner: str, session: str) -> None:
        """Remove what is computed of a conversation, of whichever models, from memory and disk."""

    def stop(self, owner: str, session: str) -> bool:
        """End the answer that a conversation is given by another server's request; False where there is none such."""

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Keep the states of these sessions (owner and number) only: there are no others."""

    def health(self) -> Health:
        """Ready: a model is loaded, or was until nobody used it. Loading: the first is on its way.

        Down: there is none, or its engine broke.
        """

    def close(self) -> None:
        """Fail what is under way with a clear error, and free the models."""
