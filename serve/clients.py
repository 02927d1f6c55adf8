"""Back-pressure: who holds as many requests as one may gets 429 at once, and beyond the room for lists everyone 503.

A client is whoever sends the same key; without keys, whoever sends from the same address. The queue of each deployment
is the last word on how much may wait; :class:`RoomGuard` says the same at the door, before a body is read, checked and
its user looked up: under ten times the load, what is refused must cost next to nothing.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Callable

from starlette.types import ASGIApp, Receive, Scope, Send

from genrec.config import PartSettings, ServeSettings
from serve.errors import overloaded, too_many
from serve.keys import OPEN_PATH

LISTS = frozenset({"/v1/recommendations", "/v1/explanations"})
"""What the recommender answers with its model, and must refuse when too much waits."""


def room_of(part: PartSettings | ServeSettings, replicas: int | None = None) -> int:
    """Requests that a deployment has room for (``serve`` itself: lists): what replicas answer and what may wait.

    Args:
        part: its settings.
        replicas: those that are ready; None: all that there may be. The fewest always count: one that
            died is soon back.
    """
    ready = (part.max_replicas or part.replicas) if replicas is None else max(part.replicas, replicas)
    return ready * part.max_ongoing_requests + part.max_queued_requests


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


class RoomGuard:
    """ASGI middleware.

    Args:
        app: what it guards.
        room: requests for lists that may be in flight at this moment.
        paths: that share the room.
    """

    def __init__(self, app: ASGIApp, *, room: Callable[[], int], paths: frozenset[str]) -> None:
        self.app = app
        self.room, self.paths = room, paths
        self._held = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Count the request for as long as it is answered."""
        if scope["type"] != "http" or scope["path"] not in self.paths:
            await self.app(scope, receive, send)
            return
        if self._held >= self.room():
            await overloaded().response()(scope, receive, send)
            return
        self._held += 1
        try:
            await self.app(scope, receive, send)
        finally:
            self._held -= 1


def _client(scope: Scope) -> bytes:
    for name, value in scope["headers"]:
        if name.lower() == b"authorization":
            return hashlib.sha256(value).digest()
    return str((scope.get("client") or ("",))[0]).encode()
