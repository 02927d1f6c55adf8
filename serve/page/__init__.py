"""The page for people at /: static files beside this module, served before any key is asked for.

The files hold no data, so they need no key; everything that they show comes from /v1, which asks for one where
the service has keys. They are read once, at the start, and found by name in a table: no path of a request ever
reaches the file system. The content security policy allows nothing but these files and the service's own routes.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from starlette.datastructures import Headers
from starlette.responses import Response
from starlette.types import ASGIApp, Receive, Scope, Send

PREFIX = "/page/"
POLICY = "; ".join(
    (
        "default-src 'none'",
        "script-src 'self'",
        "style-src 'self'",
        "img-src 'self' blob:",  # made pictures are fetched with the key, hence shown as blobs
        "media-src blob:",
        "connect-src 'self'",
        "form-action 'none'",
        "base-uri 'none'",
        "frame-ancestors 'none'",
    )
)
_TYPES = {
    ".html": "text/html; charset=utf-8",
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}


@dataclass(frozen=True)
class _File:
    content: bytes
    kind: str
    tag: str


class PageFiles:
    """ASGI middleware that answers ``GET /`` and ``GET /page/NAME``; all else goes on to the service.

    Add it last, so that it stands first, before the guard that asks for keys.

    Args:
        app: the service.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self._files = {PREFIX + path.name: _read(path) for path in _paths()}
        self._files["/"] = self._files.pop(PREFIX + "index.html")

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer with a file, or pass on."""
        reading = scope["type"] == "http" and scope["method"] in {"GET", "HEAD"}
        file = self._files.get(scope["path"]) if reading else None
        if file is None:
            await self.app(scope, receive, send)
        else:
            await _reply(file, Headers(scope=scope))(scope, receive, send)


def _paths() -> list[Path]:
    return sorted(path for path in Path(__file__).parent.iterdir() if path.suffix in _TYPES)


def _read(path: Path) -> _File:
    content = path.read_bytes()
    return _File(content, _TYPES[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _reply(file: _File, headers: Headers) -> Response:
    told = {
        "ETag": file.tag,
        "Cache-Control": "no-cache",  # ask each time, and get 304: the files belong to the running version
        "Content-Security-Policy": POLICY,
        "X-Content-Type-Options": "nosniff",
        "Referrer-Policy": "no-referrer",
        "Cross-Origin-Opener-Policy": "same-origin",
    }
    if headers.get("if-none-match") == file.tag:
        return Response(status_code=304, headers=told)
    return Response(file.content, headers=told, media_type=file.kind)
