"""The routes of /v1 as a FastAPI app around a :class:`serve.backend.Backend`.

(No ``from __future__ import annotations`` here: FastAPI reads these annotations at run time.)
"""

import re
import time
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, FastAPI, Path, Request
from fastapi.responses import HTMLResponse, RedirectResponse

from genrec import __version__
from genrec.config import ServeSettings
from genrec.recommender import RecommendRequest
from serve.backend import Backend
from serve.body import BodyGuard
from serve.docs_page import docs_page
from serve.errors import ApiError, add_error_handlers, not_ready
from serve.feedback_log import DETERMINISTIC, ShownItem, ShownList, ShownLog
from serve.models import MAX_ID_LENGTH, ErrorReply, Health, Item, ModelCard, Shown, request_type
from serve.recommender import Refusal

HEALTH_TIMEOUT_S = 2.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

_RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request is malformed"},
    404: {"description": "unknown user or item"},
    413: {"description": "the body is larger than serve.max_body_bytes"},
    415: {"description": "the body is not JSON in UTF-8"},
    422: {"description": "a field is missing, unknown or out of range"},
    503: {"description": "overloaded, or not ready yet", "headers": _RETRY},
    504: {"description": "no answer in time"},
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, **_ERRORS[status]} for status in statuses}


def create_api(limits: ServeSettings, backend: Backend, log: ShownLog) -> FastAPI:
    """The endpoint.

    Args:
        limits: settings.serve.
        backend: the recommender.
        log: where lists are logged before they are sent.
    """
    api = FastAPI(
        title="genrec",
        version=__version__,
        summary="Generative recommendation over semantic IDs",
        docs_url=None,
        redoc_url=None,
    )
    api.add_middleware(BodyGuard, max_bytes=limits.max_body_bytes)
    add_error_handlers(api)
    body_type = request_type(limits)

    @api.post("/v1/recommendations", responses=_errors(400, 404, 413, 415, 422, 503, 504))
    async def recommendations(body: Annotated[body_type, Body()], http: Request) -> Shown:  # type: ignore[valid-type]
        """Recommend items to a known user, or for a history that is sent along."""
        request: RecommendRequest = body.to_request()  # type: ignore[attr-defined]
        answer = _granted(await backend.recommend(request))
        shown = Shown(
            request_id=_request_id(http),
            bundle_version=answer.version,
            sid_version=answer.sid_version,
            items=answer.items,
        )
        log.append(_logged(request, shown))
        return shown

    @api.get("/v1/items/{item_id}", responses=_errors(404, 422, 503, 504))
    async def item(item_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]) -> Item:
        """Look an item up by its raw id."""
        return Item(**_granted(await backend.item(item_id)))

    @api.get("/v1/model", responses=_errors(503, 504))
    async def model() -> ModelCard:
        """The model card of the loaded bundle."""
        return ModelCard(**await backend.card())

    @api.get("/v1/health", responses=_errors(503))
    async def health() -> Health:
        """Ready only when a replica has loaded and warmed the model."""
        return await _health(backend, api.state)

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return docs_page(api.openapi())

    @api.get("/", include_in_schema=False)
    async def root() -> RedirectResponse:
        return RedirectResponse("/docs")

    return api


async def _health(backend: Backend, state: Any) -> Health:
    """Ask a replica for its versions; one that is too busy to be asked was warm when it last answered."""
    status = "ready"
    try:
        state.versions = await backend.versions(HEALTH_TIMEOUT_S)
    except ApiError as error:
        if error.code != "overloaded" or not hasattr(state, "versions"):
            raise not_ready() from None
        status = "busy"
    version, sid_version = state.versions
    return Health(status=status, bundle_version=version, sid_version=sid_version)


def _granted(answer: Any) -> Any:
    if isinstance(answer, Refusal):
        raise ApiError(answer.status, answer.code, answer.message, field=answer.field)
    return answer


def _request_id(http: Request) -> str:
    """The id that Serve gave the request (it is in its logs and in the X-Request-ID reply header)."""
    given = http.headers.get("x-request-id", "")
    return given if _REQUEST_ID.fullmatch(given) else uuid4().hex


def _logged(request: RecommendRequest, shown: Shown) -> ShownList:
    return ShownList(
        time=time.time(),
        request_id=shown.request_id,
        user_id=request.user_id,
        history=request.history,
        k=request.k,
        bundle_version=shown.bundle_version,
        sid_version=shown.sid_version,
        items=tuple(
            ShownItem(
                item_id=entry.item_id,
                position=position,
                propensity=DETERMINISTIC,
                score=entry.score,
                source=entry.source,
            )
            for position, entry in enumerate(shown.items)
        ),
    )
