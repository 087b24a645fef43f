"""One model file fetched into the models folder: resumed where it was cut, checked, and only then given its name.

What has arrived so far is `.arriving/NAME.part` in the models folder, beside `NAME.json`, which says of what it is a part.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from services.errors import BadModelFile, HearthError, InvalidRequest, NotFound, PullFailed, StorageFailed, Unavailable
from services.json_file import sync_folder
from services.models.gguf import BadGguf, read_gguf
from services.models.sources import HubFile, Source, best_file, file_name, ollama_blob

ARRIVING = ".arriving"
# Bytes that stay free on the disk, for the sessions and whatever else lives there.
MARGIN = 2**26
KEPT = "What has arrived is kept; pull it again to go on from there"
_BLOCK = 2**20


@dataclass(frozen=True)
class Remote:
    """A file that can be fetched: its name here, its size in bytes, and the digest by which it is known.

    The digest is a SHA-256 (64 hex digits), git's SHA-1 of a blob (40), or anything else that changes with the file.
    """

    file: str
    source: str
    size: int
    digest: str
    fetch: Callable[[Path, int], None]
    """Brings the rest of the file into a path that holds the given number of its bytes."""


def locate(source: Source, target: str = "") -> Remote:
    """Ask the source what it has. `target` is the file's name in the models folder; "": the source's own.

    Raises NotFound, PullFailed.
    """
    if not isinstance(source, HubFile):
        blob, digest = ollama_blob(source)
        return Remote(target or file_name(source), str(source), blob.stat().st_size, digest, _copier(blob))
    with _explained(source):
        from huggingface_hub import HfApi, get_hf_file_metadata, hf_hub_url

        file = source.file or best_file(source.repo, HfApi().list_repo_files(source.repo, revision=source.revision))
        url = hf_hub_url(source.repo, file, revision=source.revision)
        found = get_hf_file_metadata(url)
        if found.size is None or not found.etag:
            raise PullFailed(f"the hub does not say how large {source} is", param="source")
        exact = HubFile(source.repo, file, source.revision)
        return Remote(target or file_name(exact), str(exact), found.size, found.etag, _downloader(url, found.size, exact))


def fetch(remote: Remote, folder: Path) -> Path:
    """Fetch the file into the models folder, or what is missing of it; return its path.

    Raises InvalidRequest where another file has its name, StorageFailed (a full disk among others), PullFailed,
    BadModelFile for what is no GGUF, Unavailable while another process fetches it.
    """
    path = folder / remote.file
    if not path.resolve().is_relative_to(folder.resolve()):
        raise InvalidRequest(f"{remote.file} would lie outside of the models folder", param="model")
    part = part_of(folder, remote.file)
    with _written(part), alone(folder, remote.file, seconds=2):
        if path.exists():
            return _compared(path, remote)
        received = _begin(part, remote)
        _check_room(folder, remote, received)
        try:
            remote.fetch(part, received)
        except PullFailed as error:
            raise PullFailed(f"{error.message}. {KEPT}", param=error.param, code=error.code) from error
        _check_arrived(part, remote)
        path.parent.mkdir(parents=True, exist_ok=True)
        part.replace(path)
        sync_folder(path.parent)
        _note_of(part).unlink(missing_ok=True)
        return path


def part_of(folder: Path, file: str) -> Path:
    """Where what has arrived of a file is."""
    return folder / ARRIVING / f"{file.replace('/', '~')}.part"


def begun(folder: Path) -> list[dict[str, Any]]:
    """What has begun to arrive in a models folder: `file`, `source`, `size`, `received` (bytes), and the `state`.

    Whichever process fetches it: "arriving", or "interrupted" where none does.
    """
    notes = []
    for path in sorted((folder / ARRIVING).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            note = json.loads(path.read_text(encoding="utf-8"))
            named = {name: note[name] for name in ("file", "source", "size")}
            received = part_of(folder, note["file"]).stat().st_size
            notes.append({**named, "received": received, "state": _state(folder, note["file"])})
    return notes


@contextmanager
def alone(folder: Path, file: str, seconds: float) -> Iterator[None]:
    """Keep other processes from fetching the same file. Raises Unavailable where one does, so many seconds later."""
    lock = part_of(folder, file).with_suffix(".lock")
    lock.parent.mkdir(parents=True, exist_ok=True)
    try:
        with FileLock(lock, timeout=seconds):
            yield
    except Timeout:
        raise Unavailable(f"another process is fetching {file}", code="arriving", retry_after=10) from None


def _state(folder: Path, file: str) -> str:
    try:
        with alone(folder, file, seconds=0):
            return "interrupted"
    except Unavailable:
        return "arriving"


def _begin(part: Path, remote: Remote) -> int:
    """Make ready for the rest of the file; return how many bytes of it are there already."""
    note = {name: value for name, value in asdict(remote).items() if name != "fetch"}
    try:
        same = json.loads(_note_of(part).read_text(encoding="utf-8")) == note
    except (OSError, ValueError):
        same = False
    if not same:
        part.unlink(missing_ok=True)
        _note_of(part).write_text(json.dumps(note), encoding="utf-8")
    part.touch()
    if part.stat().st_size > remote.size:
        part.unlink()
        part.touch()
    return part.stat().st_size


def _note_of(part: Path) -> Path:
    return part.with_suffix(".json")


def _check_room(folder: Path, remote: Remote, received: int) -> None:
    free = shutil.disk_usage(folder).free
    if remote.size - received + MARGIN > free:
        what = f"{remote.file} needs {_gb(remote.size - received)} more, and the disk of {folder} has {_gb(free)} free"
        raise StorageFailed(what, param="source", code="disk_full")


def _check_arrived(part: Path, remote: Remote) -> None:
    """Raise PullFailed or BadModelFile, and throw away what arrived, where it is not what was to come."""
    size = part.stat().st_size
    if size < remote.size:
        raise PullFailed(f"{remote.file} ends after {size} of {remote.size} bytes. {KEPT}")
    problem: HearthError | None = None
    if not _matches(part, remote):
        what = f"the checksum of {remote.file} is wrong: what arrived is not what {remote.source} announced"
        problem = PullFailed(f"{what}. It was thrown away; pull it again", code="wrong_checksum")
    else:
        try:
            read_gguf(part)
        except BadGguf as error:
            problem = BadModelFile(f"{remote.source} is no model: {error}", param="source")
    if problem:
        part.unlink()
        _note_of(part).unlink(missing_ok=True)
        raise problem
    with part.open("rb") as file:
        os.fsync(file.fileno())


def _compared(path: Path, remote: Remote) -> Path:
    """`path`, where it is the file already. Raises InvalidRequest where it is another."""
    if path.stat().st_size == remote.size and _matches(path, remote):
        return path
    what = f"there is a file {remote.file} in the models folder already, and it is not {remote.source}; move it away first"
    raise InvalidRequest(what, param="source", code="file_exists")


def _matches(path: Path, remote: Remote) -> bool:
    """Whether a file is whole, by its digest where that is one of its bytes."""
    if path.stat().st_size != remote.size:
        return False
    if len(remote.digest) == 64:
        digest = hashlib.sha256()
    elif len(remote.digest) == 40:
        # git's object format: the digest of a header and the content.
        digest = hashlib.sha1(f"blob {remote.size}\0".encode(), usedforsecurity=False)
    else:
        return True
    with path.open("rb") as file:
        while block := file.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == remote.digest.lower()


def _downloader(url: str, size: int, source: HubFile) -> Callable[[Path, int], None]:
    def fetch(part: Path, received: int) -> None:
        with _explained(source):
            from huggingface_hub import constants
            from huggingface_hub.file_download import http_get
            from huggingface_hub.utils._headers import build_hf_headers
            from huggingface_hub.utils.logging import set_verbosity_error
            from huggingface_hub.utils.tqdm import disable_progress_bars

            disable_progress_bars()
            set_verbosity_error()  # type: ignore[no-untyped-call]
            # What is read of a piece is lost where the connection is cut; the library's pieces are of 10 MB.
            constants.DOWNLOAD_CHUNK_SIZE = _BLOCK // 8
            with part.open("r+b", buffering=0) as file:
                file.seek(received)
                http_get(url, file, resume_size=received, expected_size=size, headers=build_hf_headers())

    return fetch


def _copier(blob: Path) -> Callable[[Path, int], None]:
    def fetch(part: Path, received: int) -> None:
        if not received:
            # On one disk the file needs no second copy.
            with contextlib.suppress(OSError):
                part.unlink()
                os.link(blob, part)
                return
            part.touch()
        with blob.open("rb") as source, part.open("r+b", buffering=0) as file:
            source.seek(received)
            file.seek(received)
            shutil.copyfileobj(source, file, _BLOCK)

    return fetch


@contextmanager
def _explained(source: HubFile) -> Iterator[None]:
    """Raise what goes wrong with the hub as one of our errors."""
    import httpx2
    from huggingface_hub import errors

    try:
        yield
    except errors.GatedRepoError:
        what = f"{source.repo} asks for its owner's permission: ask there, and set HF_TOKEN to your token"
        raise PullFailed(what, param="source", code="no_permission") from None
    except errors.RepositoryNotFoundError:
        what = f"the hub has no repository {source.repo}, or HF_TOKEN may not see it"
        raise NotFound(what, param="source", code="repository_not_found") from None
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


@contextmanager
def _written(part: Path) -> Iterator[None]:
    """Raise what goes wrong with the disk as StorageFailed."""
    try:
        yield
    except OSError as error:
        what = f"{part.name.removesuffix('.part')} could not be written: {error.strerror or error}"
        raise StorageFailed(f"{what}. {KEPT}") from error


def _gb(n_bytes: int) -> str:
    return f"{n_bytes / 1e9:.1f} GB"
