"""The caller's sessions: listed, shown, changed, branched, exported and imported."""

from __future__ import annotations

from typing import Any

from flask_restful import Resource

from auth.authentication import caller
from services.answers.service import Answers
from services.api.http.client import current_client
from services.api.http.schemas import Deleted, replies, spec
from services.api.session_schemas import (
    BranchChoice,
    ConversationBody,
    ExportBody,
    ImportBody,
    Imported,
    MessageEdit,
    SessionChange,
    SessionList,
    SessionsQuery,
)
from services.errors import InvalidRequest, NotFound, NotPermitted
from services.jobs.jobs import Jobs
from services.sessions.history import SessionKey
from services.sessions.records import parse_number
from services.sessions.responses import ResponseTable
from services.sessions.service import Sessions
from services.sessions.transfer import FORMAT, VERSION, Skipped, exported, read_entry


class SessionsResource(Resource):
    """The caller's own sessions."""

    def __init__(self, answers: Answers, sessions: Sessions) -> None:
        self._answers = answers
        self._sessions = sessions

    @spec.validate(resp=replies(SessionList, 503))
    def get(self, query: SessionsQuery) -> Any:
        """List the caller's own sessions with their times, the one that went on last first.

        With ?q=WORDS only those that have these words in their name or their messages, in whichever case, and a `snippet`
        of the first such message; that counts as a request.
        """
        owner, words = caller().id, query.q.strip()
        if not words:
            return {"sessions": self._sessions.listed(owner)}
        n_bytes = self._sessions.kept(owner).n_bytes
        with (
            self._answers.admit_metered(current_client()) as deadline,
            self._answers.working(deadline, n_bytes) as pause,
        ):
            return {"sessions": self._sessions.listed(owner, words, pause)}


class SessionResource(Resource):
    """One session. The master key may put the owner's key id before the number, as GET /answer lists it."""

    def __init__(self, answers: Answers, sessions: Sessions, jobs: Jobs, responses: ResponseTable) -> None:
        self._answers = answers
        self._sessions = sessions
        self._jobs = jobs
        self._responses = responses

    @spec.validate(resp=replies(ConversationBody, 404))
    def get(self, number: str, owner: str | None = None) -> Any:
        """Show a conversation in full: the messages of its open branch.

        Where several branches begin at a message, it has `branch`, the open one's number, and `branches`, their count.
        """
        return self._sessions.history(session_key(number, owner)).describe()

    @spec.validate(json=SessionChange, resp=replies(SessionChange, 400, 404, 413, 500))
    def patch(self, json: SessionChange, number: str, owner: str | None = None) -> Any:
        """Give a conversation another name, pin it, put it into a folder ("": none), or replace its `settings`.

        Settings are kept for clients, such as the chat page: a request says itself how it is to be answered.
        """
        changes = json.model_dump(exclude_unset=True)
        if not changes:
            raise InvalidRequest("send at least one of name, pinned, folder and settings", param="name")
        self._sessions.history(session_key(number, owner)).set(changes)
        return changes

    @spec.validate(resp=replies(Deleted, 404, 500, 503))
    def delete(self, number: str, owner: str | None = None) -> Any:
        """Forget a conversation."""
        key = session_key(number, owner)
        of = key.owner, str(key.number)
        had_responses = self._responses.remove_session(*of)
        try:
            self._answers.forget(current_client(), key)
        except NotFound:
            # Calls alone are kept with the responses.
            if not had_responses:
                raise
        # An answer may have been in flight.
        self._responses.remove_session(*of)
        self._jobs.forget_session(*of)
        return {"deleted": True}


class BranchResource(Resource):
    """The branches of a session."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=BranchChoice, resp=replies(ConversationBody, 400, 404, 413, 500, 503))
    def post(self, json: BranchChoice, number: str) -> Any:
        """Open another of the branches that begin at message `at`; the open one is kept.

        A branch begins where POST /answer answers with `keep`, or where a message is edited.
        """
        with self._answers.changing(current_client(), session_key(number, None)) as history:
            history.enter(json.at, json.number)
            return history.describe()


class MessageResource(Resource):
    """One message of a session's open branch, by its index."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=MessageEdit, resp=replies(ConversationBody, 400, 403, 404, 413, 500, 503))
    def patch(self, json: MessageEdit, number: str, index: str) -> Any:
        """Put other words in place of a message, in a new branch that ends there. Nothing is computed."""
        size = len(json.content.encode("utf-8", "surrogatepass"))
        with self._answers.changing(current_client(), session_key(number, None), size) as history:
            history.edit(_index(index), json.content)
            return history.describe()

    @spec.validate(resp=replies(ConversationBody, 404, 500, 503))
    def delete(self, number: str, index: str) -> Any:
        """Delete a message, and what was computed of the conversation. The messages behind it stay.

        An answer without its prompt, or a prompt without its answer, is no longer read by the model.
        """
        key = session_key(number, None)
        with self._answers.changing(current_client(), key) as history:
            history.message(_index(index))
            # In this order: a kill in between costs what was computed, and a failure here changes nothing.
            self._answers.forget_state(key.owner, str(key.number))
            history.delete(_index(index))
            return history.describe()


class ExportResource(Resource):
    """All sessions of the caller, as a document."""

    def __init__(self, answers: Answers, sessions: Sessions) -> None:
        self._answers = answers
        self._sessions = sessions

    @spec.validate(resp=replies(ExportBody, 503))
    def get(self) -> Any:
        """Return all of the caller's own sessions whole, with their branches. It counts as a request."""
        owner = caller().id
        with (
            self._answers.admit_metered(current_client()) as deadline,
            self._answers.working(deadline, self._sessions.kept(owner).n_bytes) as pause,
        ):
            found = []
            for session in self._sessions.stored(owner):
                pause()
                found.append(exported(session))
            return {"format": FORMAT, "version": VERSION, "sessions": found}


class ImportResource(Resource):
    """Sessions from a document."""

    def __init__(self, answers: Answers) -> None:
        self._answers = answers

    @spec.validate(json=ImportBody, resp=replies(Imported, 400, 403, 413, 500, 503))
    def post(self, json: ImportBody) -> Any:
        """Store the conversations of an export as new sessions: Hearth's own, ChatGPT's or Open WebUI's.

        Those that cannot be read, or that the key may not keep, are left out, and named with the reason. A larger export is
        sent in parts.
        """
        owner, imported, skipped = caller().id, 0, []
        with self._answers.admit_metered(current_client()) as deadline:
            for entry in json.sessions:
                deadline.poll()
                read = read_entry(entry)
                if not isinstance(read, Skipped):
                    try:
                        self._answers.store_session(owner, read, deadline.poll)
                    except NotPermitted as error:
                        # What is stored already is told, too.
                        read = Skipped(read["name"], error.message)
                if isinstance(read, Skipped):
                    skipped.append({"name": read.name, "reason": read.reason})
                else:
                    imported += 1
        return {"imported": imported, "skipped": skipped}


def session_key(number: str, owner: str | None) -> SessionKey:
    """Return the session that the path names. Raises NotFound for another key's, except for the master."""
    me = caller()
    parsed = parse_number(number)
    if parsed is None or (owner not in (None, me.id) and not me.is_master):
        raise NotFound(f"there is no session {number}", param="session_id", code="session_not_found")
    return SessionKey(owner or me.id, parsed)


def _index(text: str) -> int:
    """Return the index of a message that the path names. Raises NotFound."""
    if not (text.isdecimal() and len(text) < 10):
        raise NotFound(f"a message is named by its index from 0, not {text}", code="message_not_found")
    return int(text)
