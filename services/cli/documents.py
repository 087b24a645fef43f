"""`main.py documents …`: folders of this machine whose files the server follows, and keeps in collections."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path

from rich.console import Console
from rich.table import Table

from auth.identity import MASTER
from services.bootstrap import open_keys
from services.cli.data_lock import lock_data
from services.cluster.settings import read_cluster
from services.documents.collections import Collection, Collections, check_name
from services.documents.database import NAME, DocumentDatabase
from services.documents.folders import Folders, FollowedFolder, Problem
from services.documents.library import Library
from services.errors import InvalidRequest, NotFound, Unavailable
from services.logs import visible
from services.readers import EVERYBODY, Readers
from services.settings import Settings, settings_of

# Problems that are printed of each folder.
_PRINTED = 20


def documents(arguments: Sequence[str]) -> int:
    """Run `main.py documents` with these arguments; return the exit status. Raises HearthError, or OSError of the disk."""
    parser = _parser()
    given = parser.parse_args(arguments)
    settings = settings_of(parser, given, "data")
    if read_cluster(os.environ):
        raise Unavailable("a cluster follows no folders: upload files to one of its API nodes (POST /files)")
    settings.data.mkdir(parents=True, exist_ok=True)
    with ExitStack() as closing:
        run: Callable[[_Command, argparse.Namespace], None] = given.run
        run(_Command(settings, closing), given)
    return 0


class _Command:
    """The collections and folders, for one command, beside a server that may run."""

    def __init__(self, settings: Settings, closing: ExitStack) -> None:
        """`closing` closes the database."""
        self.settings = settings
        database = DocumentDatabase(settings.data / NAME)
        closing.callback(database.close)
        self.collections = Collections(database)
        self.folders = Folders(database, self.collections)

    def check_keys(self, ids: Sequence[str]) -> None:
        """Raise NotFound for an id that no key has."""
        # The first start makes the master key.
        names = {MASTER, *open_keys(self.settings, os.environ).names()}
        for id_ in ids:
            if id_ not in names:
                raise NotFound(f'there is no key with the id "{id_}": see python3 main.py keys')

    def collection(self, owner: str, name: str) -> Collection | None:
        """Return a key's collection; None if it has none of that name."""
        try:
            return self.collections.get(owner, name)
        except NotFound:
            return None

    def runs(self) -> bool:
        """Return whether a server works on the data folder."""
        with ExitStack() as closing:
            return not lock_data(self.settings.data, closing)


def _add(command: _Command, given: argparse.Namespace) -> None:
    path, readers = _folder(given.folder, command.settings.data), _readers(given.readers)
    name = _name(given.collection)
    command.check_keys([given.owner, *(readers if isinstance(readers, list) else ())])
    if collection := command.collection(given.owner, name):
        command.folders.follow(collection, path)
        if readers is not None:
            command.collections.lend(collection, readers)
    else:
        collection = command.collections.add(given.owner, name, readers or [])
        command.folders.follow(collection, path)
    begins = "the server that runs reads it within seconds" if command.runs() else "the next start of the server reads it"
    print(visible(f'The collection "{name}" follows {path}: {begins}, and then whatever changes there.'))


def _list(command: _Command, _given: argparse.Namespace) -> None:
    table = Table("collection", "owner", "readers", "files", "problems", "folder")
    told: list[tuple[Collection, list[Problem]]] = []
    for collection in command.collections.all():
        folder = command.folders.of(collection)
        problems = command.folders.problems(folder) if folder else []
        readers = collection.readers if isinstance(collection.readers, str) else ", ".join(collection.readers)
        texts = visible(collection.name), visible(collection.owner), visible(readers)
        n_files = len(command.collections.files(collection))
        table.add_row(*texts, f"{n_files:,}", f"{len(problems):,}", visible(_described(folder)))
        told.append((collection, problems))
    if not told:
        print("There are no collections. To make one: python3 main.py documents add FOLDER --collection NAME")
        return
    Console(width=None if os.isatty(1) else 160, markup=False, highlight=False).print(table)
    for collection, problems in told:
        for problem in problems[:_PRINTED]:
            print(visible(f"{collection.name}: {problem.name}: {problem.reason}"))
        if len(problems) > _PRINTED:
            print(visible(f"{collection.name}: and {len(problems) - _PRINTED:,} more"))


def _described(folder: FollowedFolder | None) -> str:
    if folder is None:
        return ""
    return f"{folder.path} (its files are being deleted)" if folder.is_leaving else str(folder.path)


def _remove(command: _Command, given: argparse.Namespace) -> None:
    collection = command.collections.get(given.owner, given.name)
    folder = command.folders.of(collection)
    if folder is None:
        raise NotFound(f'the collection "{given.name}" follows no folder')
    if not given.files:
        command.folders.remove(folder)
        said = f'The collection "{given.name}" follows {folder.path} no more. Its files stay, as they are now.'
    else:
        # Noted first: a server that starts meanwhile goes on with it.
        command.folders.leave(folder)
        said = f'The collection "{given.name}" follows {folder.path} no more. '
        said += "The server deletes its files within seconds." if command.runs() else _delete(command.settings, folder)
    print(visible(said))


def _delete(settings: Settings, folder: FollowedFolder) -> str:
    """Delete the files of a folder where no server runs, which has the files open; return what was done."""
    library = Library(settings.data, settings.documents)
    try:
        count = library.folders.remove_with_files(folder, library.files)
    finally:
        library.close()
    return f"Its {count:,} files are deleted." if count != 1 else "Its only file is deleted."


def _folder(given: str, data: Path) -> Path:
    """Return the folder to follow, as an absolute path without links. Raises InvalidRequest."""
    path = Path(given).expanduser()
    if not path.exists():
        raise InvalidRequest(f"there is no folder {given}")
    if not path.is_dir():
        raise InvalidRequest(f"{given} is no folder")
    if not os.access(path, os.R_OK | os.X_OK):
        raise InvalidRequest(f"{given} cannot be read: permission denied")
    path, data = path.resolve(), data.resolve()
    if path == Path(path.anchor):
        raise InvalidRequest(f"{given} is the whole file system: choose a folder in it")
    if data.is_relative_to(path) or path.is_relative_to(data):
        how = "is" if path == data else "contains" if data.is_relative_to(path) else "lies in"
        raise InvalidRequest(f"{given} {how} the server's data folder, {data}: choose another folder")
    try:
        str(path).encode()
    except UnicodeEncodeError:
        raise InvalidRequest(f"{given}: the folder's name is not UTF-8: rename it") from None
    return path


def _name(given: str) -> str:
    """Return the name of a collection. Raises InvalidRequest."""
    try:
        return check_name(given)
    except ValueError as error:
        raise InvalidRequest(f'--collection: "{given}" {error}') from None


def _readers(given: str | None) -> Readers | None:
    """Return the readers of the flag; None where it is not given."""
    if given is None or given == EVERYBODY:
        return given if given is None else EVERYBODY
    return [id_.strip() for id_ in given.split(",") if id_.strip()]


def _parser() -> argparse.ArgumentParser:
    # Before the command's name or behind it.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", metavar="…", default=argparse.SUPPRESS, help="folder of documents.sqlite")
    about = "Folders of this machine that the server follows, so that searches and answers draw on their files."
    parser = argparse.ArgumentParser(prog="main.py documents", description=about, parents=[common])
    parser.set_defaults(run=_list)
    commands = parser.add_subparsers(metavar="COMMAND")
    about = "the collections, the folders that they follow, and what cannot be read there (the default)"
    commands.add_parser("list", parents=[common], help=about).set_defaults(run=_list)
    add = commands.add_parser(
        "add", parents=[common], help="have a collection follow a folder: new, changed, deleted files"
    )
    add.set_defaults(run=_add)
    add.add_argument("folder", metavar="FOLDER")
    add.add_argument("--collection", metavar="NAME", required=True, help="its name, by which requests draw on it")
    about = f'who may search it too: ids of keys with commas between, or "{EVERYBODY}" (nobody)'
    add.add_argument("--readers", metavar="ID,ID", help=about)
    remove = commands.add_parser("remove", parents=[common], help="follow the folder of a collection no more")
    remove.set_defaults(run=_remove)
    remove.add_argument("name", metavar="NAME")
    remove.add_argument("--files", action="store_true", help="delete its files here too (not those in the folder)")
    for each in (add, remove):
        each.add_argument("--owner", metavar="KEY_ID", default=MASTER, help="whose collection it is (the master key's)")
    return parser
