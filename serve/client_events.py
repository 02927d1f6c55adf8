"""The events of a streamed instruction as values, read from server-sent events."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from genrec.recommendation import Recommendation
from serve.client_errors import BrokenError, error_of
from serve.models_content import DecisionReply, InstructionReply


@dataclass(frozen=True)
class Decided:
    """The service has decided what to do; sent before it is done."""

    instruction_id: str
    session_id: str
    decision: DecisionReply


@dataclass(frozen=True)
class Progress:
    """Work is under way: its share, 0 to 1, and what it is."""

    share: float
    what: str


@dataclass(frozen=True)
class ItemTold:
    """One entry of the reply, as soon as it is there."""

    item: Recommendation


@dataclass(frozen=True)
class Done:
    """The whole reply; the last event."""

    reply: InstructionReply


InstructionEvent = Decided | Progress | ItemTold | Done


_STATUSES = {
    "timeout": 504,
    "overloaded": 503,
    "unavailable": 503,
    "not_ready": 503,
    "unknown_user": 404,
    "unknown_item": 404,
    "invalid_request": 422,
}
"""What the status would have been, had it not been sent before."""


def server_sent(lines: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Name and data of each server-sent event."""
    name, data = "message", list[str]()
    for line in lines:
        if not line:
            if data:
                yield name, "\n".join(data)
            name, data = "message", []
        elif line.startswith("event:"):
            name = line.removeprefix("event:").strip()
        elif line.startswith("data:"):
            data.append(line.removeprefix("data:").removeprefix(" "))


def event_of(name: str, data: str, request_id: str | None = None) -> InstructionEvent:
    """An event as a value.

    Args:
        name: of the event.
        data: its JSON.
        request_id: for the error that it may stand for.

    Raises:
        ClientError: it tells of an error, whose status could not be sent any more; or it cannot be read.
    """
    try:
        told = json.loads(data)
        if name == "decision":
            ids = {key: told.pop(key) for key in ("instruction_id", "session_id")}
            return Decided(**ids, decision=DecisionReply.model_validate(told))
        if name == "progress":
            return Progress(float(told["share"]), str(told["what"]))
        if name == "item":
            return ItemTold(Recommendation.model_validate(told))
        if name == "done":
            return Done(InstructionReply.model_validate(told))
        detail = told["error"]
        code, message, field = str(detail["code"]), str(detail["message"]), detail.get("field")
    except (ValueError, KeyError, TypeError) as error:
        message = f"event {name!r} cannot be read; client and service may differ in version: {error}"
        raise BrokenError(message, code="unexpected_reply", request_id=request_id) from None
    raise error_of(_STATUSES.get(code, 500), message, code=code, field=field, request_id=request_id)
