"""A small typed client of a Hearth server. It only needs requests, so the file can be copied into any project.

client = Client("http://127.0.0.1:5000", "KEY")
print(client.answer("What can you do?", session_id=1).result)
for chunk in client.stream("Count to 9.", session_id=1):
    print(chunk, end="", flush=True)
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass, fields
from typing import Any

import requests


class ServerError(Exception):
    """An error reply. `status` is the HTTP status, `code` and `param` are the server's; None if it gave none."""

    def __init__(self, status: int, body: dict[str, Any]) -> None:
        super().__init__(body.get("message") or f"HTTP status {status}")
        error = body.get("error") or {}
        self.status = status
        self.code: str | None = error.get("code")
        self.param: str | None = error.get("param")


@dataclass(frozen=True)
class Answer:
    """A whole answer. `usage` counts tokens, `timings` are milliseconds, the messages are those of the session.

    `reasoning` holds the thoughts of a model that thinks before it answers.
    """

    result: str
    session_id: int | None
    model: str
    profile: str
    finish_reason: str
    usage: dict[str, int]
    timings: dict[str, float]
    messages_in_prompt: int = 0
    messages_left_out: int = 0
    reasoning: str = ""

    @classmethod
    def read(cls, body: dict[str, Any]) -> Answer:
        """Return the answer in a reply's body; unknown fields of a later server are ignored."""
        return cls(**{field.name: body[field.name] for field in fields(cls) if field.name in body})


class Client:
    """A server and a key. Every method raises ServerError if the request fails."""

    def __init__(self, url: str, key: str, timeout: float = 600) -> None:
        """`timeout` is the longest silence of the server, in seconds."""
        self._url = url.rstrip("/")
        self._timeout = timeout
        self._http = requests.Session()
        self._http.headers["Authorization"] = f"Bearer {key}"

    def answer(self, prompt: str, session_id: int | None = None, **parameters: Any) -> Answer:
        """Send a prompt and return the whole answer. `parameters`: memory_k, temperature, max_tokens, top_p, top_k, … ."""
        return Answer.read(self._call("POST", "/answer", _question(prompt, session_id, parameters)))

    def stream(
        self,
        prompt: str,
        session_id: int | None = None,
        on_reasoning: Callable[[str], object] = lambda _: None,
        **parameters: Any,
    ) -> Generator[str, None, Answer]:
        """Send a prompt and yield the answer's chunks; the generator's return value is the whole Answer.

        `on_reasoning` is called with each piece of the model's thoughts.
        """
        body = {**_question(prompt, session_id, parameters), "stream": True}
        with self._http.post(f"{self._url}/answer", json=body, timeout=self._timeout, stream=True) as reply:
            if not reply.ok:
                raise ServerError(reply.status_code, _json(reply))
            whole: Answer | None = None
            for event in _events(reply):
                if "chunk" in event:
                    yield event["chunk"]
                elif "error" in event:
                    raise ServerError(reply.status_code, event)
                elif "result" in event:
                    whole = Answer.read(event)
                else:
                    on_reasoning(event.get("reasoning", ""))
        if whole is None:
            raise ServerError(reply.status_code, {"message": "the stream ended before the answer did"})
        return whole

    def sessions(self) -> dict[str, str]:
        """Return the sessions of this key: number → name."""
        return dict(self._call("GET", "/answer"))

    def session(self, session_id: int) -> dict[str, Any]:
        """Return one conversation in full."""
        return self._call("GET", f"/answer/{session_id}")

    def forget(self, session_id: int) -> None:
        """Delete a conversation."""
        self._call("DELETE", f"/answer/{session_id}")

    def models(self) -> dict[str, Any]:
        """Return the model files with their details, and the profiles."""
        return self._call("GET", "/models")

    def switch_model(self, model: str, profile: str | None = None) -> str:
        """Set the profile's model and select it; None selects a profile of that model. Return the profile's name."""
        body = {"model": model} if profile is None else {"model": model, "model_config": profile}
        return str(self._call("POST", "/models/model", body)["profile"])

    def unload_model(self, model: str) -> None:
        """Free a model's memory; the next request for it loads it again."""
        self._call("POST", "/models/unload", {"model": model})

    def is_key_good(self) -> bool:
        """Return whether the server accepts this key."""
        try:
            return bool(self._call("GET", "/auth")["auth"])
        except ServerError as error:
            if error.status == 401:
                return False
            raise

    def mint_key(self, name: str | None = None, **terms: Any) -> tuple[str, str]:
        """Mint a key; return it and its id. `terms` are expires, scopes, profiles and limits."""
        minted = self._call("POST", "/auth/key", {"name": name, **terms})
        return minted["key"], minted["id"]

    def change_key(self, key_id: str, **terms: Any) -> dict[str, Any]:
        """Change a key's terms; None removes one. Return its new terms."""
        return self._call("PATCH", f"/auth/key/{key_id}", terms)

    def rotate_key(self, key_id: str, grace: str = "1d") -> str:
        """Replace a key's secret and return the new one; the old one works for the `grace` period."""
        return str(self._call("POST", f"/auth/key/{key_id}/rotate", {"grace": grace})["key"])

    def usage(self) -> list[dict[str, Any]]:
        """Return the usage by key and day: your own, or with the master key everybody's."""
        return list(self._call("GET", "/auth/usage")["usage"])

    def keys(self) -> list[dict[str, Any]]:
        """Return the keys that you may manage, with their terms."""
        return list(self._call("GET", "/auth/key")["keys"])

    def revoke_key(self, key_id: str) -> None:
        """Revoke a key."""
        self._call("DELETE", f"/auth/key/{key_id}")

    def health(self) -> str:
        """Return ready, loading or down."""
        return str(self._call("GET", "/health")["status"])

    def _call(self, method: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        reply = self._http.request(method, self._url + path, json=body, timeout=self._timeout)
        if not reply.ok:
            raise ServerError(reply.status_code, _json(reply))
        return _json(reply)


def _question(prompt: str, session_id: int | None, parameters: dict[str, Any]) -> dict[str, Any]:
    return {"prompt": prompt, "session_id": session_id, **parameters}


def _json(reply: requests.Response) -> dict[str, Any]:
    """Return the body, or an empty object if something other than the server answered."""
    try:
        body = reply.json()
    except requests.JSONDecodeError:
        return {}
    return body if isinstance(body, dict) else {}


def _events(reply: requests.Response) -> Iterator[dict[str, Any]]:
    """Yield the JSON objects of a stream of server-sent events, up to its [DONE]."""
    for line in reply.iter_lines(chunk_size=1):
        data = line.decode("utf-8")
        if data == "data: [DONE]":
            return
        if data.startswith("data: "):
            yield json.loads(data.removeprefix("data: "))
