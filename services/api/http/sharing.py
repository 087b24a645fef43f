"""The threads that serve requests, shared by key: no key has all of them at work, whatever it asks for."""

from __future__ import annotations

from contextlib import ExitStack

from flask import Flask, Response, g

from auth.authentication import caller_or_none
from services.answers.service import Answers


def share_threads(app: Flask, answers: Answers) -> None:
    """Refuse requests of a key that has as many under way already as may be answered at once; after the guard of `app`."""

    @app.before_request
    def arrive() -> None:
        if who := caller_or_none():
            account = answers.places.account(who.id)
            answers.places.admission.arrive(account)
            g.departure = ExitStack()
            g.departure.callback(answers.places.admission.depart, account)

    @app.after_request
    def stay(response: Response) -> Response:
        # A stream has its thread until its end. Where this is called again, it is since something after it has failed.
        g.stays = response.is_streamed
        if g.stays and "departure" in g:
            response.call_on_close(g.departure.close)
        return response

    @app.teardown_request
    def depart(_error: BaseException | None) -> None:
        if "departure" in g and not g.get("stays"):
            g.departure.close()
