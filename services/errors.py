"""The tree of this project's own errors. It knows no HTTP: `services/api/http/errors.py` gives the statuses.

HearthError
├── InvalidRequest          the request asks for something impossible
│   ├── PromptTooLong       the prompt does not fit the context, even alone
│   ├── TooLarge            what was sent is larger than a limit
│   ├── UnsupportedType     a file of a kind that cannot be read here
│   └── Unprocessable       a well-formed request that cannot be carried out, as where a name is taken
├── NotAuthenticated        no key, or a wrong one
├── NotPermitted            a good key that may not do this
├── Forbidden               a rule of the server's owner refuses the request
├── NotFound                no such session, model, profile or key
├── BadModelFile            a file that is no whole GGUF, or that llama.cpp refuses
│   └── TemplateTooSlow     a chat template that takes too long over a conversation
├── PullFailed              a model could not be fetched: the hub or the network is at fault
├── Unavailable             not now: no model, too many waiting, stopping
│   └── RateLimitExceeded   the key has reached one of its limits
├── ClientDisconnected      the client disconnected, so that nobody waits for the answer
├── EngineFailure           the engine failed while it worked on this request
├── DamagedFile             a file of ours whose content is not in its format
└── StorageFailed           a file of ours could not be written
"""

from __future__ import annotations

from pathlib import Path


class HearthError(Exception):
    """An error with a message for people.

    `param` names the field or header at fault, `code` is a short constant for programs. A message that names commands,
    settings or files of the server is for whoever runs it: `public` is the one for everybody else.
    """

    code = "error"
    public: str | None = None

    def __init__(
        self, message: str, *, param: str | None = None, code: str | None = None, public: str | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.param = param
        self.code = code or self.code
        self.public = public or self.public

    def message_for(self, is_master: bool) -> str:
        """Return the message for the master key, or for any other sender of a request."""
        return self.message if is_master or self.public is None else self.public


class InvalidRequest(HearthError):
    """The request asks for something impossible."""

    code = "invalid_request"


class PromptTooLong(InvalidRequest):
    """The prompt alone, in the profile's template, is larger than the context.

    `prompt_tokens` and `n_ctx` are counts of tokens. `at_least`: counting stopped there, and there may be more.
    """

    # By this code, and by the words of the message, agents know that they have to shorten the conversation.
    code = "context_length_exceeded"

    def __init__(self, prompt_tokens: int, n_ctx: int, at_least: bool = False) -> None:
        least = "at least " if at_least else ""
        super().__init__(
            f"the prompt is too long: this model's maximum context length is {n_ctx} tokens (n_ctx), the answer included, "
            f"and the prompt has {least}{prompt_tokens} tokens: it exceeds the available context size",
            param="prompt",
        )
        self.prompt_tokens = prompt_tokens
        self.n_ctx = n_ctx


def input_too_long(n_tokens: int, n_ctx: int, at_least: bool = False, param: str = "input") -> InvalidRequest:
    """Return the error for a text of more tokens than a model for embeddings takes; `at_least`: there may be more."""
    least = "at least " if at_least else ""
    what = (
        f"{param}: the input is too long: this model's maximum context length is {n_ctx} tokens, and the input has {least}"
        f"{n_tokens}: it exceeds the available context size"
    )
    return InvalidRequest(what, param=param, code="context_length_exceeded")


class TooLarge(InvalidRequest):
    """What was sent is larger than a limit."""

    code = "too_large"


class UnsupportedType(InvalidRequest):
    """A file of a kind that cannot be read here."""

    code = "unsupported_file_type"


class Unprocessable(InvalidRequest):
    """A well-formed request that cannot be carried out, as where a name is taken."""

    code = "unprocessable"


class NotAuthenticated(HearthError):
    """No key, or a wrong one."""

    code = "not_authenticated"


class NotPermitted(HearthError):
    """A good key that may not do this."""

    code = "not_permitted"


class Forbidden(HearthError):
    """A rule of the server's owner refuses the request, with a status of its own."""

    code = "refused"
    status = 403

    def __init__(self, message: str, status: int, *, param: str | None = None, code: str | None = None) -> None:
        super().__init__(message, param=param, code=code)
        self.status = status


class NotFound(HearthError):
    """No such session, model, profile or key."""

    code = "not_found"


class BadModelFile(HearthError):
    """A file that is no whole GGUF, or that llama.cpp refuses."""

    code = "bad_model_file"


class TemplateTooSlow(BadModelFile):
    """A chat template takes too long over a conversation: fewer messages may do."""

    code = "bad_template"


class PullFailed(HearthError):
    """A model could not be fetched: the hub or the network is at fault."""

    code = "pull_failed"


class Unavailable(HearthError):
    """The server cannot do it now. Retry after `retry_after` seconds; None: only once something is changed."""

    code = "unavailable"

    def __init__(
        self,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        retry_after: int | None = None,
        public: str | None = None,
    ) -> None:
        super().__init__(message, param=param, code=code, public=public)
        self.retry_after = retry_after


class RateLimitExceeded(Unavailable):
    """The key has reached one of its limits; `param` names it."""

    code = "rate_limit_exceeded"


class ClientDisconnected(HearthError):
    """The client disconnected, so that nobody waits for the answer."""

    code = "client_gone"


class EngineFailure(HearthError):
    """The engine failed while it worked on this request. A retry is safe: nothing was stored."""

    code = "engine_failure"


class DamagedFile(HearthError):
    """A file of ours whose content is not in its format."""

    code = "damaged_file"
    public = "a file of the server is damaged. Ask whoever runs it"

    def __init__(self, path: Path, reason: str, *, line: int | None = None, column: int | None = None) -> None:
        where = f", line {line}" if line else ""
        where += f", column {column}" if line and column else ""
        super().__init__(f"{path.parent.name}/{path.name}{where}: {reason}")
        self.path = path
        self.line = line


class StorageFailed(HearthError):
    """A file of ours could not be written; its content is as before."""

    code = "storage_failed"
    public = "the server could not store that. Ask whoever runs it"
