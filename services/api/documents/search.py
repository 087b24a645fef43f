"""/search: the passages of own files that match a question, without a model."""

from __future__ import annotations

from typing import Any

from services.answers.grounding import described
from services.answers.service import Answers
from services.api.documents.resource import LibraryResource
from services.api.documents.schemas import PassageList, SearchBody
from services.api.http.client import current_client
from services.api.http.schemas import replies, spec
from services.documents.library import Library


class SearchResource(LibraryResource):
    """Passages of own files."""

    def __init__(self, answers: Answers, library: Library | None) -> None:
        self._answers = answers
        super().__init__(library)

    @spec.validate(json=SearchBody, resp=replies(PassageList, 400, 404, 413, 503))
    def post(self, json: SearchBody) -> Any:
        """Find the `k` passages that match a query best, in some `files`, a `collection`, or all files of the key.

        A collection that is lent to the key may be named as OWNER/NAME. No model is needed: words are compared, and
        vectors too where the selected profile names an `embedder`.
        """
        client = current_client()
        owner = client.identity.id
        if json.files is None and json.collection is None:
            files = self.library.files.of_owner(owner)
        else:
            files = self.library.scope(owner, json.all_files(), json.collections)
        return {"passages": [described(each) for each in self._answers.search(client, json.query, files, json.k)]}
