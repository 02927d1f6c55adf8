"""API keys: where they come from, and the guard that lets no request pass without one.

Settings name only where keys are (``env:NAME``, ``file:PATH``), for settings are written into every run. What
goes to the replicas are the keys' SHA-256 digests; keys are long enough that a digest gives nothing away.
"""

import hashlib
import hmac
import os
from collections.abc import Sequence
from pathlib import Path

from starlette.types import ASGIApp, Receive, Scope, Send

from genrec.errors import GenrecError
from serve.errors import ApiError

OPEN_PATH = "/v1/health"
MIN_KEY_LENGTH = 16
_SCHEME = b"bearer "


class ApiKeysError(GenrecError):
    """No usable key is where the settings say."""


def load_digests(references: Sequence[str]) -> tuple[bytes, ...]:
    """Digests of the keys that ``serve.api_keys`` refers to; a variable or file holds one key a line.

    Raises:
        ApiKeysError: a variable or file is absent or holds no key, or a key is too short or not ASCII.
    """
    return tuple(_digest(key) for reference in references for key in _keys(reference))


def _keys(reference: str) -> list[bytes]:
    """The keys behind one reference. No message may hold a key."""
    kind, _, name = reference.partition(":")
    try:
        text = os.environ[name] if kind == "env" else Path(name).read_text(encoding="utf-8")
    except KeyError:
        raise ApiKeysError(f"serve.api_keys: {reference}: no such environment variable") from None
    except OSError as error:
        raise ApiKeysError(f"serve.api_keys: {reference}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise ApiKeysError(f"serve.api_keys: {reference}: it is not a text file") from None
    keys = text.split()
    if not keys:
        raise ApiKeysError(f"serve.api_keys: {reference}: it holds no key; put one on each line")
    for place, key in enumerate(keys, 1):
        if len(key) < MIN_KEY_LENGTH or not key.isascii():
            raise ApiKeysError(
                f"serve.api_keys: {reference}: key {place} must be of at least {MIN_KEY_LENGTH} ASCII characters; "
                "`openssl rand -hex 32` makes a good one"
            )
    return [key.encode() for key in keys]


def _digest(key: bytes) -> bytes:
    return hashlib.sha256(key).digest()


class KeyGuard:
    """ASGI middleware: 401 for every path but :data:`OPEN_PATH` without ``Authorization: Bearer KEY``.

    It stands before everything else, so that also an unknown path, the docs and a body of any kind are refused
    before they are looked at.

    Args:
        app: what it guards.
        digests: of the keys that open it.
    """

    def __init__(self, app: ASGIApp, *, digests: Sequence[bytes]) -> None:
        self.app = app
        self._digests = tuple(digests)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass on what has a key."""
        if scope["type"] == "lifespan" or scope["path"] == OPEN_PATH or self._known(scope):
            await self.app(scope, receive, send)
        else:
            await _unauthorized().response()(scope, receive, send)

    def _known(self, scope: Scope) -> bool:
        given = [value for name, value in scope["headers"] if name.lower() == b"authorization"]
        if len(given) != 1 or not given[0].lower().startswith(_SCHEME):
            return False
        digest = _digest(given[0][len(_SCHEME) :].strip())
        # Every key is compared, each in constant time: how long it takes tells nothing of how near the guess was.
        return any([hmac.compare_digest(digest, known) for known in self._digests])


def _unauthorized() -> ApiError:
    message = "send a key of this service: 'Authorization: Bearer KEY'"
    return ApiError(401, "unauthorized", message, field="authorization", headers={"WWW-Authenticate": "Bearer"})
