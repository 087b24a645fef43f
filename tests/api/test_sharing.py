"""What a request takes is given back whatever becomes of it."""

from __future__ import annotations

import pytest
from flask import Flask, Response

from auth.identity import MASTER, Identity
from services.answers.admission import Admission
from services.api.http import sharing


def test_a_thread_is_given_back_where_another_hook_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    app, admission = Flask("x"), Admission(2, 1)
    monkeypatch.setattr(sharing, "caller_or_none", lambda: Identity(MASTER, None))
    fails = [True]

    @app.after_request
    def fail(response: Response) -> Response:
        if fails[0]:
            raise OSError("a hook that fails")
        return response

    sharing.share_threads(app, admission, lambda identity: identity.id)
    app.add_url_rule("/", "whole", view_func=lambda: "Hi")
    app.add_url_rule("/stream", "stream", view_func=lambda: Response(iter(["H", "i"])))
    client = app.test_client()
    for path in ("/", "/stream", "/", "/stream"):
        # The server closes what it has sent.
        reply = client.get(path)
        assert (reply.status_code, reply.get_data()[:3]) == (500, b"<!d")
        reply.close()
        assert not admission._served
    fails[0] = False
    assert client.get("/").status_code == 200
    stream = client.get("/stream", buffered=False)
    assert admission._served == {MASTER: 1}
    stream.close()
    assert not admission._served
