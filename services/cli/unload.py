"""`main.py models unload NAME`: have a running server free a model from memory."""

from __future__ import annotations

import requests

from services.errors import HearthError, InvalidRequest, NotAuthenticated, NotFound, NotPermitted, Unavailable

# Seconds that the server may take to free the model.
_PATIENCE = 60
_KINDS: dict[int, type[HearthError]] = {
    401: NotAuthenticated,
    403: NotPermitted,
    404: NotFound,
    429: Unavailable,
    503: Unavailable,
}


def unload(url: str, key: str, name: str) -> str:
    """Have the server at `url` free the model `name` (a profile or a file) from memory; return the file's name.

    Raises HearthError where the server refuses, or where none answers.
    """
    if not key:
        raise InvalidRequest("the server asks for a key: give it with --key, or as HEARTH_KEY in the environment")
    try:
        headers = {"Authorization": f"Bearer {key}".encode()}
        reply = requests.post(f"{url.rstrip('/')}/models/unload", json={"model": name}, headers=headers, timeout=_PATIENCE)
        body = reply.json()
        if reply.ok:
            return str(body["model"])
        words = str(body["message"])
    except requests.exceptions.JSONDecodeError:
        raise Unavailable(f"what answers at {url} is no Hearth") from None
    except (requests.exceptions.InvalidURL, requests.exceptions.InvalidSchema, requests.exceptions.MissingSchema):
        raise InvalidRequest(f"--url should be like http://127.0.0.1:5000, not {url!r}") from None
    except requests.RequestException as error:
        raise Unavailable(f"no server answers at {url} (--url): {_reason(error)}") from error
    except (KeyError, TypeError):
        raise Unavailable(f"what answers at {url} is no Hearth, or an older one") from None
    raise _KINDS.get(reply.status_code, InvalidRequest)(words)


def _reason(error: requests.RequestException) -> str:
    """Return the innermost reason, which is the system's."""
    inner: BaseException = error
    while inner.__context__:
        inner = inner.__context__
    return getattr(inner, "strerror", None) or str(inner)
