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
    """One request in flight. Owned by the thread that submitted it."""

    finish: Finish | None
    tokens: list[int]
    """The tokens chosen so far: none comes later than its text."""
    choices: list[TokenChoice]
    """The choice of each, where `Sampling.n_top` asks for it."""
    n_choices: int = 0
    """How many of `choices` belong to the pieces that `chunks` has yielded so far; all of them after the end."""
    prompt_choices: Sequence[TokenChoice] = ()
    """With `GenerationRequest.prompt_logprobs` those of the prompt's tokens but the first, once the text begins."""
    queue_position: int | None
    """Its position in the queue for a slot; 0 once it has one, None before that is known."""
    n_read: int = 0
    """The prompt's tokens that are read so far, cached ones included; a prompt that is read in one step stays at 0."""

    @property
    def spent(self) -> Spent:
        """The cost so far; all of it, once the generation has ended or was cancelled."""
        ...

    def chunks(self, poll: Callable[[], None]) -> Iterator[str]:
        """Yield the text as it comes, and "" each quarter of a second without any; then `finish` says how it ended.

        Text that has come since the last chunk was taken is one chunk, of one token or many.

        With `GenerationRequest.marks` a special token comes as a `Mark` of its own, in its place among the text.

        `poll` is called at least every quarter of a second, from the caller's thread; what it raises ends the iteration.
        Raises EngineFailure where the engine broke.
        """
        ...

    def stop(self) -> None:
        """End it within one step with the text so far; its reader gets that, and the finish "cancelled".

        Any thread may call it; again, or after the end, that does nothing.
        """
        ...

    def stop_thinking(self) -> None:
        """End the open thought within one step, and every later one at once; the answer goes on behind it.

        Any thread may call it. For a request without `thoughts` it does nothing.
        """
        ...

    def cancel(self) -> None:
        """Break it off within one step: nothing more comes. Calling it again, or after the end, does nothing."""
        ...


class Model(Protocol):
    """A loaded model. Any thread may call it, for as long as its lease lasts."""

    n_ctx: int
    chat_format: ChatFormat

    def tokenize(self, prompt: Prompt) -> list[int]:
        """Return the prompt's token ids, the model's BOS included. Raises InvalidRequest for ids that it does not have."""
        ...

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Tokenize several prompts, as `tokenize` does."""
        ...

    def pieces(self, tokens: Sequence[int]) -> list[bytes]:
        """Return the bytes of each token, special ones included. Raises InvalidRequest for ids that it does not have."""
        ...

    def submit_all(self, requests: Sequence[GenerationRequest]) -> Sequence[Generation]:
        """Queue requests, which begin together; returns at once.

        Raises InvalidRequest where one has no tokens, or asks for what the model does not have; Unavailable where the
        engine has stopped, or where too many wait. Then none is queued.
        """
        ...

    def prefetch(self, request: PrefetchRequest) -> bool:
        """Compute the state of a prompt's beginning when nothing else is to be done; returns at once.

        A later request of the same conversation replaces an earlier one; the conversation's next request drops a draft.
        Returns False where nothing computes it: prefetching is off, or no worker has the conversation.
        """
        ...


class Embedder(Protocol):
    """A loaded model that makes embeddings, or ranks texts. Any thread may call it, for as long as its lease lasts."""

    n_ctx: int
    chat_format: ChatFormat
    ranks: bool
    """True if it scores how well a document fits a query, and makes no embeddings."""

    def tokenize_all(self, prompts: Sequence[Prompt]) -> list[list[int]]:
        """Tokenize as `Model.tokenize_all`, and add the token that ends a text for this model, where it has one."""
        ...

    def tokenize_pairs(self, query: str, documents: Sequence[str]) -> list[list[int]]:
        """Return the tokens of a query with each document, as a model that ranks texts takes them."""
        ...

    def embed(
        self, texts: Sequence[Sequence[int]], poll: Callable[[], None] = lambda: None
    ) -> tuple[list[list[float]], Spent]:
        """Return each text's vector, of length 1, or of a pair its scores, and the cost of all.

        Short texts are computed together. `poll` is called meanwhile; what it raises breaks it off, within one step. Raises
        InvalidRequest where a text has no tokens, or too many.
        """
        ...


class Backend(Protocol):
    """Holds models, and computes with them. Any thread may call it."""

    def lease(self, settings: LoadSettings, poll: Callable[[], None] = lambda: None) -> AbstractContextManager[Model]:
        """Lease the model of these settings: it is loaded first where it is not, and stays loaded until the lease ends.

        `poll` is called while it loads, then and whenever the lease waits for that again; what it raises gives up, and the
        model is loaded all the same. Raises BadModelFile where it cannot be loaded; the models loaded before still are.
        """
        ...

    def lease_embedder(
        self, settings: LoadSettings, poll: Callable[[], None] = lambda: None
    ) -> AbstractContextManager[Embedder]:
        """Lease the model of these settings as one that makes embeddings; otherwise as `lease`."""
        ...

    def loaded(self) -> list[Path]:
        """Return the files of the models that are loaded."""
        ...

    def unload(self, file: Path) -> bool:
        """Free the models of a file from memory; return False where none is loaded. A later request loads them again.

        Raises Unavailable, with the code `model_in_use`, while one of them answers.
        """
        ...

    def status(self) -> Status:
        """Return its load."""
        ...

    def forget(self, owner: str, session: str) -> None:
        """Remove the computed states of a conversation and of its draft, of all models, from memory and disk."""
        ...

    def stop(self, owner: str, session: str, thinking: bool = False) -> bool:
        """End a conversation's answer to another server's request; return False if there is none.

        `thinking`: end its thoughts only, as `Generation.stop_thinking`.
        """
        ...

    def retain(self, sessions: Iterable[tuple[str, str]]) -> None:
        """Keep the states of these sessions (owner and number) only: there are no others."""
        ...

    def health(self) -> Health:
        """Return "ready" if a model is loaded, or was freed only for being idle, "loading" while the first one loads.

        Else "down": none is loaded, or its engine broke.
        """
        ...

    def add_restart_listener(self, listener: Callable[[], None]) -> None:
        """Have `listener` called, on a thread of its own, after each crash that a new engine has replaced.

        A backend that starts no engine anew never calls it.
        """
        return

    def close(self) -> None:
        """Fail the requests in flight with a clear error, and free the models."""
        ...
