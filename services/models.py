"""The model files: list, describe and check the GGUF files of the models folder."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.errors import BadModelFile, InvalidRequest, NotFound
from services.gguf import BadGguf, GgufInfo, read_gguf


@dataclass(frozen=True)
class ModelFile:
    """A file of the folder: what its header says, or what is wrong with it."""

    name: str
    info: GgufInfo | None
    problem: str | None


class ModelFiles:
    """The folder's files, each header read again only after the file has changed.

    Any thread may call it; `_turn` protects what was read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turn = threading.Lock()
        self._read: dict[Path, tuple[tuple[int, int, int], ModelFile]] = {}

    def list(self) -> list[ModelFile]:
        """Every .gguf file in the folder and the folders in it, by name; links that lead out are left out."""
        paths = sorted(path for path in self.folder.rglob("*.gguf") if path.is_file() and self._is_inside(path))
        return [self._describe(path) for path in paths]

    def find(self, name: str, *, param: str = "model") -> Path:
        """The path of the file called `name`, not yet checked.

        Raises InvalidRequest where the name leaves the folder, NotFound where there is no such file.
        """
        pure = PurePosixPath(name)
        if not name.strip() or "\0" in name or pure.is_absolute() or ".." in pure.parts:
            raise InvalidRequest(
                "the model should be the name of a file in the models folder", param=param, code="bad_model_name"
            )
        path = self.folder / pure
        try:
            found = path.is_file()
        except OSError:
            found = False
        if not found:
            raise NotFound(f"there is no file {name} in the models folder", param=param, code="model_not_found")
        if not self._is_inside(path):
            raise InvalidRequest(
                f"{name} is a link that leads out of the models folder", param=param, code="bad_model_name"
            )
        return path

    def check(self, name: str, *, param: str = "model") -> Path:
        """The path of the file called `name`, a whole GGUF file. Raises like `find`, and BadModelFile."""
        path = self.find(name, param=param)
        problem = self._describe(path).problem
        if problem:
            raise BadModelFile(f"{name}: {problem}", param=param)
        return path

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder.resolve())

    def _describe(self, path: Path) -> ModelFile:
        name = path.relative_to(self.folder).as_posix()
        try:
            found = path.stat()
            stamp = (found.st_mtime_ns, found.st_size, found.st_ino)
            with self._turn:
                known = self._read.get(path)
            if known and known[0] == stamp:
                return known[1]
            described = ModelFile(name, read_gguf(path), None)
        except BadGguf as error:
            described = ModelFile(name, None, str(error))
        except OSError as error:
            return ModelFile(name, None, f"cannot be read: {error.strerror}")
        with self._turn:
            self._read[path] = (stamp, described)
        return described
