"""What a client raises, by the kind of what went wrong: one class for each thing that a caller may do about it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import httpx

from genrec.errors import GenrecError

REQUEST_ID = "X-Request-ID"
PROXY_FAULT = "http_500"
"""Code of a 500 without a body of ours: the proxy's word for a replica that died with the request."""


class ClientError(GenrecError):
    """The service gave no answer to the request.

    Attributes:
        status: of HTTP; None where no reply came.
        code: the service's word for it.
        field: of the request, where one was at fault.
        request_id: under which the service's log has it.
        retry_after_s: when to come back, where the service says so.
    """

    def __init__(
        self,
        message: str,
        *,
        status: int | None = None,
        code: str = "unreachable",
        field: str | None = None,
        request_id: str | None = None,
        retry_after_s: float | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.field = status, code, field
        self.request_id, self.retry_after_s = request_id, retry_after_s


class UnreachableError(ClientError):
    """Nothing answered, or the connection broke."""


class UnauthorizedError(ClientError):
    """401: no key, or one that the service does not know."""


class NotFoundError(ClientError):
    """404: no such user, item, asset or catalog, or the service has no such route."""


class RefusedError(ClientError):
    """4xx: the request must be mended; ``field`` says where."""


class BusyError(ClientError):
    """429 or 503: no room now, or not ready yet."""


class TimedOutError(ClientError):
    """504, or no reply within the client's own time."""


class BrokenError(ClientError):
    """5xx: a fault of the service."""


_KINDS: Mapping[int, type[ClientError]] = {
    401: UnauthorizedError,
    404: NotFoundError,
    429: BusyError,
    503: BusyError,
    504: TimedOutError,
}


def error_of(status: int, message: str, **more: Any) -> ClientError:
    """An error of the kind that belongs to a status of HTTP."""
    kind = _KINDS.get(status, BrokenError if status >= 500 else RefusedError)
    return kind(f"{status}: {message}", status=status, **more)


def broken(error: httpx.TransportError) -> ClientError:
    """The error that a failed exchange stands for."""
    if isinstance(error, httpx.TimeoutException):
        return TimedOutError(f"no reply in time: {error!r}", code="timeout")
    return UnreachableError(f"the service cannot be reached: {error!r}")


def fault(reply: httpx.Response) -> ClientError:
    """The error that a reply stands for; reads and closes it."""
    try:
        reply.read()
        detail = reply.json()["error"]
        code, message, field = str(detail["code"]), str(detail["message"]), detail.get("field")
    except (ValueError, KeyError, TypeError):  # not one of the service's own replies: a gateway's, perhaps
        code, message, field = f"http_{reply.status_code}", reply.reason_phrase or "no reason given", None
    finally:
        reply.close()
    wait = reply.headers.get("retry-after", "")
    return error_of(
        reply.status_code,
        message,
        code=code,
        field=field,
        request_id=reply.headers.get(REQUEST_ID),
        retry_after_s=float(wait) if wait.isdecimal() else None,
    )
