"""Requests made from a service's published schema by schemathesis, valid ones and broken ones, with its own checks."""

import time
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import hypothesis
import requests
import schemathesis
from hypothesis import HealthCheck

TIMEOUT_S = 180
TRIES = 4
_PICTURE = "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAIAAABLbSncAAAAFElEQVR4nGM8ISfHgA0wYRUdtBIA0MoBFD5jqJkAAAAASUVORK5CYII="


def fuzzed(
    url: str, cases: Callable[[str, bool], int], users: Sequence[str], items: Sequence[str]
) -> dict[str, Counter[int]]:
    """Statuses by operation: no 5xx, only documented statuses and bodies, valid data taken, invalid data refused.

    Random ids are hardly ever known, so that in half of the valid cases known ones stand in their places. No schema
    says what makes a picture, so that in all of the valid cases a real one does. A 503 is counted, and asked again.

    Args:
        url: of the service.
        cases: how many of each kind, valid and broken, of an operation, given its label and whether it takes anything.
        users: ids that the service knows.
        items: ids that the service knows.
    """
    schema = schemathesis.openapi.from_url(f"{url}/openapi.json")
    seen: dict[str, Counter[int]] = {}
    with requests.Session() as session:
        for found in schema.get_all_operations():
            operation = found.ok()
            takes = bool(operation.path_parameters or operation.body or operation.query)
            counted = seen.setdefault(operation.label, Counter())
            for mode in schemathesis.GenerationMode if takes else (schemathesis.GenerationMode.POSITIVE,):
                strategy = operation.as_strategy(generation_mode=mode)
                run = hypothesis.given(case=strategy, known=hypothesis.strategies.booleans())(
                    _sender(session, counted, users, items)
                )
                hypothesis.settings(
                    max_examples=cases(operation.label, takes),
                    deadline=None,
                    database=None,
                    derandomize=True,
                    suppress_health_check=list(HealthCheck),
                )(run)()
    return seen


def _sender(
    session: requests.Session, counted: Counter[int], users: Sequence[str], items: Sequence[str]
) -> Callable[[schemathesis.Case, bool], None]:
    """What is asked of one reply."""

    def send(case: schemathesis.Case, known: bool) -> None:
        if case.meta.generation.mode.is_positive:
            if known:
                _name_known_ids(case, users, items)
            if isinstance(case.body, dict) and case.body.get("picture") is not None:
                case.body["picture"] = _PICTURE
        for _ in range(TRIES):
            reply = case.call(session=session, timeout=TIMEOUT_S)
            counted[reply.status_code] += 1
            if reply.status_code != 503:  # no room, or a disk that stood still: a client comes back
                break
            time.sleep(float(reply.headers["Retry-After"]))
        assert reply.status_code < 500, reply.text
        assert "Traceback" not in reply.text
        if reply.status_code == 413:  # size is judged before the schema, and schemathesis has no list of it
            return
        case.validate_response(reply)

    return send


def _name_known_ids(case: schemathesis.Case, users: Sequence[str], items: Sequence[str]) -> None:
    def one(name: str, of: Sequence[str]) -> str:
        return of[zlib.crc32(name.encode(errors="replace")) % len(of)]

    if case.path_parameters and "item_id" in case.path_parameters:
        case.path_parameters["item_id"] = one(case.path_parameters["item_id"], items)
    if isinstance(case.body, dict):
        body: dict[str, Any] = case.body
        for key in ("history", "exclude"):
            if isinstance(body.get(key), list):
                body[key] = [one(name, items) for name in body[key]]
        if isinstance(body.get("item_id"), str):
            body["item_id"] = one(body["item_id"], items)
        if isinstance(body.get("user_id"), str):
            body["user_id"] = one(body["user_id"], users)
