"""The undocumented parts of huggingface_hub 2.4.0, httpx2 2.16 and httpcore2 2.16 that fetching from a hub needs.

huggingface_hub documents `set_client_factory`, but not the event hook of its own client, nor the function that resumes a
download within a file (`hf_hub_download` writes to the library's cache). httpx2 has no option for httpcore2's network
backend, through which alone the address of each connection can be checked. A test compares all of it with the libraries.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import httpcore2
import httpx2
from huggingface_hub import constants, set_client_factory
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_request_event_hook
from huggingface_hub.utils.logging import set_verbosity_error
from huggingface_hub.utils.tqdm import disable_progress_bars

# Bytes of one piece of a download; a piece that is cut off is lost, and the library's own are of 10 MB.
PIECE = 2**17


def use_client(check: Callable[[httpx2.Request], None], backend: httpcore2.NetworkBackend, timeout: float) -> None:
    """Have huggingface_hub use a client that calls `check` before each request, and opens its connections by `backend`.

    `timeout` is in seconds, of each read. The client before it is closed, with its downloads.
    """

    def check_and_mark(request: httpx2.Request) -> None:
        check(request)
        hf_request_event_hook(request)

    def client() -> httpx2.Client:
        made = httpx2.Client(event_hooks={"request": [check_and_mark]}, follow_redirects=True, timeout=timeout)
        for transport in (made._transport, *made._mounts.values()):
            if isinstance(transport, httpx2.HTTPTransport):
                transport._pool._network_backend = backend
        return made

    set_client_factory(client)


def resume_download(url: str, path: Path, received: int, size: int) -> None:
    """Write the rest of a file of `size` bytes to `path`, which holds its first `received` bytes.

    Raises what huggingface_hub and httpx2 raise; OSError without a number where the file comes cut short.
    """
    disable_progress_bars()
    set_verbosity_error()  # type: ignore[no-untyped-call]
    constants.DOWNLOAD_CHUNK_SIZE = PIECE
    with path.open("r+b", buffering=0) as file:
        file.seek(received)
        http_get(url, file, resume_size=received, expected_size=size, headers=hub_headers())


def hub_headers() -> dict[str, str]:
    """The headers of a request to the hub: the library's user agent, and the person's token if there is one."""
    return build_hf_headers()
