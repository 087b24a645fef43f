"""GET /: the chat page, and what it loads: from files of our own, so that it works without a network."""

from __future__ import annotations

from flask import Flask, Response

from services.api.http.static import FOLDER, StaticFiles

_SHELL = "chat/index.html"
_LIBRARIES = ("dompurify/*.js", "highlight/*.js", "highlight/languages/*.js", "marked/*.js")
_OWN = ("chat/*.js", "chat/*.css", "chat/*.svg")
# Nothing comes from elsewhere, nothing inline runs, and only the sanitizer may make markup of text.
_POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self'",
        "connect-src 'self'",
        "base-uri 'none'",
        "form-action 'none'",
        "frame-ancestors 'none'",
        "require-trusted-types-for 'script'",
        "trusted-types dompurify",
    )
)


def add_page(app: Flask) -> None:
    """Give `app` the page and its files; neither needs a key, since the page is what asks for one."""
    found = (path for pattern in (*_OWN, *_LIBRARIES) for path in FOLDER.glob(pattern))
    names = {path.relative_to(FOLDER).as_posix() for path in found}
    shell, files = StaticFiles([_SHELL]), StaticFiles(names)

    def page() -> Response:
        response = shell.response(_SHELL)
        response.headers["Content-Security-Policy"] = _POLICY
        # To look up a link's host before anybody follows it would tell that a model wrote it.
        response.headers["X-DNS-Prefetch-Control"] = "off"
        return response

    app.add_url_rule("/", "page", page)
    app.add_url_rule("/page/<path:name>", "page_file", files.response)
