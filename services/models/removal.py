"""Removing a model from the models folder."""

from __future__ import annotations

from pathlib import Path

from services.errors import InvalidRequest
from services.models.split import part_names


def remove_model(folder: Path, name: str) -> tuple[int, list[str]]:
    """Remove a model, all its parts, or the links that lead to them; return the bytes that were freed, and the files.

    Raises InvalidRequest for a file that is in the folder only by a link to another folder, and OSError.
    """
    path = folder / name
    for parent in path.parents:
        if parent == folder:
            break
        if parent.is_symlink():
            what = f"{name} is behind the link {parent.relative_to(folder)}, which leads to {parent.resolve()}"
            raise InvalidRequest(f"{what}: remove the link, or the file where it is", param="name")
    freed, removed = 0, []
    for part in (path.with_name(each) for each in part_names(path.name)):
        if part.is_symlink() or part.exists():
            freed += 0 if part.is_symlink() or part.stat().st_nlink > 1 else part.stat().st_size
            part.unlink()
            removed.append(part.relative_to(folder).as_posix())
    return freed, removed
