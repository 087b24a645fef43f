"""The files that requests name: found, searched, put into prompts, and read ahead."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, suppress

from auth.rate_limits import Meter
from services.answers.admission import Poll
from services.answers.client import Client
from services.answers.grounding import MOST_PASSAGES, Given, Grounding, good_enough
from services.answers.models import Models
from services.answers.request import AnswerRequest
from services.answers.retrieval import Retriever
from services.backend.types import PrefetchRequest, Prompt
from services.documents.files import StoredFile
from services.documents.library import Library, Passage, present
from services.errors import HearthError, NotFound
from services.models.profile import Chosen, Profile
from services.prompts.fit import fitter_of
from services.sessions.conversation import Conversation


class OwnFiles:
    """The keys' own files, as answers use them. Any thread may call it."""

    def __init__(
        self,
        models: Models,
        meter: Meter,
        library: Library | None,
        prefetching: Callable[[str, int], AbstractContextManager[Poll]],
    ) -> None:
        """`library` has the files; None: none are kept here. `prefetching` is entered for an account's work ahead.

        That is for as many characters as it is given, and gives the poll to call before each piece.
        """
        self._models = models
        self._meter = meter
        self._library = library
        self._prefetching = prefetching

    def named(self, key: str, request: AnswerRequest) -> list[StoredFile] | None:
        """Return the files that a request of a key is answered from; None: it names none. Raises as `Library.scope`."""
        if not (request.files or request.earlier_files or request.collections):
            return None
        library = present(self._library)
        found = {file.number: file for file in library.scope(key, request.files, request.collections)}
        for id_ in request.earlier_files:
            with suppress(NotFound):
                file = library.files.get(key, id_)
                found[file.number] = file
        return list(found.values())

    def grounding(
        self,
        request: AnswerRequest,
        files: list[StoredFile] | None,
        conversation: Conversation,
        chosen: Chosen,
        poll: Poll,
    ) -> Grounding | None:
        """Find the passages for a request's prompt in its files, as `named` returns them. Raises as `Retriever.find`."""
        if files is None:
            return None
        most, words = request.most_passages or MOST_PASSAGES, request.prompt
        matching = self.search(chosen.profile, words, files, most, poll)
        found = good_enough(matching)
        said = [*conversation.exchanges, *request.history]
        if not found and said:
            # "And who wrote it?" is about what was said before.
            found = good_enough(self.search(chosen.profile, f"{words}\n{said[-1].human}", files, most, poll))
        return Grounding(present(self._library), files, found, matching)

    def search(self, profile: Profile, question: str, files: Sequence[StoredFile], k: int, poll: Poll) -> list[Passage]:
        """Return the `k` passages of these files that match a question best, by the models that the profile names.

        Raises as `Retriever.find`.
        """
        return Retriever(self._models, present(self._library)).find(profile, question, files, k, poll)

    def note_reading(self, given: Given, owner: str, state: str) -> None:
        """Note that the computed state of this owner and name holds text of the files that were given to the model."""
        # An answer is worth more than that deleting a file finds this state.
        with suppress(HearthError):
            present(self._library).files.note_reading({passage.file for passage in given.passages}, owner, state)

    def characters_per_token(self, samples: Sequence[str]) -> float | None:
        """Return how many characters of texts a token of the selected model has; None while that is not loaded."""
        with suppress(HearthError):
            chosen = self._models.choose(None, None)
            if samples and self._models.is_loaded(chosen):
                with self._models.lease(chosen, _never) as model:
                    n_tokens = sum(map(len, model.tokenize_all([Prompt(each) for each in samples])))
                    return sum(map(len, samples)) / max(n_tokens, 1)
        return None

    def read_ahead(self, client: Client, file: StoredFile) -> None:
        """Have a file's text read, as conversations about it begin, while nothing else is computed; if it fits a prompt.

        Nothing is loaded for that, and what fails is left undone.
        """
        account, request = self._meter.account(client.identity), AnswerRequest("", files=(file.id,))
        with suppress(HearthError):
            chosen = self._models.choose(self._meter.profiles(client.identity.id), None)
            if not self._models.is_loaded(chosen):
                return
            with self._models.lease(chosen, _never) as model, self._prefetching(account, file.n_characters) as pause:
                form = self._models.form(request, chosen, model, None)
                if whole := Grounding(present(self._library), [file]).whole(form, model.n_ctx):
                    fitter = fitter_of(whole[0], model, model.n_ctx, chosen.profile.max_tokens, pause)
                    _, tokens = fitter.ahead([], "")
                    if len(tokens) < model.n_ctx:
                        model.prefetch(PrefetchRequest(tokens, file.owner, file.state, account))


def _never() -> None:
    """Poll for work that no client waits for."""
