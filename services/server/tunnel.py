"""A public address for a server on this machine, by Cloudflare's own program."""

from __future__ import annotations

import logging
import re
import shutil
import subprocess
import threading
from collections.abc import Callable

from services.errors import NotFound

log = logging.getLogger(__name__)

PROGRAM = "cloudflared"
_PUBLIC = re.compile(r"https://[a-z0-9][a-z0-9.-]*\.trycloudflare\.com")


class Tunnel:
    """The program, which runs until it is closed. A thread of its own reads what it says."""

    def __init__(self, url: str, tell: Callable[[str], None]) -> None:
        """Start it before the server at `url`; `tell` gets the public address once there is one.

        Raises NotFound, saying how to get the program, where it is not installed.
        """
        program = shutil.which(PROGRAM)
        if program is None:
            raise NotFound(
                f"there is no public address, since {PROGRAM} is not installed. It is one free program, on Cloudflare's "
                "downloads page for Cloudflare Tunnel and in Homebrew: put it into a folder of your PATH and start again"
            )
        command = [program, "tunnel", "--no-autoupdate", "--url", url]
        if url.startswith("https:"):
            # The certificate is for the server's name, and the way to it stays on this machine.
            command.append("--no-tls-verify")
        self._tell = tell
        self._closed = False
        self._process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl+C is the server's, which ends the program itself.
            start_new_session=True,
        )
        self._thread = threading.Thread(target=self._read, name="tunnel", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the program."""
        self._closed = True
        self._process.terminate()
        try:
            self._process.wait(timeout=5)
        except subprocess.TimeoutExpired:
            self._process.kill()
        self._thread.join(timeout=1)

    def _read(self) -> None:
        assert self._process.stderr
        told, last = False, ""
        with self._process.stderr as lines:
            for line in lines:
                last = line.strip() or last
                if not told and (found := _PUBLIC.search(line)):
                    told = True
                    self._tell(found[0])
        if not self._closed:
            log.error("%s has ended, and with it the public address: %s", PROGRAM, last)
