"""A public address for a server on this machine, by Cloudflare's program cloudflared."""

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
    """The running program; a thread of its own reads its output."""

    @classmethod
    def open(cls, url: str, on_public: Callable[[str], None]) -> Tunnel:
        """Start the program in front of the server at `url`; call `on_public` with the public address once it is known.

        Raises NotFound, saying how to get the program, if it is not installed.
        """
        program = shutil.which(PROGRAM)
        if program is None:
            raise NotFound(
                f"there is no public address, since {PROGRAM} is not installed. It is one free program, on Cloudflare's "
                "downloads page for Cloudflare Tunnel and in Homebrew: put it into a folder of your PATH and start again"
            )
        command = [program, "tunnel", "--no-autoupdate", "--url", url]
        if url.startswith("https:"):
            # The certificate names the public host, and the connection stays on this machine.
            command.append("--no-tls-verify")
        process = subprocess.Popen(  # noqa: S603
            command,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            # Ctrl+C goes to the server, which then ends the program.
            start_new_session=True,
        )
        tunnel = cls(process, on_public)
        tunnel._thread.start()
        return tunnel

    def __init__(self, process: subprocess.Popen[str], on_public: Callable[[str], None]) -> None:
        """For a program that was started, with its standard error piped; see `open`."""
        self._process = process
        self._on_public = on_public
        self._closed = False
        self._thread = threading.Thread(target=self._read, name="tunnel", daemon=True)

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
        is_public, last = False, ""
        with self._process.stderr as lines:
            for line in lines:
                last = line.strip() or last
                if not is_public and (found := _PUBLIC.search(line)):
                    is_public = True
                    self._on_public(found[0])
        if not self._closed:
            log.error("%s has ended, and with it the public address: %s", PROGRAM, last)
