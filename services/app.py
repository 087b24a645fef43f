"""The Flask application: the only place that wires routes."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Flask
from flask_restful import Api

from auth.audit import AuditLog
from auth.authentication import Gate, guard
from services.answers.replay import is_answered
from services.answers.service import Answers
from services.api.answer import AnswerResource, PromptResource, SessionResource, SessionsResource, StopResource
from services.api.auth import AuthResource, CallerResource, KeyResource, KeyRotationResource, KeysResource
from services.api.cluster import ClusterResource
from services.api.compat.apihost import ApiHostResource
from services.api.compat.langformers import LangformersResource
from services.api.compat.protollm import ChatCompletionResource, GenerateResource, JobResource, JobsResource
from services.api.docs import add_docs
from services.api.health import HealthResource, LivenessResource, ReadinessResource, StatusResource
from services.api.http.bodies import MAX_BODY
from services.api.http.cors import allow_origins
from services.api.http.draining import Draining
from services.api.http.errors import handle_errors
from services.api.http.hosts import Hosts
from services.api.http.idempotency import Performer
from services.api.http.request_log import log_requests
from services.api.http.sharing import share_threads
from services.api.metrics import Metrics, MetricsResource, Now
from services.api.models import ModelResource, ModelsResource, PullResource, UnloadResource
from services.api.openai.embeddings import EmbeddingsResource
from services.api.openai.resources import (
    ChatCompletionsResource,
    CompletionsResource,
    OpenAIModelResource,
    OpenAIModelsResource,
)
from services.api.page import add_page
from services.api.tokens import DetokenizeResource, TokenizeResource
from services.api.usage import UsageResource
from services.backend.protocols import Backend
from services.engine.machine import free_memory
from services.jobs.jobs import Jobs
from services.models.downloads import Pulls
from services.settings import Settings
from services.stores import Stores, file_stores


class _Api(Api):  # type: ignore[misc, unused-ignore]
    def error_router(self, original_handler: Any, e: Exception) -> Any:
        """Leave errors to Flask's handlers: flask-restful would make generic 500s of ours before those see them."""
        return original_handler(e)


def create_app(
    settings: Settings,
    backend: Backend,
    gates: Mapping[str, Gate] | None = None,
    stores: Stores | None = None,
    overview: Callable[[], dict[str, Any]] | None = None,
) -> Flask:
    """The application over what `stores` keep, or else the files that `settings` name; `backend` computes.

    `gates` let callers without a key into some endpoints (auth/authentication.py); `overview` tells of the cluster, where
    there is one. Its `extensions["hearth"]` holds the Answers, the KeyStore, the Sessions and so on. Raises DamagedFile
    where one of the files is broken.
    """
    stores = stores or file_stores(settings)
    profiles, files, keys, sessions = stores.profiles, stores.files, stores.keys, stores.sessions
    usage, meter = stores.usage, stores.meter
    pulls = Pulls(settings.models, settings.pull_hosts)
    audit = AuditLog(settings.data / "audit.jsonl")
    hosts = Hosts(settings.host, settings.allowed_hosts)
    metrics = Metrics()
    room = stores.quotas.session
    answers = Answers(
        profiles,
        files,
        sessions,
        backend,
        meter,
        settings.max_answers,
        settings.max_seconds,
        room,
        # The rest of the threads that answers may not take is left for lists, and for health.
        max_waiting=max(settings.reserve - 2, 1),
    )
    answers.on_finish = metrics.note_answer

    app = Flask("hearth", static_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_BODY
    app.json.ensure_ascii = False  # type: ignore[attr-defined]
    app.json.sort_keys = False  # type: ignore[attr-defined]
    app.url_map.strict_slashes = False
    app.url_map.merge_slashes = False
    draining = Draining()
    app.extensions["hearth"] = {"answers": answers, "keys": keys, "sessions": sessions}
    app.extensions["hearth"] |= {"usage": usage, "hosts": hosts, "stopping": draining}

    # In this order: each of them may refuse a request that the later ones then never see.
    log_requests(app, meter, audit, metrics, is_tls=settings.cert is not None)
    allow_origins(app, settings.cors_origins)
    hosts.check_requests(app)
    draining.refuse_requests(app)
    guard(app, keys, meter, gates, settings.cors_origins)
    share_threads(app, answers)
    handle_errors(app)
    api = _Api(app)
    api.add_resource(AnswerResource, "/answer", endpoint="answer", resource_class_args=(answers, sessions))
    session_paths = ("/answer/<number>", "/answer/<owner>/<number>")
    api.add_resource(SessionResource, *session_paths, endpoint="session", resource_class_args=(answers, sessions))
    api.add_resource(PromptResource, "/answer/<number>/prompt", endpoint="prompt", resource_class_args=(answers,))
    api.add_resource(StopResource, "/answer/<number>/stop", endpoint="stop", resource_class_args=(answers,))
    api.add_resource(SessionsResource, "/sessions", endpoint="sessions", resource_class_args=(answers, sessions))
    about_models = (files, profiles, backend, pulls, free_memory)
    api.add_resource(ModelsResource, "/models", endpoint="models", resource_class_args=about_models)
    api.add_resource(PullResource, "/models/pull", endpoint="pull", resource_class_args=(answers, profiles, pulls))
    api.add_resource(ModelResource, "/models/model", endpoint="model", resource_class_args=(answers,))
    unload = (answers, files, profiles, backend)
    api.add_resource(UnloadResource, "/models/unload", endpoint="unload", resource_class_args=unload)
    api.add_resource(AuthResource, "/auth", endpoint="auth")
    api.add_resource(CallerResource, "/auth/me", endpoint="me")
    api.add_resource(KeysResource, "/auth/key", endpoint="keys", resource_class_args=(keys,))
    api.add_resource(KeyResource, "/auth/key/<id_>", endpoint="key", resource_class_args=(keys,))
    api.add_resource(KeyRotationResource, "/auth/key/<id_>/rotate", endpoint="key_rotation", resource_class_args=(keys,))
    api.add_resource(UsageResource, "/auth/usage", endpoint="usage", resource_class_args=(usage, keys))
    api.add_resource(ChatCompletionsResource, "/v1/chat/completions", endpoint="chat", resource_class_args=(answers,))
    api.add_resource(CompletionsResource, "/v1/completions", endpoint="completions", resource_class_args=(answers,))
    api.add_resource(EmbeddingsResource, "/v1/embeddings", endpoint="embeddings", resource_class_args=(answers,))
    lists = (files, profiles)
    api.add_resource(OpenAIModelsResource, "/v1/models", endpoint="openai_models", resource_class_args=lists)
    api.add_resource(OpenAIModelResource, "/v1/models/<path:name>", endpoint="openai_model", resource_class_args=lists)
    api.add_resource(TokenizeResource, "/tokenize", endpoint="tokenize", resource_class_args=(answers,))
    api.add_resource(DetokenizeResource, "/detokenize", endpoint="detokenize", resource_class_args=(answers,))
    api.add_resource(ApiHostResource, "/api", endpoint="apihost", resource_class_args=(answers, files, pulls, audit))
    api.add_resource(LangformersResource, "/api/generate", endpoint="langformers", resource_class_args=(answers,))
    api.add_resource(GenerateResource, "/generate", endpoint="generate", resource_class_args=(answers,))
    api.add_resource(ChatCompletionResource, "/chat_completion", endpoint="chat_job", resource_class_args=(answers,))
    api.add_resource(JobsResource, "/jobs", endpoint="jobs")
    api.add_resource(JobResource, "/jobs/<path:job_id>", endpoint="job")
    api.add_resource(HealthResource, "/health", endpoint="health", resource_class_args=(answers,))
    api.add_resource(LivenessResource, "/healthz", endpoint="healthz")
    api.add_resource(ReadinessResource, "/readyz", endpoint="readyz", resource_class_args=(answers, draining))
    metrics.registry.register(Now(answers, usage))
    api.add_resource(MetricsResource, "/metrics", endpoint="metrics", resource_class_args=(metrics,))
    api.add_resource(StatusResource, "/status", endpoint="status", resource_class_args=(answers,))
    api.add_resource(ClusterResource, "/cluster", endpoint="cluster", resource_class_args=(overview,))
    add_docs(app)
    add_page(app)
    app.extensions["hearth"]["jobs"] = Jobs(
        stores.jobs, Performer(app, keys), sessions.settle, stores.quotas.check_job, partial(is_answered, sessions)
    )
    return app
