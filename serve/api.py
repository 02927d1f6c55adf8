"""The routes of /v1 as a FastAPI app around a :class:`serve.backend.Backend`.

(No ``from __future__ import annotations`` here: FastAPI reads these annotations at run time.)
"""

import re
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, FastAPI, Path, Request, Security
from fastapi.responses import HTMLResponse, RedirectResponse
from fastapi.security import HTTPBearer

from genrec import __version__
from genrec.config import ServeSettings
from genrec.recommender import RecommendRequest
from serve.backend import Backend
from serve.body import BodyGuard
from serve.docs_page import docs_page
from serve.errors import ApiError, add_error_handlers, not_ready
from serve.journal import Journal
from serve.keys import KeyGuard
from serve.models import (
    MAX_ID_LENGTH,
    ErrorReply,
    FeedbackReply,
    Health,
    Item,
    ModelCard,
    Shown,
    feedback_type,
    request_type,
)
from serve.recommender import Refusal
from serve.shown import DETERMINISTIC, ShownItem, ShownList

HEALTH_TIMEOUT_S = 2.0
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

_RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request is malformed"},
    401: {"description": "no key of this service was sent"},
    404: {"description": "unknown user or item"},
    413: {"description": "the body is larger than serve.max_body_bytes"},
    415: {"description": "the body is not JSON in UTF-8"},
    422: {"description": "a field is missing, unknown or out of range"},
    503: {"description": "overloaded, or not ready yet", "headers": _RETRY},
    504: {"description": "no answer in time"},
}


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, **_ERRORS[status]} for status in statuses}


def create_api(limits: ServeSettings, backend: Backend, journal: Journal, keys: Sequence[bytes] = ()) -> FastAPI:
    """The endpoint.

    Args:
        limits: settings.serve.
        backend: the recommender.
        journal: where feedback goes, and lists before they are sent.
        keys: digests of the keys, one of which every route but health asks for; none: no key is asked for.
    """
    secured: Any = [Security(HTTPBearer(auto_error=False))] if keys else []  # the schema says it; KeyGuard does it
    locked = (401,) if keys else ()
    api = FastAPI(
        title="genrec",
        version=__version__,
        summary="Generative recommendation over semantic IDs",
        docs_url=None,
        redoc_url=None,
    )
    api.add_middleware(BodyGuard, max_bytes=limits.max_body_bytes)
    if keys:
        api.add_middleware(KeyGuard, digests=keys)  # added last, it stands first
    add_error_handlers(api)
    body_type, batch_type = request_type(limits), feedback_type(limits)

    @api.post(
        "/v1/recommendations", dependencies=secured, responses=_errors(*locked, 400, 404, 413, 415, 422, 503, 504)
    )
    async def recommendations(body: Annotated[body_type, Body()], http: Request) -> Shown:  # type: ignore[valid-type]
        """Recommend items to a known user, or for a history that is sent along."""
        request: RecommendRequest = body.to_request()  # type: ignore[attr-defined]
        if request.user_id is not None:
            request = replace(request, recent=await journal.recent(request.user_id))
        answer = _granted(await backend.recommend(request))
        shown = Shown(
            list_id=uuid4().hex,
            request_id=_request_id(http),
            bundle_version=answer.version,
            sid_version=answer.sid_version,
            items=answer.items,
        )
        await journal.shown(_logged(request, shown))
        return shown

    @api.post("/v1/feedback", dependencies=secured, responses=_errors(*locked, 400, 413, 415, 422, 503))
    async def feedback(body: Annotated[batch_type, Body()]) -> FeedbackReply:  # type: ignore[valid-type]
        """Store what users did, each event once; durable when the reply comes, and counted from the next list on."""
        now = time.time()
        events = [entry.event(now) for entry in body.events]  # type: ignore[attr-defined]
        stored = await journal.feedback(events)
        return FeedbackReply(stored=stored, duplicates=len(events) - stored)

    @api.get("/v1/items/{item_id}", dependencies=secured, responses=_errors(*locked, 404, 422, 503, 504))
    async def item(item_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)]) -> Item:
        """Look an item up by its raw id."""
        return Item(**_granted(await backend.item(item_id)))

    @api.get("/v1/model", dependencies=secured, responses=_errors(*locked, 503, 504))
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
        list_id=shown.list_id,
        request_id=shown.request_id,
        time=time.time(),
        user_id=request.user_id,
        history=request.history,
        recent=request.recent,
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
