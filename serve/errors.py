"""Every error of the endpoint in one JSON shape: ``{"error": {"code", "field", "message"}}``.

A reply never holds a stack trace, nor more than a short excerpt of what was sent.
"""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from starlette.exceptions import HTTPException

logger = logging.getLogger(__name__)

RETRY_AFTER_S = 1
"""What Retry-After says: a full queue empties within about a second, a dead replica returns in a few."""

_CODES = {404: "not_found", 405: "method_not_allowed", 415: "unsupported_media_type"}
_SHOWN_CHARS = 80


class ApiError(Exception):
    """An error reply in the making."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        *,
        field: str | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.field = status, code, message, field
        self.headers = dict(headers or {})

    def response(self) -> JSONResponse:
        """The reply."""
        return JSONResponse(self.detail(), status_code=self.status, headers=self.headers)

    def detail(self) -> dict[str, dict[str, str | None]]:
        """The reply's content."""
        return {"error": {"code": self.code, "field": self.field, "message": _encodable(self.message)}}


class ReplicaGoneError(ApiError):
    """The replica that held a request died; asking again does no harm where nothing is stored."""

    def __init__(self) -> None:
        message = "the replica that held this request went away; send it again"
        super().__init__(503, "unavailable", message, headers={"Retry-After": str(RETRY_AFTER_S)})


def overloaded() -> ApiError:
    """The queue is full; the client may come back."""
    return _retry(503, "overloaded", "too many requests are waiting; try again after the time in Retry-After")


def too_many(limit: int) -> ApiError:
    """One client holds as many requests as it may."""
    return _retry(429, "too_many_requests", f"{limit} requests of yours are being answered; wait for one of them")


def unavailable(message: str) -> ApiError:
    """No replica can answer now."""
    return _retry(503, "unavailable", message)


def not_ready() -> ApiError:
    """The model is not loaded and warm yet."""
    return _retry(503, "not_ready", "the model is still being loaded")


def timed_out(seconds: float) -> ApiError:
    """No answer within serve.request_timeout_s."""
    return ApiError(504, "timeout", f"no answer within {seconds:g} s; the work was cancelled")


def _retry(status: int, code: str, message: str) -> ApiError:
    return ApiError(status, code, message, headers={"Retry-After": str(RETRY_AFTER_S)})


def add_error_handlers(api: FastAPI) -> None:
    """Let every error of ``api`` leave in the one shape."""

    def on_api_error(_: Request, error: Any) -> JSONResponse:
        return error.response()

    def on_invalid(_: Request, error: Any) -> JSONResponse:
        field, message = explain(error.errors())
        return ApiError(422, "invalid_request", message, field=field).response()

    def on_http(_: Request, error: Any) -> JSONResponse:
        code = _CODES.get(error.status_code, "bad_request" if error.status_code < 500 else "internal")
        return ApiError(error.status_code, code, str(error.detail), headers=error.headers).response()

    def on_crash(request: Request, error: Exception) -> JSONResponse:
        logger.error("%s %s failed", request.method, request.url.path, exc_info=error)
        return ApiError(500, "internal", "an error of ours; the log has it under this X-Request-ID").response()

    api.add_exception_handler(ApiError, on_api_error)
    api.add_exception_handler(RequestValidationError, on_invalid)
    api.add_exception_handler(HTTPException, on_http)
    api.add_exception_handler(Exception, on_crash)


def explain(errors: Sequence[Mapping[str, Any]]) -> tuple[str | None, str]:
    """Field and message of the first of pydantic's errors."""
    first = errors[0]
    location = [str(part) for part in first["loc"]]
    if location.pop(0) == "body" and location and location[0] in {"user", "history"}:
        location.pop(0)  # which of the two kinds of request was meant
    field = ".".join(location) or None
    kind, given = first["type"], first.get("input")
    if kind == "extra_forbidden" and field == "user_id":
        return field, "user_id: send either user_id or history, not both"
    if kind == "missing" and field == "user_id":
        return field, "user_id: missing; send user_id (a known user) or history (item ids, oldest first)"
    message = "unknown field" if kind == "extra_forbidden" else first["msg"][:1].lower() + first["msg"][1:]
    shown = f" (got {_excerpt(given)})" if isinstance(given, str | int | float | bool) else ""
    return field, f"{field}: {message}{shown}" if field else f"{message}{shown}"


def _excerpt(value: Any) -> str:
    text = repr(value) if not isinstance(value, int) or abs(value) < 10**_SHOWN_CHARS else "a very large number"
    return text if len(text) <= _SHOWN_CHARS else f"{text[:_SHOWN_CHARS]}..."


def _encodable(text: str) -> str:
    return text.encode("utf-8", errors="backslashreplace").decode("utf-8")
