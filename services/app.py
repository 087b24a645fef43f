"""The Flask application: its parts, built once, and the routes that are served from them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask, request
from flask_restful import Api
from typing_extensions import override

from auth.audit import AuditLog
from auth.authentication import guard
from auth.external import Gate
from auth.identity import MASTER
from auth.keys import KeyStore
from services.answers.admission import Admission
from services.answers.document_vectors import DocumentVectors
from services.answers.models import Models
from services.answers.replay import is_answered
from services.answers.service import Answers
from services.api.application import Application
from services.api.http.bodies import MAX_FILE, most_bytes
from services.api.http.computation import Computation, JobRunner
from services.api.http.cors import allow_origins
from services.api.http.draining import Draining
from services.api.http.errors import handle_errors
from services.api.http.hosts import Hosts
from services.api.http.idempotency import Idempotency
from services.api.http.request_log import log_requests
from services.api.http.safe_headers import add_safe_headers
from services.api.http.sharing import share_threads
from services.api.metrics import Metrics, Now
from services.api.route import ComputeParts
from services.api.routes import ROUTES
from services.backend.protocols import Backend
from services.documents.follower import Follower
from services.documents.uploads import Uploads
from services.engine.machine import free_memory
from services.errors import NotAuthenticated
from services.jobs.jobs import Jobs
from services.models.downloads import Pulls
from services.settings import Settings
from services.stores import Stores


def build_application(
    settings: Settings,
    backend: Backend,
    stores: Stores,
    gates: Mapping[str, Gate] | None = None,
    overview: Callable[[], dict[str, Any]] | None = None,
    models: Models | None = None,
) -> Application:
    """Build a server's parts over what `stores` keep; `backend` computes.

    `gates` let requests without a key into the endpoints of these names; `overview` describes the cluster, where the server
    is in one; `models` are those of these stores and this backend, where they are made already.

    Raises DamagedFile where one of the stores' files is broken.
    """
    assert set(gates or ()) <= {route.name for route in ROUTES}, "a gate is no endpoint's"
    metrics = Metrics()
    pulls = Pulls(settings.models, settings.pull_hosts)
    audit = AuditLog(settings.data / "audit.jsonl")
    answers = Answers(
        models or Models(stores.profiles, stores.files, backend),
        stores.sessions,
        backend,
        stores.meter,
        # The rest of the threads that answers may not take is left for lists, and for health.
        Admission(settings.max_answers, max_waiting=max(settings.reserve - 2, 1)),
        settings.max_seconds,
        stores.quotas.session,
        metrics.note_answer,
        stores.documents,
    )
    metrics.registry.register(Now(answers, stores.usage))
    parts = ComputeParts(answers, stores.files, pulls, audit, stores.responses, stores.quotas.check_room)
    computed = {
        route.name: Computation(
            route.paths[0], route, route.computed.body, route.computed.function(parts), route.error_shape
        )
        for route in ROUTES
        if route.computed
    }
    jobs = Jobs(
        stores.jobs,
        JobRunner(computed.values(), stores.keys, stores.meter.account),
        stores.sessions.settle,
        stores.quotas.check_job,
        partial(is_answered, stores.sessions),
        stores.responses.tidy,
    )
    idempotency = Idempotency(jobs, answers)
    library, uploads, follower = stores.documents, None, None
    if library:
        uploads = Uploads(
            library, stores.quotas.check_room, answers.files.characters_per_token, MAX_FILE, answers.is_answering
        )
        follower = Follower(library, uploads, partial(_owner_problem, stores.keys), answers.forget_state)
    return Application(
        settings=settings,
        stores=stores,
        backend=backend,
        answers=answers,
        jobs=jobs,
        responds={name: idempotency.respond_by(each) for name, each in computed.items()},
        pulls=pulls,
        uploads=uploads,
        document_vectors=DocumentVectors(answers.models, library, answers.is_answering) if library else None,
        follower=follower,
        hosts=Hosts(settings.host, settings.allowed_hosts),
        draining=Draining(),
        metrics=metrics,
        audit=audit,
        gates=gates or {},
        overview=overview,
        free_memory=free_memory,
    )


def _owner_problem(keys: KeyStore, owner: str) -> str | None:
    """Return why no folder is followed for a key any more; None if its folders are followed."""
    try:
        is_known = owner == MASTER or bool(keys.chain(owner))
    except NotAuthenticated:
        is_known = False
    return None if is_known else f"it is not followed any more: its key {owner} was revoked or has expired"


def create_app(application: Application) -> Flask:
    """Create the Flask application that serves the routes of the table, and no others."""
    settings, stores = application.settings, application.stores
    routes = {route.name: route for route in ROUTES}
    app = _App("hearth", static_folder=None)
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False

    @app.before_request
    def limit_body() -> None:
        request.max_content_length = most_bytes(request.path)

    # In this order: each of them may refuse a request that the later ones then never see.
    log_requests(app, routes, stores.meter, application.audit, application.metrics.note_request)
    allow_origins(app, settings.cors_origins)
    application.hosts.check_requests(app)
    application.draining.refuse_requests(app, {route.name for route in ROUTES if route.while_draining})
    guard(app, stores.keys, stores.meter, routes, application.gates, settings.cors_origins)
    share_threads(app, application.answers.admission, stores.meter.account)
    handle_errors(app, {route.name: route.error_shape for route in ROUTES})
    add_safe_headers(app, is_tls=settings.cert is not None)
    api = _Api(app)
    for route in ROUTES:
        arguments = route.arguments(application)
        api.add_resource(route.resource, *route.paths, endpoint=route.name, resource_class_args=arguments)
    return app


class _App(Flask):
    @override
    def ensure_sync(self, func: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function itself: none is asynchronous, and each request would look at ten of them."""
        return func


class _Api(Api):  # type: ignore[misc, unused-ignore]
    def error_router(self, original_handler: Any, e: Exception) -> Any:
        """Leave errors to Flask's handlers: flask-restful would make generic 500s of ours before those see them."""
        return original_handler(e)
