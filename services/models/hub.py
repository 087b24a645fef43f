"""The files of a hub's repositories, and the hub's errors as this project's own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx2
from huggingface_hub import HfApi, errors, get_hf_file_metadata, hf_hub_url

from services.errors import NotFound, PullFailed
from services.models.best_file import best_file
from services.models.hub_hosts import endpoint
from services.models.hub_internals import resume_download
from services.models.remote import RemoteFile
from services.models.sources import HubFile
from services.models.split import parts_in_repository


def find_on_hub(source: HubFile) -> dict[str, RemoteFile]:
    """The files of the model that a source names, by their paths in the repository. Raises NotFound, PullFailed."""
    with explained(source):
        file = source.file
        if not file:
            files = HfApi(endpoint()).list_repo_files(source.repo, revision=source.revision)
            file = best_file(source.repo, files, source.quantization)
    return {path: _file(HubFile(source.repo, path, source.revision)) for path in parts_in_repository(file)}


def _file(source: HubFile) -> RemoteFile:
    with explained(source):
        url = hf_hub_url(source.repo, source.file, revision=source.revision, endpoint=endpoint())
        found = get_hf_file_metadata(url)
    if found.size is None or not found.etag:
        raise PullFailed(f"the hub does not say how large {source} is", param="source")
    return RemoteFile(source.file, found.size, found.etag, _downloader(url, found.size, source))


def _downloader(url: str, size: int, source: HubFile) -> Callable[[Path, int], None]:
    def fetch(part: Path, received: int) -> None:
        with explained(source):
            resume_download(url, part, received, size)

    return fetch


@contextmanager
def explained(source: HubFile) -> Iterator[None]:
    """Raise the errors of the hub and its library as NotFound or PullFailed, naming the source."""
    try:
        yield
    except errors.GatedRepoError:
        public = f"{source.repo} asks for its owner's permission, which this server has not"
        what = f"{source.repo} asks for its owner's permission: ask there, and set HF_TOKEN to your token"
        raise PullFailed(what, param="source", code="no_permission", public=public) from None
    except errors.RepositoryNotFoundError:
        what = f"the hub has no repository {source.repo}, or HF_TOKEN may not see it"
        public = f"the hub has no repository {source.repo}, or the server may not see it"
        raise NotFound(what, param="source", code="repository_not_found", public=public) from None
    except errors.RevisionNotFoundError:
        what = f"{source.repo} has no revision {source.revision}"
        raise NotFound(what, param="source", code="revision_not_found") from None
    except errors.EntryNotFoundError:
        raise NotFound(f"{source.repo} has no file {source.file}", param="source", code="file_not_found") from None
    except httpx2.ConnectError as error:
        raise PullFailed(f"{source} could not be fetched: the hub cannot be reached ({error})", param="source") from error
    except (errors.HfHubHTTPError, httpx2.HTTPError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PullFailed(f"{source} could not be fetched: {reason}", param="source") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # The library's own check of the size.
        raise PullFailed(f"{source} came cut short", param="source") from error
