"""/assistants and /settings: how new conversations begin."""

from __future__ import annotations

from typing import Annotated, Any

from flask_restful import Resource
from pydantic import BaseModel, Field

from auth.authentication import caller
from services.api.http.schemas import Deleted, replies, spec
from services.api.session_schemas import Settings
from services.errors import InvalidRequest
from services.readers import AnyReaders, Readers
from services.sessions.assistants import Assistants, StoredAssistant
from services.validation import Strict

Name = Annotated[str, Field(min_length=1, max_length=100)]
FirstWords = Annotated[list[Annotated[str, Field(min_length=1, max_length=1000)]], Field(max_length=10)]


class AssistantForm(Strict):
    """The body of POST /assistants: a name, the settings of conversations with it, and words to begin with."""

    name: Name
    settings: Settings = {}
    first_words: FirstWords = []
    readers: AnyReaders = []


class AssistantChange(Strict):
    """The body of PATCH /assistants/ID: what is to be changed."""

    name: Name = ""
    settings: Settings = {}
    first_words: FirstWords = []
    readers: AnyReaders = []


class AssistantBody(BaseModel):
    """An assistant. `readers` are the other keys that may use it; null for these."""

    id: str
    owner: str
    name: str
    created: str
    settings: dict[str, Any]
    first_words: list[str]
    readers: Readers | None


class AssistantList(BaseModel):
    """The assistants that the key may use, its own first."""

    assistants: list[AssistantBody]


class KeySettings(Strict):
    """The settings of the key for clients, such as the chat page: those with which new conversations begin."""

    new_chat: Settings


class _OfAssistants(Resource):
    def __init__(self, assistants: Assistants) -> None:
        self._assistants = assistants

    def _described(self, id_: str) -> dict[str, Any]:
        return _body(id_, self._assistants.usable_by(caller().id)[id_])


class AssistantsResource(_OfAssistants):
    """The assistants that the key may use."""

    @spec.validate(resp=replies(AssistantList, 503))
    def get(self) -> Any:
        """List the assistants that the key may use, its own first."""
        return {"assistants": [_body(*item) for item in self._assistants.usable_by(caller().id).items()]}

    @spec.validate(json=AssistantForm, resp=replies(AssistantBody, 400, 404, 413, 422, 500, 503))
    def post(self, json: AssistantForm) -> Any:
        """Store an assistant: settings for new conversations, for clients such as the chat page.

        `readers`, the ids of other keys or "everybody", may use it too.
        """
        return self._described(self._assistants.add(caller().id, json.model_dump()))


class AssistantResource(_OfAssistants):
    """One assistant of the key."""

    @spec.validate(json=AssistantChange, resp=replies(AssistantBody, 400, 404, 413, 500, 503))
    def patch(self, json: AssistantChange, id_: str) -> Any:
        """Change an assistant of the key, or lend it to other keys."""
        changes = json.model_dump(exclude_unset=True)
        if not changes:
            raise InvalidRequest("send at least one of name, settings, first_words and readers", param="name")
        self._assistants.change(caller().id, id_, changes)
        return self._described(id_)

    @spec.validate(resp=replies(Deleted, 404, 500, 503))
    def delete(self, id_: str) -> Any:
        """Delete an assistant of the key. Conversations that began with it stay as they are."""
        self._assistants.remove(caller().id, id_)
        return {"deleted": True}


class KeySettingsResource(_OfAssistants):
    """The settings of the key for clients."""

    @spec.validate(resp=replies(KeySettings, 503))
    def get(self) -> Any:
        """Return the settings with which new conversations of the key begin."""
        return {"new_chat": self._assistants.defaults(caller().id)}

    @spec.validate(json=KeySettings, resp=replies(KeySettings, 400, 413, 500, 503))
    def patch(self, json: KeySettings) -> Any:
        """Replace the settings with which new conversations of the key begin. They are for clients, as sessions' are."""
        self._assistants.set_defaults(caller().id, json.new_chat)
        return {"new_chat": json.new_chat}


def _body(id_: str, assistant: StoredAssistant) -> dict[str, Any]:
    told = {"id": id_, **assistant.model_dump()}
    return told if assistant.owner == caller().id else {**told, "readers": None}
