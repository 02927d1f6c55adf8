"""Guard of request bodies: size, content type, encoding and strict JSON, before any model sees them.

The size is checked while the body is read, so that an endless body costs one limit's worth of memory.
Python's JSON reader takes NaN and Infinity and fails on deep nesting; both are refused here.
"""

import json
from collections.abc import Mapping
from typing import Any

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serve.errors import ApiError

MAX_DEPTH = 32
_WITH_BODY = {"POST", "PUT", "PATCH"}


class BodyGuard:
    """ASGI middleware that lets only bounded, well-formed JSON bodies through.

    Args:
        app: what it guards.
        max_bytes: longest body.
        longer: path -> longest body there, where that is another.
    """

    def __init__(self, app: ASGIApp, *, max_bytes: int, longer: Mapping[str, int] | None = None) -> None:
        self.app = app
        self.max_bytes = max_bytes
        self.longer = dict(longer or {})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check the body of a request that may carry one, then pass it on."""
        if scope["type"] != "http" or scope["method"] not in _WITH_BODY:
            await self.app(scope, receive, send)
            return
        try:
            headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
            body = await self._read(headers, receive, self.longer.get(scope["path"], self.max_bytes))
            if body is None:
                return
            check_content_type(headers.get(b"content-type", ""))
            parse_json(body)
        except ApiError as error:
            await error.response()(scope, receive, send)
            return
        await self.app(scope, _replay(body, receive), send)

    async def _read(self, headers: dict[bytes, str], receive: Receive, limit: int) -> bytes | None:
        """The body; None if the client went away."""
        if int(headers.get(b"content-length", "0") or "0") > limit:
            raise _too_large(limit)
        chunks, size = [], 0
        while True:
            message = await receive()
            if message["type"] != "http.request":
                return None
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise _too_large(limit)
            chunks.append(chunk)
            if not message.get("more_body", False):
                return b"".join(chunks)


def _too_large(limit: int) -> ApiError:
    message = f"the body is larger than the limit of {limit} bytes (serve.max_body_bytes)"
    return ApiError(413, "body_too_large", message, headers={"Connection": "close"})


def check_content_type(value: str) -> None:
    """Require application/json in UTF-8.

    Raises:
        ApiError: 415.
    """
    kind, *parameters = (part.strip().lower() for part in value.split(";"))
    charset = next((p.removeprefix("charset=").strip('"') for p in parameters if p.startswith("charset=")), "utf-8")
    if kind != "application/json" or charset not in {"utf-8", "utf8"}:
        message = f"send application/json in UTF-8 (got content-type {value[:80]!r})"
        raise ApiError(415, "unsupported_media_type", message, field="content-type")


def parse_json(body: bytes) -> Any:
    """Parse strict JSON (RFC 8259: no NaN, no Infinity), at most MAX_DEPTH deep.

    Raises:
        ApiError: 400, saying where it breaks.
    """
    try:
        value = json.loads(body.decode("utf-8"), parse_constant=_refuse_constant)
    except UnicodeDecodeError as error:
        raise _bad(f"the body is not UTF-8 at byte {error.start}") from None
    except json.JSONDecodeError as error:
        raise _bad(f"the body is not JSON: {error.msg} at line {error.lineno}, column {error.colno}") from None
    except RecursionError:
        raise _bad(f"the body is nested deeper than {MAX_DEPTH} levels") from None
    except ValueError:  # Python refuses integers of more than 4300 digits
        raise _bad("the body holds a number with too many digits") from None
    level, depth = [value], 0
    while level := [child for node in level for child in _children(node)]:
        depth += 1
        if depth > MAX_DEPTH:
            raise _bad(f"the body is nested deeper than {MAX_DEPTH} levels")
    return value


def _children(node: Any) -> list[Any]:
    if isinstance(node, dict):
        return list(node.values())
    return node if isinstance(node, list) else []


def _refuse_constant(name: str) -> Any:
    raise _bad(f"{name} is not JSON")


def _bad(message: str) -> ApiError:
    return ApiError(400, "bad_json", message)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Hand out the body that was read, then whatever the client sends next (its disconnect)."""
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again
