"""`main.py models …`: the model files of this machine, the catalog, and the models that fit into memory."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import dataclass

from services.cli.model_facts import (
    catalog_facts,
    file_facts,
    gb,
    memory_facts,
    print_facts,
    print_table,
    profile_facts,
)
from services.engine.machine import all_memory, free_memory
from services.errors import BadModelFile, InvalidRequest, NotFound
from services.logs import visible
from services.models.catalog import CatalogEntry, catalog, find, proposals
from services.models.config import EXAMPLE, Config, Profiles
from services.models.files import ModelFile, ModelFiles, remove_model
from services.models.fitting import fit_of
from services.models.gguf import NO_TEMPLATE, GgufInfo
from services.models.profile import Profile
from services.models.sources import FORMS, parse_source
from services.settings import Settings, settings_of


def models(arguments: Sequence[str]) -> int:
    """Run `main.py models` with these arguments; return the exit status. Raises HearthError, or OSError of the disk."""
    parser = _parser()
    given = parser.parse_args(arguments)
    settings = settings_of(parser, given, "data", "models", "pull_hosts")
    given.run(_Models(settings), given)
    return 0


class _Models:
    """The folder's files and the profiles, as they are when the command runs."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.files = ModelFiles(settings.models)
        path = settings.data / "config.json"
        # Only the first start makes a config.
        self.config: Config = Profiles(path if path.exists() else EXAMPLE).config()

    def find(self, name: str) -> ModelFile | None:
        """Return a file of the folder by its name, with .gguf or without, or by its name in the catalog."""
        entry = find(name)
        wanted = (name, f"{name}.gguf", *([entry.file] if entry else []))
        return next((file for file in self.files.list() if file.name in wanted), None)

    def entry(self, name: str) -> CatalogEntry | None:
        """Return the catalog's entry of this name, file or source."""
        return find(name) or next((entry for entry in catalog() if name in (entry.file, entry.source)), None)

    def adapters(self, profile: Profile) -> int:
        """Return the bytes of a profile's adapters, without those that are not in the models folder."""
        paths = [self.settings.models / lora.file for lora in profile.lora]
        return sum(path.stat().st_size for path in paths if path.is_file())


@dataclass(frozen=True)
class _Named:
    """A named model: its header, the file's name ("": it is not here), and the profile that it has or would have."""

    info: GgufInfo
    profile_name: str
    profile: Profile
    file: str


def _list(known: _Models, _given: argparse.Namespace) -> None:
    listed = known.files.list()
    if not listed:
        print(f"There is no model in {known.settings.models}. To see what can be fetched: python3 main.py models catalog")
        return
    print_table(("file", "size", "quantization", "context", "profiles", ""), [_row(known, file) for file in listed])
    print(visible(f"Selected: {known.config.selected} (its model is {known.config.profile.model})."))


def _row(known: _Models, file: ModelFile) -> Sequence[str]:
    users = ", ".join(known.config.users(file.name))
    if file.info is None:
        return file.name, "", "", "", users, f"cannot be used: {file.problem}"
    info = file.info
    note = "a LoRA adapter" if info.adapter else "" if info.chat_template else NO_TEMPLATE
    return file.name, gb(info.size), info.quantization, f"{info.context_length or 0:,}", users, note


def _catalog(known: _Models, _given: argparse.Namespace) -> None:
    free = free_memory()
    rows = []
    for told in proposals({file.name for file in known.files.list() if file.info}, free):
        fit_here = "fits" if told["fits"] else f"needs {gb(told['needs_bytes'])} free"
        notes = ["the best that fits" if told["best"] else fit_here, *(["here"] if told["here"] else [])]
        can = ", ".join(told["can"])
        row = (
            told["name"],
            gb(told["size"]),
            told["quantization"],
            told["licence"],
            can,
            f"{told['machine_gb']} GB",
            ", ".join(notes),
        )
        rows.append(row)
    print_table(("name", "size", "type", "licence", "can", "machine", "this machine"), rows)
    total = all_memory()
    print(
        f"This machine has {gb(total)} of memory, and {gb(free)} are free." if total else f"{gb(free)} of memory are free."
    )
    # Loads llama.cpp, which the other commands do without.
    from services.engine.conversion import fast_types

    if best := fast_types():
        print(f"Types of weights that llama.cpp computes fast on this CPU: {', '.join(best)}.")
    print("To fetch one, and chat with it: python3 main.py run NAME. All about one: python3 main.py models show NAME")


def _show(known: _Models, given: argparse.Namespace) -> None:
    name, profiles = given.name, known.config.profiles
    file = profiles[name].model if name in profiles else name
    found, entry = known.find(file), find(name)
    if name in profiles and not found and not (entry := known.entry(file)):
        where = profiles[name].source
        hint = f"python3 main.py pull {name}" if where else "it has no source to fetch it from"
        facts = [("model", f"{file} (not here: {hint})"), ("source", where or ""), *profile_facts(name, profiles[name])]
        print_facts(name, facts)
        return
    if found and not found.info:
        facts = [("problem", found.problem or ""), ("profiles", ", ".join(known.config.users(found.name)))]
        print_facts(found.name, facts)
        return
    named, free = _named(known, name, ""), free_memory()
    entry = entry or known.entry(named.file)
    facts = file_facts(named.info) if named.file else []
    facts += [fact for fact in catalog_facts(entry) if fact[0] not in dict(facts)] if entry else []
    if not named.info.adapter:
        facts += profile_facts(named.profile_name, named.profile)
        facts += memory_facts(fit_of(named.info, named.profile, free, known.adapters(named.profile)), free)
    facts.append(("used by", ", ".join(known.config.users(named.file))))
    print_facts(named.file or f"{named.info.name} (not here: python3 main.py pull {named.info.name})", facts)


def _fit(known: _Models, given: argparse.Namespace) -> None:
    named, free = _named(known, given.name, given.profile or ""), free_memory()
    if named.info.adapter:
        raise InvalidRequest(f"{given.name} is a LoRA adapter: fit takes the profile that has it", param="name")
    made = fit_of(named.info, named.profile, free, known.adapters(named.profile))
    if made.problem:
        raise BadModelFile(f"{given.name} does not fit into this machine now: {made.problem}", param=made.param)
    facts = [*profile_facts(named.profile_name, named.profile), *memory_facts(made, free)]
    print_facts(named.file or given.name, facts)


def _named(known: _Models, name: str, profile_name: str) -> _Named:
    """Return the model of a name or a source, with the profile `profile_name` or, where that is "", with its own.

    Raises NotFound, InvalidRequest, BadModelFile, PullFailed.
    """
    config = known.config
    wanted = config.named(profile_name) if profile_name else None
    own = name if name in config.profiles else ""
    file = config.profiles[name].model if own else name
    info, file = _info(known, file, config.profiles[name].source or "" if own else name)
    if wanted:
        return _Named(info, profile_name, wanted, file)
    if own := own or config.profile_of(file) or "":
        return _Named(info, own, config.profiles[own], file)
    entry = known.entry(file or name)
    values = entry.profile_values() if entry else {"model": file or "model.gguf"}
    return _Named(info, "", Profile.model_validate(values), file)


def _info(known: _Models, name: str, source: str) -> tuple[GgufInfo, str]:
    """Return a model's header by its file here, else by the catalog, else by its source; and the file's name here."""
    if found := known.find(name):
        if not found.info:
            raise BadModelFile(f"{found.name}: {found.problem}", param="name")
        return found.info, found.name
    if entry := known.entry(name) or known.entry(source):
        return entry.info(), ""
    if ":" not in source and "/" not in source:
        what = f'there is no "{name}": neither a profile, nor a file of the models folder, nor a model of the catalog'
        raise NotFound(f"{what}; a source is {FORMS}", param="name")
    parsed = parse_source(source, local=True)
    from services.models.remote_header import info_of_source

    return info_of_source(parsed, known.settings.pull_hosts), ""


def _rm(known: _Models, given: argparse.Namespace) -> None:
    file = known.find(given.name)
    if not file:
        raise NotFound(f"there is no file {given.name} in the models folder {known.settings.models}", param="name")
    if (users := known.config.users(file.name)) and not given.force:
        what = f"the profiles that use {file.name}: {', '.join(users)}" if users[1:] else f"the profile {users[0]} uses it"
        raise InvalidRequest(f"{file.name} is needed, {what}; --force removes it all the same", code="model_in_use")
    freed, removed = remove_model(known.settings.models, file.name)
    print(visible(f"Removed {', '.join(removed)} ({gb(freed)} freed)."))


def _unload(_known: _Models, given: argparse.Namespace) -> None:
    from services.cli.unload import unload

    freed = unload(given.url, given.key or os.environ.get("HEARTH_KEY", ""), given.name)
    print(visible(f"{freed} is in memory no longer."))


def _parser() -> argparse.ArgumentParser:
    # Before the command's name or behind it.
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--data", metavar="…", default=argparse.SUPPRESS, help="folder of config.json")
    common.add_argument("--models", metavar="…", default=argparse.SUPPRESS, help="folder of the GGUF files")
    hosts = "hosts that models may be fetched from, with commas between"
    common.add_argument("--pull-hosts", metavar="…", default=argparse.SUPPRESS, help=hosts)
    about = "The models of this machine, those that can be fetched, and what they take in memory."
    parser = argparse.ArgumentParser(prog="main.py models", description=about, parents=[common])
    parser.set_defaults(run=_list)
    commands = parser.add_subparsers(metavar="COMMAND")
    commands.add_parser("list", parents=[common], help="the files that are here (the default)").set_defaults(run=_list)
    listed = commands.add_parser("catalog", parents=[common], help="what can be fetched, and what fits this machine")
    listed.set_defaults(run=_catalog)
    show = commands.add_parser("show", parents=[common], help="all about a file, a profile or a model of the catalog")
    show.set_defaults(run=_show)
    fits = commands.add_parser("fit", parents=[common], help="what a model takes in memory, before it is fetched")
    fits.set_defaults(run=_fit)
    fits.add_argument("--profile", metavar="NAME", help="with this profile's settings")
    remove = commands.add_parser("rm", parents=[common], help="remove a model file, all its parts")
    remove.set_defaults(run=_rm)
    remove.add_argument("--force", action="store_true", help="though a profile names it")
    unload = commands.add_parser("unload", parents=[common], help="have a running server free a model from memory")
    unload.set_defaults(run=_unload)
    unload.add_argument("--url", default="http://127.0.0.1:5000", help="where it listens (http://127.0.0.1:5000)")
    unload.add_argument("--key", help="a key that may switch models (HEARTH_KEY in the environment)")
    for command in (show, remove, unload):
        command.add_argument("name", metavar="NAME")
    fits.add_argument("name", metavar="NAME|SOURCE")
    return parser
