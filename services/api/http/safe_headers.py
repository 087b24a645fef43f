"""The security headers of every reply."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from flask import Flask

_ALWAYS = [
    ("X-Content-Type-Options", "nosniff"),
    ("X-Frame-Options", "DENY"),
    ("Referrer-Policy", "no-referrer"),
    ("Cross-Origin-Opener-Policy", "same-origin"),
    ("Permissions-Policy", "camera=(), geolocation=(), microphone=()"),
]
_TLS = ("Strict-Transport-Security", "max-age=31536000")
_UNLESS_SET = {
    # The pages have policies of their own; no other reply is shown as one.
    "content-security-policy": ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
    # An answer is the caller's alone.
    "cache-control": ("Cache-Control", "no-store"),
}


def add_safe_headers(app: Flask, is_tls: bool = False) -> None:
    """Give every reply of `app` the headers that keep browsers from misusing it.

    They are added below Flask, which checks and copies each header that it is given.
    """
    inner, always = app.wsgi_app, [*_ALWAYS, *([_TLS] if is_tls else [])]

    def wsgi_app(environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        def start(status: str, headers: list[tuple[str, str]], *exc_info: Any) -> Any:
            given = {name.lower() for name, _ in headers}
            missing = [header for name, header in _UNLESS_SET.items() if name not in given]
            return start_response(status, [*headers, *always, *missing], *exc_info)

        return inner(environ, start)

    app.wsgi_app = wsgi_app  # type: ignore[method-assign]
