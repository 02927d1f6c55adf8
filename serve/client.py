"""A small typed client of /v1: the reply models of the service itself, one retry where it is safe, errors by kind.

What was refused for lack of room (429, 503) is sent again after the time in Retry-After; so is a request whose
connection broke, or whose replica died in the proxy's hands (a 500 that is not the service's own), where doing it twice
does no harm: lists, look-ups, and feedback, whose events have ids. An instruction may create something, so it is sent
again only if the service cannot have begun it.

    with Client("http://127.0.0.1:8000", key=os.environ["GENREC_KEY"]) as client:
        shown = client.recommend(user_id="196", k=5)
        client.feedback([client.event("196", shown.items[0].item_id, "like", shown=shown)])
        for event in client.instruct_events("something calmer", user_id="196"):
            ...
"""

from __future__ import annotations

import base64
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar
from urllib.parse import quote
from uuid import uuid4

import httpx
from pydantic import BaseModel, TypeAdapter, ValidationError

from serve.client_errors import (
    PROXY_FAULT,
    REQUEST_ID,
    BrokenError,
    BusyError,
    UnreachableError,
    broken,
    fault,
)
from serve.client_events import Done, InstructionEvent, event_of, server_sent
from serve.models import (
    DEFAULT_K,
    Explanation,
    FeedbackEntry,
    FeedbackReply,
    FoundItem,
    FoundItems,
    Health,
    Item,
    KnownUser,
    KnownUsers,
    ModelCard,
    Shown,
)
from serve.models_content import InstructionReply
from serve.store import Kind

TIMEOUT_S = 60.0
INSTRUCTION_TIMEOUT_S = 200.0
LONGEST_WAIT_S = 30.0
"""A service that asks for more patience than this is not waited for."""
PROXY_FAULT_WAIT_S = 0.2

_EVENT_STREAM = "text/event-stream"
_Model = TypeVar("_Model", bound=BaseModel)


@dataclass(frozen=True)
class Media:
    """A made file."""

    data: bytes
    media_type: str


class Client:
    """Talks to one service. Safe to share between threads; close it, or use it as a context manager.

    Args:
        url: of the service, without /v1.
        key: of the service, where it asks for one.
        timeout_s: longest wait for a reply, or between two events of a streamed one.
        retries: how often a request that may be repeated is sent again.
        transport: of httpx, in the place of a network connection.
    """

    def __init__(
        self,
        url: str,
        key: str | None = None,
        *,
        timeout_s: float = TIMEOUT_S,
        retries: int = 1,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        headers = {} if key is None else {"Authorization": f"Bearer {key}"}
        self._http = httpx.Client(base_url=url.rstrip("/"), headers=headers, timeout=timeout_s, transport=transport)
        self._retries = retries

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Give the connections back."""
        self._http.close()

    def recommend(
        self,
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        k: int = DEFAULT_K,
        exclude: Sequence[str] = (),
        filters: Mapping[str, Any] | None = None,
        diversity: float = 0.0,
        catalog: str | None = None,
        session_id: str | None = None,
    ) -> Shown:
        """A list for a known user, or for a history of item ids (oldest first).

        Args:
            user_id: raw id; or None, with a history.
            history: raw item ids in place of the known history.
            k: length of the list.
            exclude: item ids not to list.
            filters: ``title``, ``categories``, ``items`` (see :class:`serve.models.Filters`).
            diversity: 0: the most probable items; up to 1: drawn from more, and less alike.
            catalog: one of serve.catalogs.
            session_id: of instructions: what was made there is tried in the list.

        Raises:
            ClientError: of the kind that it is.
        """
        body = _given(
            user_id=user_id, history=_listed(history), filters=filters, catalog=catalog, session_id=session_id
        )
        body |= {"k": k, "exclude": list(exclude), "diversity": diversity}
        return self._read(Shown, "POST", "/v1/recommendations", body=body)

    def explain(
        self,
        item_id: str,
        *,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        catalog: str | None = None,
    ) -> Explanation:
        """What the recommendation of an item leans on."""
        body = _given(item_id=item_id, user_id=user_id, history=_listed(history), catalog=catalog)
        return self._read(Explanation, "POST", "/v1/explanations", body=body)

    def items(self, query: str = "", limit: int = 20) -> list[FoundItem]:
        """Items whose titles hold all words of the query; without one, the most popular."""
        return self._read(FoundItems, "GET", "/v1/items", query={"query": query, "limit": limit}).items

    def users(self, query: str = "", limit: int = 20) -> list[KnownUser]:
        """Known users by their ids."""
        return self._read(KnownUsers, "GET", "/v1/users", query={"query": query, "limit": limit}).users

    def item(self, item_id: str) -> Item:
        """An item of the catalog."""
        return self._read(Item, "GET", f"/v1/items/{quote(item_id, safe='')}")

    def model(self) -> ModelCard:
        """The model card of the loaded bundle."""
        return self._read(ModelCard, "GET", "/v1/model")

    def health(self) -> Health:
        """Versions of what serves; BusyError until it is ready."""
        return self._read(Health, "GET", "/v1/health")

    def event(
        self, user_id: str, item_id: str, kind: Kind, *, shown: Shown | InstructionReply | None = None
    ) -> FeedbackEntry:
        """A feedback event with an id of its own, on the list that showed the item if that is given."""
        places = [entry.item_id for entry in shown.items] if shown is not None else []
        on_list = shown is not None and shown.list_id is not None and item_id in places
        return FeedbackEntry(
            event_id=uuid4().hex,
            user_id=user_id,
            item_id=item_id,
            kind=kind,
            list_id=shown.list_id if shown is not None and on_list else None,
            position=places.index(item_id) if on_list else None,
            time=time.time(),
        )

    def feedback(self, events: Iterable[FeedbackEntry]) -> FeedbackReply:
        """Store events; when it returns they are durable. The same events may be sent again: each is stored once."""
        body = {"events": [entry.model_dump(mode="json", exclude_none=True) for entry in events]}
        return self._read(FeedbackReply, "POST", "/v1/feedback", body=body)

    def instruct(
        self,
        text: str = "",
        *,
        picture: bytes | Path | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        k: int = DEFAULT_K,
        list_id: str | None = None,
        timeout_s: float = INSTRUCTION_TIMEOUT_S,
    ) -> InstructionReply:
        """Say or show what is wanted, and wait for what comes of it.

        Args:
            text: the words.
            picture: an example, a PNG or JPEG file.
            session_id: goes on with a dialogue.
            user_id: raw id of the user; or None.
            history: raw item ids in place of the user's own.
            k: length of the list.
            list_id: the list before the user.
            timeout_s: longest wait; creating takes a while.

        Raises:
            ClientError: of the kind that it is.
        """
        body = _instruction(text, picture, session_id, user_id, history, k, list_id)
        return self._read(InstructionReply, "POST", "/v1/instructions", body=body, again=False, timeout_s=timeout_s)

    def instruct_events(
        self,
        text: str = "",
        *,
        picture: bytes | Path | None = None,
        session_id: str | None = None,
        user_id: str | None = None,
        history: Sequence[str] | None = None,
        k: int = DEFAULT_K,
        list_id: str | None = None,
    ) -> Iterator[InstructionEvent]:
        """The same, told as it happens; whoever stops iterating stops the work. The last event is :class:`Done`."""
        body = _instruction(text, picture, session_id, user_id, history, k, list_id)
        with self._sent("POST", "/v1/instructions", body=body, again=False, accept=_EVENT_STREAM) as reply:
            last: InstructionEvent | None = None
            for name, data in server_sent(reply.iter_lines()):
                last = event_of(name, data, reply.headers.get(REQUEST_ID))
                yield last
            if not isinstance(last, Done):
                raise UnreachableError("the connection ended before the reply")

    def media(self, asset_id: str) -> Media:
        """The file of something made."""
        with self._sent("GET", f"/v1/media/{quote(asset_id, safe='')}") as reply:
            return Media(reply.read(), reply.headers.get("content-type", "application/octet-stream"))

    def provenance(self, asset_id: str) -> dict[str, Any]:
        """Where something made comes from: model, prompt, seed, ingredients, checks."""
        with self._sent("GET", f"/v1/media/{quote(asset_id, safe='')}/provenance") as reply:
            return TypeAdapter(dict[str, Any]).validate_json(reply.read())

    def _read(self, model: type[_Model], method: str, path: str, **request: Any) -> _Model:
        with self._sent(method, path, **request) as reply:
            content = reply.read()
        try:
            return model.model_validate_json(content)
        except ValidationError as error:
            message = f"{path}: the reply is no {model.__name__}; client and service may differ in version: {error}"
            raise BrokenError(message, status=reply.status_code, code="unexpected_reply") from None

    @contextmanager
    def _sent(
        self,
        method: str,
        path: str,
        *,
        body: Any = None,
        query: Mapping[str, Any] | None = None,
        again: bool = True,
        accept: str = "application/json",
        timeout_s: float | None = None,
    ) -> Iterator[httpx.Response]:
        """The open reply to a request that went well, after as many retries as are allowed.

        Args:
            method: of HTTP.
            path: after the URL.
            body: sent as JSON.
            query: parameters.
            again: doing it twice does no harm.
            accept: what kind of reply is wanted.
            timeout_s: in place of the client's own.
        """
        patience: Any = {} if timeout_s is None else {"timeout": timeout_s}
        request = self._http.build_request(
            method, path, json=body, params=query, headers={"Accept": accept, REQUEST_ID: uuid4().hex}, **patience
        )
        for attempt in range(self._retries + 1):
            last = attempt == self._retries
            try:
                reply = self._http.send(request, stream=True)
                if reply.is_success:
                    break
                failed = fault(reply)
            except httpx.TransportError as error:
                unsent = isinstance(error, httpx.ConnectError | httpx.ConnectTimeout | httpx.PoolTimeout)
                if last or not (again or unsent) or isinstance(error, httpx.ReadTimeout):
                    raise broken(error) from None
                continue
            if not last and again and failed.code == PROXY_FAULT:
                time.sleep(PROXY_FAULT_WAIT_S)
                continue
            wait = failed.retry_after_s
            if last or not isinstance(failed, BusyError) or wait is None or wait > LONGEST_WAIT_S:
                raise failed
            time.sleep(wait)
        try:
            yield reply
        except httpx.TransportError as error:
            raise broken(error) from None
        finally:
            reply.close()


def _given(**fields: Any) -> dict[str, Any]:
    return {name: value for name, value in fields.items() if value is not None}


def _listed(history: Sequence[str] | None) -> list[str] | None:
    return None if history is None else list(history)


def _instruction(
    text: str,
    picture: bytes | Path | None,
    session_id: str | None,
    user_id: str | None,
    history: Sequence[str] | None,
    k: int,
    list_id: str | None,
) -> dict[str, Any]:
    data = picture.read_bytes() if isinstance(picture, Path) else picture
    encoded = None if data is None else base64.b64encode(data).decode("ascii")
    told = _given(picture=encoded, session_id=session_id, user_id=user_id, history=_listed(history), list_id=list_id)
    return {"text": text, "k": k, **told}
