"""Everything that a server keeps, opened together: in the files of its data folder, unless a cluster shares it."""

from __future__ import annotations

from dataclasses import dataclass

from auth.keys import KeyStore
from auth.quotas import Quotas, check_charged
from auth.rate_limits import Meter
from auth.usage import UsageStore, UsageTable
from services.jobs.store import JobStore, JobTable
from services.models.config import Profiles
from services.models.files import ModelFiles
from services.models.profile import Chosen
from services.sessions.service import Sessions
from services.settings import Settings
from services.storage.json_file import JsonFile


@dataclass(frozen=True)
class Stores:
    """What a server keeps, and the models that it can use."""

    profiles: Profiles
    files: ModelFiles
    keys: KeyStore
    sessions: Sessions
    usage: UsageTable
    meter: Meter
    jobs: JobTable
    quotas: Quotas


def file_stores(settings: Settings, preferred: Chosen | None = None) -> Stores:
    """Those of a server by itself; `preferred` is the profile to begin with. Raises DamagedFile, StorageFailed."""
    profiles = Profiles(settings.data / "config.json", preferred)
    keys = KeyStore(settings.data / "api_keys.json", max_keys=settings.max_keys)
    usage = UsageStore(settings.data / "usage.sqlite")
    sessions, jobs = Sessions(settings.data / "sessions.json"), JobStore(settings.data / "jobs.sqlite")
    charged = JsonFile(settings.data / "charged.json", check_charged, private=True)
    return Stores(
        profiles=profiles,
        files=ModelFiles(settings.models),
        keys=keys,
        sessions=sessions,
        usage=usage,
        meter=Meter(keys, usage, settings.limits_store),
        jobs=jobs,
        quotas=Quotas(keys, sessions, jobs, charged, settings.key_sessions, settings.key_storage_mb),
    )
