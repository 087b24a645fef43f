"""The models that a cluster's workers serve."""

from __future__ import annotations

from pathlib import Path

from typing_extensions import override

from services.cluster.redis_client import reached
from services.cluster.registry import Registry, ServedModel, WorkerHeartbeat
from services.errors import BadModelFile, NotFound
from services.models.files import AvailableModels, CheckedModel, ModelFile

NO_WORKER = "no_worker"


class ClusterFiles(AvailableModels):
    """The models of all workers together. Any thread may call it. All raise Unavailable where Redis is away."""

    def __init__(self, registry: Registry, templates: Path) -> None:
        """`templates` is this API node's own folder, where chat templates of its profiles may be."""
        self.registry = registry
        self.folder = Path()
        self.templates = templates

    @override
    def check(self, name: str) -> CheckedModel:
        return self._check(name, adapter=False)

    @override
    def check_adapter(self, name: str) -> CheckedModel:
        return self._check(name, adapter=True)

    def serving(self, name: str) -> tuple[ServedModel, list[WorkerHeartbeat]]:
        """Return a model, and the workers that serve it. Raises NotFound where there is none."""
        with reached():
            workers = self.registry.workers()
        found = [model for worker in workers if (model := worker.model(name))]
        if not found:
            present = f"{len(workers)} workers are there" if workers else "no worker is there"
            raise NotFound(f"no worker of the cluster serves {name} now ({present})", param="model", code=NO_WORKER)
        # Of different files of one name, the one that most workers have counts.
        kinds = [model.vocabulary for model in found]
        wanted = max(sorted(set(kinds)), key=kinds.count)
        model = next(model for model in found if model.vocabulary == wanted)
        return model, [each for each in workers if (served := each.model(name)) and served.vocabulary == wanted]

    @override
    def list(self) -> list[ModelFile]:
        with reached():
            served = {model.name: model for worker in self.registry.workers() for model in worker.models}
        return [ModelFile(name, _stamp(served[name]), served[name].info, None) for name in sorted(served)]

    def _check(self, name: str, adapter: bool) -> CheckedModel:
        model, _ = self.serving(name)
        if model.info.adapter != adapter:
            is_what = "a LoRA adapter, and no model" if model.info.adapter else "a model, and no LoRA adapter"
            raise BadModelFile(f"{name} is {is_what}", param="model")
        return CheckedModel(name, Path(name), _stamp(model), model.info)


def _stamp(model: ServedModel) -> tuple[int, int, int]:
    return model.mtime, model.info.size, int(model.vocabulary[:12], 16) if model.vocabulary != "text" else 0
