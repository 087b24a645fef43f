"""Finding the files of a source's model, with their sizes and digests, before they are fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import PurePosixPath

from services.errors import InvalidRequest
from services.models.local_caches import find_file, find_in_caches, kept_file, ollama_blob
from services.models.pypi import find_in_package
from services.models.remote import Remote, RemoteFile
from services.models.sources import HubFile, LocalFile, OllamaModel, PypiFile, Source, file_name
from services.models.split import part_names


def locate(source: Source, target: str = "") -> Remote:
    """Find the files of a source's model. `target` is its name in the models folder; "": the source's own.

    Files that other programs keep on this machine are taken from there. Raises NotFound, PullFailed, and InvalidRequest if
    a model in several files cannot be called `target`.
    """
    if isinstance(source, OllamaModel):
        blob, digest = ollama_blob(source)
        return Remote(str(source), (kept_file(blob, target or file_name(source), digest),))
    if isinstance(source, PypiFile):
        found = find_in_package(source)
        return Remote(str(source), (replace(found, file=target or found.file),))
    if isinstance(source, LocalFile):
        return _remote(str(source), {name: kept_file(path, name) for name, path in find_file(source).items()}, target)
    files = {name: kept_file(path, name) for name, path in find_in_caches(source).items()}
    if not files:
        from services.models.hub import find_on_hub

        files = find_on_hub(source)
    return _remote(str(HubFile(source.repo, next(iter(files)), source.revision)), files, target)


def _remote(source: str, files: Mapping[str, RemoteFile], target: str) -> Remote:
    """The model with its files' own names or, with the same endings, the target's."""
    names = [PurePosixPath(name).name for name in files]
    if target:
        path = PurePosixPath(target)
        names = [path.with_name(name).as_posix() for name in part_names(path.name)]
        if len(names) != len(files) or names[0] != target:
            what = f"{source} comes in {len(files)} files, so that its name here cannot be {target}"
            raise InvalidRequest(f"{what}: it should end as {PurePosixPath(next(iter(files))).name} does", param="model")
    return Remote(source, tuple(replace(file, file=name) for name, file in zip(names, files.values(), strict=True)))
