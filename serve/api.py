"""The routes of /v1 as a FastAPI app around a :class:`serve.backend.Backend` and, where content is served, a
:class:`serve.content.ContentBackend`.

Every route takes the catalog that is meant as ``X-Catalog`` (recommendations and explanations also as the field
``catalog``); without it the run's own is meant. Instructions, and what is made of them, are about the run's own alone.
The page at / and its files come before the check of keys, all else after it.

(No ``from __future__ import annotations`` here: FastAPI reads these annotations at run time.)
"""

import asyncio
import functools
import json
import re
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import aclosing
from dataclasses import replace
from typing import Annotated, Any
from uuid import uuid4

from fastapi import Body, FastAPI, Header, Path, Query, Request, Security
from fastapi.responses import HTMLResponse, JSONResponse, Response, StreamingResponse
from fastapi.security import HTTPBearer

from genrec import __version__
from genrec.config import ServeSettings
from genrec.recommender import RecommendRequest, Trial
from serve.backend import Backend, granted
from serve.body import BodyGuard
from serve.clients import LISTS, ClientGuard, RoomGuard, room_of
from serve.content import ContentBackend
from serve.docs_page import docs_page
from serve.errors import ApiError, add_error_handlers, not_ready, timed_out
from serve.instructions import Instructions, Step
from serve.journal import Journal
from serve.keys import KeyGuard
from serve.metrics import IngressMetrics, RefusalMeter
from serve.models import (
    CATALOG,
    MAX_ID_LENGTH,
    MAX_QUERY,
    ErrorReply,
    Explanation,
    FeedbackReply,
    FoundItems,
    Health,
    Item,
    KnownUsers,
    ModelCard,
    Shown,
    explain_type,
    feedback_type,
    request_type,
)
from serve.models_content import InstructionReply, instruction_type
from serve.page import PageFiles
from serve.shown import DETERMINISTIC, ShownItem, ShownList

HEALTH_TIMEOUT_S = 2.0
FOUND = 20
"""Items or users of a search that does not say how many."""
ASSET = r"^asset:[0-9a-f]{8,64}$"
"""What an asset's id may be: nothing that means anything to a file system."""
EVENT_STREAM = "text/event-stream"
_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{8,64}")

_RETRY = {"Retry-After": {"description": "seconds to wait", "schema": {"type": "integer"}}}
_ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "the request is malformed"},
    401: {"description": "no key of this service was sent"},
    404: {"description": "unknown user, item, asset or catalog"},
    413: {"description": "the body is larger than serve.max_body_bytes"},
    415: {"description": "the body is not JSON in UTF-8"},
    422: {"description": "a field is missing, unknown or out of range"},
    429: {"description": "this client has too many requests in flight", "headers": _RETRY},
    503: {"description": "overloaded, or not ready yet", "headers": _RETRY},
    504: {"description": "no answer in time"},
}
Catalog = Annotated[
    str | None, Header(alias="X-Catalog", pattern=CATALOG, description="a catalog of serve.catalogs; none: the run's")
]


def _errors(*statuses: int) -> dict[int | str, dict[str, Any]]:
    return {status: {"model": ErrorReply, **_ERRORS[status]} for status in statuses}


def create_api(
    limits: ServeSettings,
    backend: Backend,
    journal: Journal,
    keys: Sequence[bytes] = (),
    content: ContentBackend | None = None,
    room: Callable[[], int] | None = None,
) -> FastAPI:
    """The endpoint.

    Args:
        limits: settings.serve.
        backend: the recommender.
        journal: where feedback goes, and lists before they are sent.
        keys: digests of the keys, one of which every route but health asks for; none: no key is asked for.
        content: instructor, creator, editor and fidelity; None: their routes answer 404.
        room: lists that may be under way at this moment; None: as if all replicas were there.
    """
    secured: Any = [Security(HTTPBearer(auto_error=False))] if keys else []  # the schema says it; KeyGuard does it
    locked = (401, 429) if keys else (429,)
    api = FastAPI(
        title="genrec",
        version=__version__,
        summary="Generative recommendation over semantic IDs",
        docs_url=None,
        redoc_url=None,
    )
    longer = {"/v1/instructions": limits.max_body_bytes + 4 * (limits.max_picture_bytes // 3 + 1)}
    api.add_middleware(BodyGuard, max_bytes=limits.max_body_bytes, longer=longer)
    api.add_middleware(RoomGuard, room=room or functools.partial(room_of, limits), paths=LISTS)
    api.add_middleware(ClientGuard, most=limits.max_ongoing_of_client)
    if keys:
        api.add_middleware(KeyGuard, digests=keys)
    metrics = IngressMetrics()
    api.add_middleware(RefusalMeter, metrics=metrics)
    api.add_middleware(PageFiles)  # added last, it stands first
    add_error_handlers(api)
    _recommendation_routes(api, limits, backend, journal, metrics, secured, locked, tries=content is not None)
    _look_up_routes(api, limits, backend, secured, locked)
    if content is not None:
        instructions = Instructions(limits, backend, content, journal, metrics)
        _content_routes(api, limits, content, instructions, secured, locked)

    @api.get("/v1/health", responses=_errors(503))
    async def health() -> Health:
        """Ready only when a replica has loaded and warmed the model."""
        if content is not None and not getattr(api.state, "content_ready", False):
            try:
                await content.ready(HEALTH_TIMEOUT_S)
            except ApiError:
                raise not_ready() from None
            api.state.content_ready = True
        return await _health(backend, api.state)

    @api.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return docs_page(api.openapi())

    return api


def _recommendation_routes(
    api: FastAPI,
    limits: ServeSettings,
    backend: Backend,
    journal: Journal,
    metrics: IngressMetrics,
    secured: Any,
    locked: tuple[int, ...],
    *,
    tries: bool,
) -> None:
    body_type, batch_type, explained_type = request_type(limits), feedback_type(limits), explain_type(limits)
    usual = _errors(*locked, 400, 404, 413, 415, 422, 503, 504)

    @api.post("/v1/recommendations", dependencies=secured, responses=usual)
    async def recommendations(
        body: Annotated[body_type, Body()],  # type: ignore[valid-type]
        http: Request,
        catalog: Catalog = None,
    ) -> Shown:
        """Recommend items to a known user, or for a history that is sent along."""
        request: RecommendRequest = body.to_request()  # type: ignore[attr-defined]
        named: str | None = body.catalog or catalog  # type: ignore[attr-defined]
        list_id = uuid4().hex
        with metrics.held(), metrics.stage("total"):
            if request.user_id is not None:
                request = replace(request, recent=await journal.recent(request.user_id))
            if tries:
                own = await journal.made(request.user_id, body.session_id)  # type: ignore[attr-defined]
                request = replace(request, trial=Trial(list_id, own))
            if request.diversity:
                request = replace(request, seed=int(list_id[:15], 16))  # the log can draw the same list again
            with metrics.stage("recommend"):
                answer = granted(await backend.recommend(request, named))
            metrics.listed(answer.version)
            shown = Shown(
                list_id=list_id,
                request_id=_request_id(http),
                bundle_version=answer.version,
                sid_version=answer.sid_version,
                items=answer.items,
            )
            with metrics.stage("log"):
                await journal.shown(_logged(request, shown))
        return shown

    @api.post("/v1/explanations", dependencies=secured, responses=usual)
    async def explanations(
        body: Annotated[explained_type, Body()],  # type: ignore[valid-type]
        catalog: Catalog = None,
    ) -> Explanation:
        """Measure what a recommendation leans on, by leaving out items of the history; and who votes for it."""
        request: RecommendRequest = body.to_request()  # type: ignore[attr-defined]
        if request.user_id is not None:
            request = replace(request, recent=await journal.recent(request.user_id))
        named = body.catalog or catalog  # type: ignore[attr-defined]
        with metrics.stage("explain"):
            told = granted(await backend.explain(request, body.item_id, named))  # type: ignore[attr-defined]
        return Explanation(**told)

    @api.post("/v1/feedback", dependencies=secured, responses=_errors(*locked, 400, 413, 415, 422, 503))
    async def feedback(body: Annotated[batch_type, Body()]) -> FeedbackReply:  # type: ignore[valid-type]
        """Store what users did, each event once; durable when the reply comes, and counted from the next list on."""
        now = time.time()
        events = [entry.event(now) for entry in body.events]  # type: ignore[attr-defined]
        with metrics.stage("feedback"):
            stored = await journal.feedback(events)
        return FeedbackReply(stored=stored, duplicates=len(events) - stored)


def _look_up_routes(
    api: FastAPI, limits: ServeSettings, backend: Backend, secured: Any, locked: tuple[int, ...]
) -> None:
    usual = _errors(*locked, 404, 422, 503, 504)
    Limit = Annotated[int, Query(ge=1, le=limits.max_found, description="most of them")]
    Words = Annotated[str, Query(alias="query", max_length=MAX_QUERY)]
    default = min(FOUND, limits.max_found)

    @api.get("/v1/items", dependencies=secured, responses=usual)
    async def items(words: Words = "", limit: Limit = default, catalog: Catalog = None) -> FoundItems:
        """Find items whose titles hold all words of the query; without one, the most popular."""
        return FoundItems(items=await backend.find_items(words, limit, catalog))  # type: ignore[arg-type]

    @api.get("/v1/users", dependencies=secured, responses=usual)
    async def users(words: Words = "", limit: Limit = default, catalog: Catalog = None) -> KnownUsers:
        """Find users of the loaded bundle by their ids."""
        return KnownUsers(users=await backend.find_users(words, limit, catalog))  # type: ignore[arg-type]

    @api.get("/v1/items/{item_id}", dependencies=secured, responses=usual)
    async def item(
        item_id: Annotated[str, Path(min_length=1, max_length=MAX_ID_LENGTH)], catalog: Catalog = None
    ) -> Item:
        """Look an item up by its raw id."""
        return Item(**granted(await backend.item(item_id, catalog)))

    @api.get("/v1/model", dependencies=secured, responses=usual)
    async def model(catalog: Catalog = None) -> ModelCard:
        """The model card of the loaded bundle."""
        return ModelCard(**await backend.card(catalog))


def _content_routes(
    api: FastAPI,
    limits: ServeSettings,
    content: ContentBackend,
    instructions: Instructions,
    secured: Any,
    locked: tuple[int, ...],
) -> None:
    told_type = instruction_type(limits)
    asset = Annotated[str, Path(pattern=ASSET)]
    found = _errors(*locked, 404, 422, 503, 504)
    streamed: dict[int | str, dict[str, Any]] = {
        200: {
            "description": "the reply, or with `Accept: text/event-stream` the events decision, progress, item, and "
            "done (the reply) or error",
            "content": {EVENT_STREAM: {"schema": {"type": "string"}}},
        }
    }

    @api.post(
        "/v1/instructions",
        dependencies=secured,
        response_model=InstructionReply,
        responses={**streamed, **_errors(*locked, 400, 404, 413, 415, 422, 503, 504)},
    )
    async def instruct(body: Annotated[told_type, Body()], http: Request) -> Response:  # type: ignore[valid-type]
        """Say or show what you want: an item is retrieved, edited or created, or you are asked back."""
        steps = instructions.steps(body, _request_id(http))
        limit = limits.instruction_timeout_s
        if EVENT_STREAM in http.headers.get("accept", ""):
            headers = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
            return StreamingResponse(_events(steps, limit), media_type=EVENT_STREAM, headers=headers)
        work = asyncio.ensure_future(_last(steps, limit))
        left = asyncio.ensure_future(_gone(http))
        try:
            await asyncio.wait({work, left}, return_when=asyncio.FIRST_COMPLETED)
            if not work.done():  # nobody waits for the answer any more
                raise ApiError(499, "client_gone", "the client closed the connection")
            return JSONResponse(work.result())
        finally:
            work.cancel()
            left.cancel()

    @api.get(
        "/v1/media/{asset_id}",
        dependencies=secured,
        response_class=Response,
        responses={200: {"description": "the file", "content": {"image/png": {}, "video/mp4": {}}}, **found},
    )
    async def media(asset_id: asset) -> Response:  # type: ignore[valid-type]
        """The file of a created or edited asset that passed its checks."""
        file = await content.media(asset_id)
        if file is None:
            raise _no_asset(asset_id)
        headers = {
            "Cache-Control": "private, max-age=3600",
            "X-Content-Type-Options": "nosniff",
            "Content-Security-Policy": "default-src 'none'",
        }
        return Response(file.data, media_type=file.media_type, headers=headers)

    @api.get("/v1/media/{asset_id}/provenance", dependencies=secured, responses=found)
    async def provenance(asset_id: asset) -> dict[str, Any]:  # type: ignore[valid-type]
        """Where an asset comes from: model, prompt, seed, ingredients, checks."""
        told = await content.provenance(asset_id)
        if told is None:
            raise _no_asset(asset_id)
        return told


async def _last(steps: AsyncIterator[Step], limit: float) -> dict[str, Any]:
    """The data of the last step."""
    data: dict[str, Any] = {}
    async with aclosing(steps) as told:  # type: ignore[type-var]
        try:
            async with asyncio.timeout(limit):
                async for step in told:
                    data = step.data
        except TimeoutError:
            raise timed_out(limit) from None
    return data


async def _events(steps: AsyncIterator[Step], limit: float) -> AsyncIterator[str]:
    """Server-sent events; an error is the last of them, for the status has been sent."""
    try:
        async with aclosing(steps) as told:  # type: ignore[type-var]
            async with asyncio.timeout(limit):
                async for step in told:
                    yield _event(step.event, step.data)
    except TimeoutError:
        yield _event("error", timed_out(limit).detail())
    except ApiError as error:
        yield _event("error", error.detail())


def _event(name: str, data: dict[str, Any]) -> str:
    return f"event: {name}\ndata: {json.dumps(data, ensure_ascii=False)}\n\n"


async def _gone(http: Request) -> None:
    """Return when the client has closed the connection."""
    while (await http.receive())["type"] != "http.disconnect":
        pass


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


def _no_asset(asset_id: str) -> ApiError:
    return ApiError(404, "unknown_asset", f"asset_id: there is no asset {asset_id!r} to show", field="asset_id")


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
                propensity=entry.evidence.get("propensity", DETERMINISTIC),
                score=entry.score,
                source=entry.source,
            )
            for position, entry in enumerate(shown.items)
        ),
    )
