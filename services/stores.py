"""The stores of a server, opened together: the files of its data folder, unless a cluster shares them."""

from __future__ import annotations

from dataclasses import dataclass

from auth.key_use import LocalLastUse
from auth.keys import KeyStore
from auth.quotas import Quotas, check_charged
from auth.rate_limits import Meter
from auth.usage import UsageStore, UsageTable
from services.documents.library import Library
from services.jobs.store import JobStore, JobTable
from services.models.config import Profiles
from services.models.files import AvailableModels, ModelFiles
from services.models.profile import Chosen
from services.sessions.assistants import ASSISTANTS, Assistants, check_assistants
from services.sessions.responses import ResponseStore, ResponseTable
from services.sessions.service import Sessions
from services.settings import Settings
from services.storage.database import NAME
from services.storage.json_file import JsonFile


@dataclass(frozen=True)
class Stores:
    """A server's stores, and the models that it can use."""

    profiles: Profiles
    files: AvailableModels
    keys: KeyStore
    sessions: Sessions
    usage: UsageTable
    meter: Meter
    jobs: JobTable
    responses: ResponseTable
    quotas: Quotas
    documents: Library | None
    """The keys' own files; None where the nodes of a cluster share no folder for them."""
    assistants: Assistants


def file_stores(settings: Settings, preferred: Chosen | None = None) -> Stores:
    """Open the stores of a single server; `preferred` is the profile to begin with. Raises DamagedFile, StorageFailed."""
    profiles = Profiles(settings.data / "config.json", preferred)
    database = settings.data / NAME
    last_use = LocalLastUse(database)
    keys = KeyStore(settings.data / "api_keys.json", max_keys=settings.max_keys, last_use=last_use)
    usage, sessions, jobs = UsageStore(database), Sessions(settings.data / "sessions.json"), JobStore(database)
    responses = ResponseStore(database)
    # Opened while all have the same file: should it be removed, a new one beside its WAL would be damaged.
    last_use.read()
    documents = Library(settings.data, settings.documents, is_usable=keys.is_usable)
    charged = JsonFile(settings.data / "charged.json", check_charged, private=True)
    return Stores(
        profiles=profiles,
        files=ModelFiles(settings.models),
        keys=keys,
        sessions=sessions,
        usage=usage,
        meter=Meter(keys, usage, settings.limits_store),
        jobs=jobs,
        responses=responses,
        quotas=Quotas(
            keys, sessions, jobs, responses, charged, settings.key_sessions, settings.key_storage_mb, documents.files
        ),
        documents=documents,
        assistants=Assistants(JsonFile(settings.data / ASSISTANTS, check_assistants, private=True), keys.is_usable),
    )
