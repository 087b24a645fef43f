"""How the hub is reached: at the hosts that the owner allows, and never at an address of the own network.

Whoever answers for a hub could otherwise redirect a download to what only this machine can reach (SSRF). The address that
is checked is the one that is connected to, so that a name cannot lead elsewhere in between.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import threading
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatch
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpcore2
import httpx2
from huggingface_hub import HfApi, constants, errors, get_hf_file_metadata, hf_hub_url, set_client_factory
from huggingface_hub.file_download import http_get
from huggingface_hub.utils._headers import build_hf_headers
from huggingface_hub.utils._http import hf_request_event_hook
from huggingface_hub.utils.logging import set_verbosity_error
from huggingface_hub.utils.tqdm import disable_progress_bars

from services.errors import NotFound, PullFailed
from services.models.best_file import best_file
from services.models.local_caches import paths_of_parts
from services.models.remote import RemoteFile
from services.models.sources import HubFile

# Seconds without a byte after which a hub is given up.
_PATIENCE = 60.0
_lock = threading.Lock()
_reached: tuple[str, ...] | None = None
"""The hosts that the library's client reaches now."""


def reach_only(hosts: Sequence[str]) -> None:
    """Have the hub's library ask these hosts only ("*.NAME" are all below), and the one that HF_ENDPOINT names."""
    global _reached
    with _lock:
        if _reached == tuple(hosts):
            # Another client would end the downloads of this one.
            return
        _reached = tuple(hosts)
    endpoint = urlsplit(constants.ENDPOINT).hostname or ""
    own = {endpoint} if "HF_ENDPOINT" in os.environ else set()
    proxies = {urlsplit(url if "//" in url else f"//{url}").hostname or "" for url in urllib.request.getproxies().values()}

    def check(request: httpx2.Request) -> None:
        host = request.url.host
        if host not in own and not any(fnmatch(host, pattern) for pattern in hosts):
            what = f"the hub leads to {host}, and models are fetched from {', '.join(hosts)} only (--pull-hosts)"
            raise PullFailed(what, param="source", code="host_not_allowed")
        hf_request_event_hook(request)

    def client() -> httpx2.Client:
        made = httpx2.Client(event_hooks={"request": [check]}, follow_redirects=True, timeout=_PATIENCE)
        for transport in (made._transport, *made._mounts.values()):
            if isinstance(transport, httpx2.HTTPTransport):
                transport._pool._network_backend = _PublicOnly(own | proxies)
        return made

    set_client_factory(client)


def find_on_hub(source: HubFile) -> dict[str, RemoteFile]:
    """The files of the model that a source names, by their paths in the repository. Raises NotFound, PullFailed."""
    with explained(source):
        file = source.file
        if not file:
            files = HfApi().list_repo_files(source.repo, revision=source.revision)
            file = best_file(source.repo, files, source.quantization)
    return {path: _file(HubFile(source.repo, path, source.revision)) for path in paths_of_parts(file)}


def _file(source: HubFile) -> RemoteFile:
    with explained(source):
        url = hf_hub_url(source.repo, source.file, revision=source.revision)
        found = get_hf_file_metadata(url)
    if found.size is None or not found.etag:
        raise PullFailed(f"the hub does not say how large {source} is", param="source")
    return RemoteFile(source.file, found.size, found.etag, _downloader(url, found.size, source))


def _downloader(url: str, size: int, source: HubFile) -> Callable[[Path, int], None]:
    def fetch(part: Path, received: int) -> None:
        with explained(source):
            disable_progress_bars()
            set_verbosity_error()  # type: ignore[no-untyped-call]
            # What is read of a piece is lost where the connection is cut; the library's pieces are of 10 MB.
            constants.DOWNLOAD_CHUNK_SIZE = 2**17
            with part.open("r+b", buffering=0) as file:
                file.seek(received)
                http_get(url, file, resume_size=received, expected_size=size, headers=build_hf_headers())

    return fetch


class _PublicOnly(httpcore2.SyncBackend):
    """Connects to public addresses, and to hosts that the owner has named as the hub or a proxy."""

    def __init__(self, trusted: set[str]) -> None:
        self._trusted = trusted

    def connect_tcp(self, host: str, port: int, *arguments: Any, **named: Any) -> httpcore2.NetworkStream:
        if host in self._trusted:
            return super().connect_tcp(host, port, *arguments, **named)
        try:
            found = {entry[4][0] for entry in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)}
        except OSError as error:
            raise httpcore2.ConnectError(f"{host} is not known: {error.strerror}") from error
        for address in sorted(map(str, found)):
            if not _is_public(address):
                what = f"{host} leads to {address}, which is no public address"
                raise PullFailed(what, param="source", code="private_address")
        failed: Exception | None = None
        for address in sorted(map(str, found)):
            try:
                return super().connect_tcp(address, port, *arguments, **named)
            except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                failed = error
        raise failed or httpcore2.ConnectError(f"{host} has no address")


def _is_public(text: str) -> bool:
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = getattr(address, "ipv4_mapped", None) or getattr(address, "sixtofour", None)
    return address.is_global and not address.is_multicast and (mapped is None or mapped.is_global)


@contextmanager
def explained(source: HubFile) -> Iterator[None]:
    """Raise what goes wrong with the hub as one of our errors."""
    try:
        yield
    except errors.GatedRepoError:
        what = f"{source.repo} asks for its owner's permission: ask there, and set HF_TOKEN to your token"
        raise PullFailed(what, param="source", code="no_permission") from None
    except errors.RepositoryNotFoundError:
        what = f"the hub has no repository {source.repo}, or HF_TOKEN may not see it"
        raise NotFound(what, param="source", code="repository_not_found") from None
    except errors.RevisionNotFoundError:
        what = f"{source.repo} has no revision {source.revision}"
        raise NotFound(what, param="source", code="revision_not_found") from None
    except errors.EntryNotFoundError:
        raise NotFound(f"{source.repo} has no file {source.file}", param="source", code="file_not_found") from None
    except httpx2.ConnectError as error:
        raise PullFailed(f"{source} could not be fetched: the hub cannot be reached ({error})", param="source") from error
    except (errors.HfHubHTTPError, httpx2.HTTPError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise PullFailed(f"{source} could not be fetched: {reason}", param="source") from error
    except OSError as error:
        if error.errno is not None:
            raise
        # The library's own check of the size.
        raise PullFailed(f"{source} came cut short", param="source") from error
