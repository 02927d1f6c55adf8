"""Back-pressure for each client: who holds as many requests as one may gets 429 at once, the others go on.

A client is whoever sends the same key; without keys, whoever sends from the same address. The whole service's own limit
is the queue of each deployment, which answers 503.
"""

from __future__ import annotations

import hashlib
from collections import Counter

from starlette.types import ASGIApp, Receive, Scope, Send

from serve.errors import too_many
from serve.keys import OPEN_PATH


class ClientGuard:
    """ASGI middleware.

    Args:
        app: what it guards.
        most: requests that one client may have in flight.
    """

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self.app = app
        self.most = most
        self._held: Counter[bytes] = Counter()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request for as long as it is answered."""
        if scope["type"] != "http" or scope["path"] == OPEN_PATH:
            await self.app(scope, receive, send)
            return
        client = _client(scope)
        if self._held[client] >= self.most:
            await too_many(self.most).response()(scope, receive, send)
            return
        self._held[client] += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._held[client] -= 1
            if not self._held[client]:
                del self._held[client]


def _client(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name.lower() == b"authorization":
            return hashlib.sha256(value).digest()
    return str((scope.get("client") or ("",))[0]).encode()
