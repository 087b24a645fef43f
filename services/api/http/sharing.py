"""The threads that serve requests, shared by account: no key has all of them at work, whatever it asks for."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack

from flask import Flask, Response, g

from auth.authentication import caller_or_none
from auth.identity import Identity
from services.answers.admission import Admission


def share_threads(app: Flask, admission: Admission, account: Callable[[Identity], str]) -> None:
    """Refuse requests of an account that has as many in flight as may be answered at once; after the guard of `app`.

    `account` returns the account of an identity, as `Meter.account` does.
    """

    @app.before_request
    def arrive() -> None:
        if who := caller_or_none():
            id_ = account(who)
            admission.arrive(id_)
            g.departure = ExitStack()
            g.departure.callback(admission.depart, id_)

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
