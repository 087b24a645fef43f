"""The model files: list, describe and check the GGUF files of the models folder."""

from __future__ import annotations

import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from services.errors import BadModelFile, InvalidRequest, NotFound
from services.json_file import Stamp, stamp_of
from services.models.gguf import BadGguf, GgufInfo, read_gguf


@dataclass(frozen=True)
class ModelFile:
    """A file of the folder: what its header says, or what is wrong with it."""

    name: str
    stamp: Stamp
    info: GgufInfo | None
    problem: str | None


@dataclass(frozen=True)
class CheckedModel:
    """A file that is a whole GGUF: its name, its path, and what changes whenever the file does."""

    name: str
    path: Path
    stamp: Stamp


class ModelFiles:
    """The folder's files, each header read again only after the file has changed.

    Any thread may call it; `_turn` protects what was read.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._turn = threading.Lock()
        self._read: dict[Path, ModelFile] = {}

    def list(self) -> list[ModelFile]:
        """Every .gguf file in the folder and the folders in it, by name; links that lead out are left out."""
        paths = sorted(path for path in self.folder.rglob("*.gguf") if path.is_file() and self._is_inside(path))
        paths = [path for path in paths if not any(part.startswith(".") for part in path.relative_to(self.folder).parts)]
        return [self._describe(path) for path in paths]

    def check(self, name: str) -> CheckedModel:
        """The file called `name`, a model in a whole GGUF file.

        Raises InvalidRequest where the name leaves the folder, NotFound where there is no such file, BadModelFile.
        """
        return self._check(name, adapter=False)

    def check_adapter(self, name: str) -> CheckedModel:
        """The file called `name`, a whole LoRA adapter. Raises as `check` does."""
        return self._check(name, adapter=True)

    def _check(self, name: str, adapter: bool) -> CheckedModel:
        path = self._find(name)
        found = self._describe(path)
        if found.info is None:
            raise BadModelFile(f"{name}: {found.problem}", param="model")
        if found.info.adapter != adapter:
            is_what = "a LoRA adapter, and no model" if found.info.adapter else "a model, and no LoRA adapter"
            raise BadModelFile(f"{name} is {is_what}", param="model")
        return CheckedModel(found.name, path, found.stamp)

    def _find(self, name: str) -> Path:
        pure = PurePosixPath(name)
        if not name.strip() or "\0" in name or pure.is_absolute() or ".." in pure.parts:
            what = "the model should be the name of a file in the models folder"
            raise InvalidRequest(what, param="model", code="bad_model_name")
        path = self.folder / pure
        try:
            is_inside, is_file = self._is_inside(path), path.is_file()
        except (OSError, RuntimeError):
            # A name that is too long, or a link to itself (RuntimeError up to Python 3.12).
            is_inside, is_file = True, False
        if not is_inside:
            what = f"{name} is a link that leads out of the models folder"
            raise InvalidRequest(what, param="model", code="bad_model_name")
        if not is_file:
            raise NotFound(f"there is no file {name} in the models folder", param="model", code="model_not_found")
        return path

    def _is_inside(self, path: Path) -> bool:
        return path.resolve().is_relative_to(self.folder.resolve())

    def _describe(self, path: Path) -> ModelFile:
        name = path.relative_to(self.folder).as_posix()
        stamp = (0, 0, 0)
        try:
            stamp = stamp_of(path.stat())
            with self._turn:
                known = self._read.get(path)
            if known and known.stamp == stamp:
                return known
            described = ModelFile(name, stamp, read_gguf(path), None)
        except BadGguf as error:
            described = ModelFile(name, stamp, None, str(error))
        except OSError as error:
            return ModelFile(name, stamp, None, f"cannot be read: {error.strerror}")
        with self._turn:
            self._read[path] = described
        return described
