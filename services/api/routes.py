"""The table of routes: every endpoint of the server, and what the guard, the document and the logs need to know of it.

A new endpoint is a resource and a line here. `needs` says who may use it: a scope, any key, the master key, or everybody.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

from flask_restful import Resource
from pydantic import BaseModel

from auth.access import ANY_KEY, MASTER_KEY, PUBLIC
from services.answers.client import Client
from services.answers.service import Answers
from services.api.answer import (
    AnswerResource,
    DraftResource,
    PromptResource,
    StopResource,
    compute_answer,
)
from services.api.anthropic.errors import anthropic_shape, shape_by_client
from services.api.anthropic.resources import CountTokensResource, MessagesResource, compute_message
from services.api.anthropic.schemas import MessagesRequest
from services.api.application import Application
from services.api.assistants import AssistantResource, AssistantsResource, KeySettingsResource
from services.api.auth import AuthResource, CallerResource, KeyResource, KeyRotationResource, KeysResource
from services.api.cluster import ClusterResource
from services.api.compat.apihost import ApiHost, ApiHostResource, HostBody
from services.api.compat.protollm import (
    ChatBody,
    ChatCompletionResource,
    GenerateResource,
    JobResource,
    JobsResource,
    PromptBody,
    compute_prompt,
)
from services.api.compat.protollm import compute_chat as compute_chat_job
from services.api.docs import FILES as DOCS_FILES
from services.api.docs import SHELL as DOCS_SHELL
from services.api.docs import ApiDocument, DocsResource, DocumentResource
from services.api.documents.collections import (
    CollectionFileResource,
    CollectionFilesResource,
    CollectionResource,
    CollectionsResource,
)
from services.api.documents.files import FileContentResource, FilesResource
from services.api.documents.files import FileResource as DocumentFileResource
from services.api.documents.search import SearchResource
from services.api.generate import AnyGenerate
from services.api.generate import GenerateResource as AnyGenerateResource
from services.api.generate import compute as compute_any_generate
from services.api.health import HealthResource, LivenessResource, ReadinessResource, StatusResource
from services.api.http.computation import Compute, Reply
from services.api.http.errors import ErrorShape, usual_shape
from services.api.http.idempotency import IDEMPOTENCY_KEY
from services.api.http.schemas import AnswerBody
from services.api.http.sse import LINES, MIMETYPE
from services.api.http.static import StaticFiles
from services.api.infill import InfillRequest, InfillResource, compute_infill
from services.api.llama_server import ApplyTemplateResource, PropsResource
from services.api.metrics import MetricsResource
from services.api.models import ModelResource, ModelsResource, PullResource, UnloadResource
from services.api.ollama.errors import ollama_shape, shape_by_body
from services.api.ollama.models import LoadedResource, ShowResource, TagsResource, VersionResource
from services.api.ollama.pull import OllamaDeleteResource, OllamaPullResource
from services.api.ollama.resources import (
    OllamaChatResource,
    OllamaEmbeddingResource,
    OllamaEmbedResource,
    compute_embed,
    compute_embedding,
)
from services.api.ollama.resources import compute_chat as compute_ollama_chat
from services.api.ollama.schemas import OllamaChat, OllamaEmbed, OllamaEmbedding
from services.api.openai.embeddings import EmbeddingsResource, compute_embeddings
from services.api.openai.files import OpenAIFileContentResource, OpenAIFileResource, OpenAIFilesResource
from services.api.openai.resources import (
    ChatCompletionsResource,
    CompletionsResource,
    compute_chat,
    compute_completion,
)
from services.api.openai.responses.resources import PATH as RESPONSES
from services.api.openai.responses.resources import (
    CancelResource,
    CountInputResource,
    InputItemsResource,
    ResponseResource,
    ResponsesResource,
    compute_response,
)
from services.api.openai.responses.schemas import CreateResponse
from services.api.openai.schemas import ChatRequest, CompletionRequest, EmbeddingsRequest
from services.api.page import SHELL as PAGE_SHELL
from services.api.page import FileResource, PageResource, page_files
from services.api.rerank import RerankRequest, RerankResource, compute_ranking
from services.api.route import (
    ALWAYS,
    IF_ASKED,
    JOB_ID,
    Arguments,
    Computed,
    ComputeParts,
    OnceBy,
    Route,
    Streams,
    Tag,
)
from services.api.sessions import (
    BranchResource,
    ExportResource,
    ImportResource,
    MessageResource,
    SessionResource,
    SessionsResource,
)
from services.api.tokens import DetokenizeResource, TokenizeResource
from services.api.usage import UsageResource
from services.api.v1_models import V1ModelResource, V1ModelsResource

_ANSWERS = Tag("Answers", "Prompts, sessions and streams.")
_OPENAI = Tag("OpenAI", "OpenAI's API.")
_ANTHROPIC = Tag("Anthropic", "Anthropic's API.")
_OLLAMA = Tag("Ollama", "Ollama's API; /api/generate is Langformers' as well.")
_OTHERS = Tag("Other clients", "The APIs of API Host and ProtoLLM.")
_DOCUMENTS = Tag("Documents", "Own files: stored, searched, and answered from.")
_MODELS = Tag("Models", "The model files, and switching between them.")
_KEYS = Tag("Keys", "Keys, their terms and usage.")
_SERVER = Tag("Server", "Health, load, metrics, and this document.")


def _answers(parts: Application) -> Arguments:
    return (parts.answers,)


def _answer(parts: Application) -> Arguments:
    return parts.responds["answer"], parts.stores.sessions


def _session(parts: Application) -> Arguments:
    return parts.answers, parts.stores.sessions, parts.jobs, parts.stores.responses


def _new_response(parts: Application) -> Arguments:
    return parts.responds["responses"], parts.answers, parts.jobs, parts.stores.responses


def _response(parts: Application) -> Arguments:
    return parts.jobs, parts.stores.responses


def _stored_response(parts: Application) -> Arguments:
    return parts.answers, parts.jobs, parts.stores.responses


def _stored(parts: Application) -> Arguments:
    return (parts.stores.responses,)


def _input_tokens(parts: Application) -> Arguments:
    return parts.answers, parts.stores.responses


def _assistants(parts: Application) -> Arguments:
    return (parts.stores.assistants,)


def _sessions(parts: Application) -> Arguments:
    return parts.answers, parts.stores.sessions


def _jobs(parts: Application) -> Arguments:
    return (parts.jobs,)


def _library(parts: Application) -> Arguments:
    return (parts.stores.documents,)


def _files(parts: Application) -> Arguments:
    return parts.answers, parts.stores.documents, parts.uploads


def _search(parts: Application) -> Arguments:
    return parts.answers, parts.stores.documents


def _keys(parts: Application) -> Arguments:
    return (parts.stores.keys,)


def _v1_models(parts: Application) -> Arguments:
    return parts.stores.files, parts.stores.profiles, parts.free_memory


def _models(parts: Application) -> Arguments:
    return parts.stores.files, parts.stores.profiles, parts.backend, parts.pulls, parts.free_memory


def _ollama_models(parts: Application) -> Arguments:
    return parts.stores.files, parts.stores.profiles, parts.backend


def _pull(parts: Application) -> Arguments:
    return parts.answers, parts.stores.profiles, parts.pulls


def _unload(parts: Application) -> Arguments:
    return parts.answers, parts.stores.files, parts.stores.profiles, parts.backend


def _usage(parts: Application) -> Arguments:
    return parts.stores.usage, parts.stores.keys


def _readiness(parts: Application) -> Arguments:
    return parts.answers, parts.draining


def _metrics(parts: Application) -> Arguments:
    return (parts.metrics,)


def _cluster(parts: Application) -> Arguments:
    return (parts.overview,)


def _document(_: Application) -> Arguments:
    return (ApiDocument(ROUTES),)


def _docs(_: Application) -> Arguments:
    return (StaticFiles([DOCS_SHELL]),)


def _docs_files(_: Application) -> Arguments:
    return (StaticFiles(DOCS_FILES),)


def _page(_: Application) -> Arguments:
    return (StaticFiles([PAGE_SHELL]),)


def _page_files(_: Application) -> Arguments:
    return (StaticFiles(page_files()),)


def _with_answers(body: type[BaseModel], compute: Callable[[Answers, Any, Client], Reply]) -> Computed:
    """Return the computation by a function that needs the answers' service alone."""
    return Computed(body, lambda parts: partial(compute, parts.answers))


def _apihost(parts: ComputeParts) -> Compute:
    return ApiHost(parts.answers, parts.files, parts.pulls, parts.audit).compute


def _responses(parts: ComputeParts) -> Compute:
    return partial(compute_response, parts.answers, parts.responses, parts.check_response)


def _computed(
    name: str,
    paths: str | tuple[str, ...],
    resource: type[Resource],
    tag: Tag,
    computed: Computed,
    *,
    once_by: OnceBy = IDEMPOTENCY_KEY,
    streams: Streams = "never",
    key_in_body: bool = False,
    error_shape: ErrorShape = usual_shape,
    stream_types: tuple[str, ...] = (MIMETYPE,),
) -> Route:
    """Return the route of an endpoint whose resource does nothing but respond with what a function computes."""

    def respond(parts: Application) -> Arguments:
        return (parts.responds[name],)

    return Route(
        name,
        (paths,) if isinstance(paths, str) else paths,
        resource,
        tag,
        respond,
        needs="answer",
        computed=computed,
        once_by=once_by,
        streams=streams,
        key_in_body=key_in_body,
        error_shape=error_shape,
        stream_types=stream_types,
    )


_OF_A_SESSION = ("/answer/<number>", "/answer/<owner>/<number>")

ROUTES: tuple[Route, ...] = (
    Route(
        "answer",
        ("/answer",),
        AnswerResource,
        _ANSWERS,
        _answer,
        needs="answer",
        computed=_with_answers(AnswerBody, compute_answer),
        once_by=IDEMPOTENCY_KEY,
        streams=IF_ASKED,
    ),
    Route("session", _OF_A_SESSION, SessionResource, _ANSWERS, _session, needs="answer"),
    Route("prompt", ("/answer/<number>/prompt",), PromptResource, _ANSWERS, _answers, needs="answer"),
    Route("draft", ("/answer/<number>/draft",), DraftResource, _ANSWERS, _answers, needs="answer"),
    Route("stop", ("/answer/<number>/stop",), StopResource, _ANSWERS, _answers, needs="answer"),
    Route("branch", ("/answer/<number>/branch",), BranchResource, _ANSWERS, _answers, needs="answer"),
    Route("message", ("/answer/<number>/messages/<index>",), MessageResource, _ANSWERS, _answers, needs="answer"),
    Route("sessions", ("/sessions",), SessionsResource, _ANSWERS, _sessions, needs="answer"),
    Route("assistants", ("/assistants",), AssistantsResource, _ANSWERS, _assistants, needs="answer"),
    Route("assistant", ("/assistants/<id_>",), AssistantResource, _ANSWERS, _assistants, needs="answer"),
    Route("key_settings", ("/settings",), KeySettingsResource, _ANSWERS, _assistants, needs="answer"),
    Route("export_sessions", ("/sessions/export",), ExportResource, _ANSWERS, _sessions, needs="answer"),
    Route("import_sessions", ("/sessions/import",), ImportResource, _ANSWERS, _answers, needs="answer"),
    _computed(
        "chat",
        "/v1/chat/completions",
        ChatCompletionsResource,
        _OPENAI,
        _with_answers(ChatRequest, compute_chat),
        streams=IF_ASKED,
    ),
    _computed(
        "completions",
        "/v1/completions",
        CompletionsResource,
        _OPENAI,
        _with_answers(CompletionRequest, compute_completion),
        streams=IF_ASKED,
    ),
    _computed(
        "embeddings", "/v1/embeddings", EmbeddingsResource, _OPENAI, _with_answers(EmbeddingsRequest, compute_embeddings)
    ),
    _computed(
        "infill",
        "/infill",
        InfillResource,
        _OPENAI,
        _with_answers(InfillRequest, compute_infill),
        streams=IF_ASKED,
    ),
    _computed(
        "rerank",
        ("/v1/rerank", "/rerank", "/v1/reranking", "/reranking"),
        RerankResource,
        _OPENAI,
        _with_answers(RerankRequest, compute_ranking),
    ),
    Route(
        "responses",
        (RESPONSES,),
        ResponsesResource,
        _OPENAI,
        _new_response,
        needs="answer",
        computed=Computed(CreateResponse, _responses),
        once_by=IDEMPOTENCY_KEY,
        streams=IF_ASKED,
    ),
    Route("input_tokens", (f"{RESPONSES}/input_tokens",), CountInputResource, _OPENAI, _input_tokens, needs="answer"),
    Route("response", (f"{RESPONSES}/<id_>",), ResponseResource, _OPENAI, _stored_response, needs="answer"),
    Route("cancel_response", (f"{RESPONSES}/<id_>/cancel",), CancelResource, _OPENAI, _response, needs="answer"),
    Route("input_items", (f"{RESPONSES}/<id_>/input_items",), InputItemsResource, _OPENAI, _stored, needs="answer"),
    Route(
        "v1_models",
        ("/v1/models",),
        V1ModelsResource,
        _OPENAI,
        _v1_models,
        needs="models:read",
        error_shape=shape_by_client,
    ),
    Route(
        "v1_model",
        ("/v1/models/<path:name>",),
        V1ModelResource,
        _OPENAI,
        _v1_models,
        needs="models:read",
        error_shape=shape_by_client,
    ),
    _computed(
        "messages",
        "/v1/messages",
        MessagesResource,
        _ANTHROPIC,
        _with_answers(MessagesRequest, compute_message),
        streams=IF_ASKED,
        error_shape=anthropic_shape,
    ),
    Route(
        "count_tokens",
        ("/v1/messages/count_tokens",),
        CountTokensResource,
        _ANTHROPIC,
        _answers,
        needs="answer",
        error_shape=anthropic_shape,
    ),
    Route("tokenize", ("/tokenize",), TokenizeResource, _OPENAI, _answers, needs="answer"),
    Route("detokenize", ("/detokenize",), DetokenizeResource, _OPENAI, _answers, needs="answer"),
    Route("props", ("/props",), PropsResource, _OPENAI, _answers, needs="answer"),
    Route("apply_template", ("/apply-template",), ApplyTemplateResource, _OPENAI, _answers, needs="answer"),
    _computed("apihost", "/api", ApiHostResource, _OTHERS, Computed(HostBody, _apihost), key_in_body=True),
    _computed(
        "any_generate",
        "/api/generate",
        AnyGenerateResource,
        _OLLAMA,
        _with_answers(AnyGenerate, compute_any_generate),
        streams=IF_ASKED,
        error_shape=shape_by_body,
        stream_types=(LINES.content_type, MIMETYPE),
    ),
    _computed(
        "ollama_chat",
        "/api/chat",
        OllamaChatResource,
        _OLLAMA,
        _with_answers(OllamaChat, compute_ollama_chat),
        streams=IF_ASKED,
        error_shape=ollama_shape,
        stream_types=(LINES.content_type,),
    ),
    _computed(
        "ollama_embed",
        "/api/embed",
        OllamaEmbedResource,
        _OLLAMA,
        _with_answers(OllamaEmbed, compute_embed),
        error_shape=ollama_shape,
    ),
    _computed(
        "ollama_embedding",
        "/api/embeddings",
        OllamaEmbeddingResource,
        _OLLAMA,
        _with_answers(OllamaEmbedding, compute_embedding),
        error_shape=ollama_shape,
    ),
    Route("tags", ("/api/tags",), TagsResource, _OLLAMA, _ollama_models, needs="models:read", error_shape=ollama_shape),
    Route(
        "ollama_loaded",
        ("/api/ps",),
        LoadedResource,
        _OLLAMA,
        _ollama_models,
        needs="models:read",
        error_shape=ollama_shape,
    ),
    Route("show", ("/api/show",), ShowResource, _OLLAMA, _ollama_models, needs="models:read", error_shape=ollama_shape),
    Route(
        "ollama_pull",
        ("/api/pull",),
        OllamaPullResource,
        _OLLAMA,
        _pull,
        needs="models:pull",
        audited={"POST": "pull"},
        streams=IF_ASKED,
        error_shape=ollama_shape,
        stream_types=(LINES.content_type,),
    ),
    Route(
        "ollama_delete",
        ("/api/delete",),
        OllamaDeleteResource,
        _OLLAMA,
        _unload,
        needs="models:delete",
        audited={"DELETE": "delete"},
        error_shape=ollama_shape,
    ),
    Route("ollama_version", ("/api/version",), VersionResource, _OLLAMA, needs=PUBLIC, error_shape=ollama_shape),
    _computed(
        "generate",
        "/generate",
        GenerateResource,
        _OTHERS,
        _with_answers(PromptBody, compute_prompt),
        once_by=JOB_ID,
    ),
    _computed(
        "chat_job",
        "/chat_completion",
        ChatCompletionResource,
        _OTHERS,
        _with_answers(ChatBody, compute_chat_job),
        once_by=JOB_ID,
    ),
    Route("jobs", ("/jobs",), JobsResource, _OTHERS, _jobs, needs="answer", once_by=JOB_ID),
    Route("job", ("/jobs/<path:job_id>",), JobResource, _OTHERS, _jobs, needs="answer"),
    Route("files", ("/files",), FilesResource, _DOCUMENTS, _files, needs="answer", streams=IF_ASKED),
    Route("file", ("/files/<id_>",), DocumentFileResource, _DOCUMENTS, _search, needs="answer"),
    Route("file_content", ("/files/<id_>/content",), FileContentResource, _DOCUMENTS, _library, needs="answer"),
    Route("collections", ("/collections",), CollectionsResource, _DOCUMENTS, _library, needs="answer"),
    Route("collection", ("/collections/<path:name>",), CollectionResource, _DOCUMENTS, _library, needs="answer"),
    Route(
        "collection_files",
        ("/collections/<name>/files",),
        CollectionFilesResource,
        _DOCUMENTS,
        _library,
        needs="answer",
    ),
    Route(
        "collection_file",
        ("/collections/<name>/files/<id_>",),
        CollectionFileResource,
        _DOCUMENTS,
        _library,
        needs="answer",
    ),
    Route("v1_files", ("/v1/files",), OpenAIFilesResource, _OPENAI, _files, needs="answer"),
    Route("v1_file", ("/v1/files/<id_>",), OpenAIFileResource, _OPENAI, _search, needs="answer"),
    Route("v1_file_content", ("/v1/files/<id_>/content",), OpenAIFileContentResource, _OPENAI, _library, needs="answer"),
    Route("search", ("/search",), SearchResource, _DOCUMENTS, _search, needs="answer"),
    Route("models", ("/models",), ModelsResource, _MODELS, _models, needs="models:read"),
    Route(
        "pull",
        ("/models/pull",),
        PullResource,
        _MODELS,
        _pull,
        needs="models:pull",
        audited={"POST": "pull"},
        streams=ALWAYS,
    ),
    Route("model", ("/models/model",), ModelResource, _MODELS, _answers, needs="models:switch", audited={"POST": "switch"}),
    Route(
        "unload", ("/models/unload",), UnloadResource, _MODELS, _unload, needs="models:switch", audited={"POST": "unload"}
    ),
    Route("auth", ("/auth",), AuthResource, _KEYS, needs=ANY_KEY),
    Route("me", ("/auth/me",), CallerResource, _KEYS, needs=ANY_KEY),
    Route("keys", ("/auth/key",), KeysResource, _KEYS, _keys, needs="keys", audited={"POST": "mint"}),
    Route(
        "key",
        ("/auth/key/<id_>",),
        KeyResource,
        _KEYS,
        _keys,
        needs="keys",
        audited={"PATCH": "change", "DELETE": "revoke"},
    ),
    Route(
        "key_rotation",
        ("/auth/key/<id_>/rotate",),
        KeyRotationResource,
        _KEYS,
        _keys,
        needs="keys",
        audited={"POST": "rotate"},
    ),
    Route("usage", ("/auth/usage",), UsageResource, _KEYS, _usage, needs=ANY_KEY),
    Route("health", ("/health",), HealthResource, _SERVER, _answers, needs=PUBLIC, while_draining=True),
    Route("healthz", ("/healthz",), LivenessResource, _SERVER, needs=PUBLIC, while_draining=True),
    Route("readyz", ("/readyz",), ReadinessResource, _SERVER, _readiness, needs=PUBLIC, while_draining=True),
    Route("metrics", ("/metrics",), MetricsResource, _SERVER, _metrics, needs="metrics", while_draining=True),
    Route("status", ("/status",), StatusResource, _SERVER, _answers, needs=ANY_KEY),
    Route("cluster", ("/cluster",), ClusterResource, _SERVER, _cluster, needs=MASTER_KEY),
    Route("document", ("/openapi.json",), DocumentResource, _SERVER, _document, needs=PUBLIC),
    Route("docs", ("/docs",), DocsResource, _SERVER, _docs, needs=PUBLIC),
    Route("docs_file", ("/docs/<path:name>",), FileResource, None, _docs_files, needs=PUBLIC),
    Route("page", ("/",), PageResource, None, _page, needs=PUBLIC),
    Route("page_file", ("/page/<path:name>",), FileResource, None, _page_files, needs=PUBLIC),
)
