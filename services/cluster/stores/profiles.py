"""The profile that is selected in a cluster: each API node has a config.json of its own, and a switch holds for all."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from typing_extensions import override

from services.cluster.redis_client import RedisClient, is_away, reached
from services.errors import InvalidRequest
from services.models.config import Config, Profiles, unknown_profile
from services.models.profile import Chosen

log = logging.getLogger(__name__)


class ClusterProfiles(Profiles):
    """Profiles of one API node. A switch holds until the selection that it replaced is changed in this node's file."""

    def __init__(self, path: Path, client: RedisClient, preferred: Chosen | None = None) -> None:
        super().__init__(path, preferred)
        self._client = client
        self._key = client.key("selected")
        self._last: str | None = None

    @override
    def config(self) -> Config:
        """Return the configuration with the cluster's selection; while Redis is away, with the last one known."""
        config = super().config()
        try:
            self._last = self._client.redis.get(self._key)
        except Exception as error:
            if not is_away(error):
                raise
        if self._last is None:
            return config
        chosen = json.loads(self._last)
        name = chosen["profile"]
        if name not in config.profiles or chosen["instead_of"] != [config.selected, config.profiles[name].model]:
            return config
        profile = config.profiles[name].model_copy(update={"model": chosen["model"]})
        return replace(config, selected=name, profiles={**config.profiles, name: profile})

    @override
    def add(self, name: str, entry: Mapping[str, Any], selects: bool = True) -> None:
        """Raise InvalidRequest: each API node has profiles of its own."""
        what = f"no profile has the model {entry['model']}: in a cluster a new one is written into each node's config.json"
        raise InvalidRequest(what, param="model_config", public=f"no profile has the model {entry['model']}")

    @override
    def select(self, name: str, model: str) -> None:
        """Select a profile for all API nodes. Raises NotFound, Unavailable."""
        config = super().config()
        if name not in config.profiles:
            raise unknown_profile(name)
        was = [config.selected, config.profiles[name].model]
        with reached():
            self._client.redis.set(self._key, json.dumps({"profile": name, "model": model, "instead_of": was}))
        self._preferred = None
