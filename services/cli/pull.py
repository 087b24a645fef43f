"""`main.py pull`: fetch a model file."""

from __future__ import annotations

import logging

from services.cli.progress import show
from services.logs import visible
from services.models.config import Profiles
from services.models.downloads import Pulls
from services.settings import Settings


def pull(settings: Settings, what: str) -> int:
    """Fetch a profile's model, the catalog's, or the one that a source names, and say how to use it.

    Raises HearthError where that fails; the bytes that have arrived are kept, and the next pull continues from there.
    """
    # The progress bar shows what the log would.
    logging.getLogger("services.models.downloads").setLevel(logging.ERROR)
    source, target = Profiles(settings.data / "config.json").config().source(what, local=True)
    arriving = Pulls(settings.models, settings.pull_hosts).start(source, target)
    show(arriving)
    print(visible(f"{arriving.path} is there and whole."))
    if not target:
        assert arriving.path
        name = arriving.path.relative_to(settings.models).as_posix()
        print(visible(f"To chat with it: python3 main.py run {name}. A request may name it as its model, too."))
    return 0
