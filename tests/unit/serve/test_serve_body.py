"""The body guard: bounded while reading, strict JSON, never an exception of another kind."""

import asyncio
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serve.body import MAX_DEPTH, BodyGuard, check_content_type, parse_json
from serve.errors import ApiError

json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda children: st.lists(children, max_size=3) | st.dictionaries(st.text(), children, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_json_arrives_as_it_was_sent(value: Any) -> None:
    assert parse_json(json.dumps(value).encode()) == value


@given(st.binary(max_size=200))
def test_any_bytes_give_a_value_or_a_400(body: bytes) -> None:
    refused = None
    try:
        parse_json(body)
    except ApiError as error:
        refused = error.status
    assert refused in {None, 400}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b'{"k": NaN}', "NaN is not JSON"),
        (b'{"k": Infinity}', "Infinity is not JSON"),
        (b"[-Infinity]", "-Infinity is not JSON"),
        (b"", "not JSON"),
        (b'{"k": 1,}', "line 1"),
        (b'{"user_id": "\xff"}', "not UTF-8 at byte 13"),
        (b"[" * 100_000, "nested deeper"),
        (b"[" * 100_000 + b"]" * 100_000, "nested deeper"),
        (b'{"a":' * (MAX_DEPTH + 1) + b"1" + b"}" * (MAX_DEPTH + 1), "nested deeper"),
        (b"9" * 5000, "too many digits"),
    ],
)
def test_what_is_not_json_is_named(body: bytes, words: str) -> None:
    with pytest.raises(ApiError, match=words) as caught:
        parse_json(body)
    assert caught.value.status == 400


def test_the_deepest_allowed_nesting_is_allowed() -> None:
    assert parse_json(b"[" * MAX_DEPTH + b"]" * MAX_DEPTH) is not None


@pytest.mark.parametrize(
    "value", ["application/json", "Application/JSON; charset=UTF-8", 'application/json;charset="utf-8"']
)
def test_json_in_utf8_passes(value: str) -> None:
    check_content_type(value)


@pytest.mark.parametrize("value", ["", "text/plain", "application/xml", "application/json; charset=utf-16", "x" * 5000])
def test_any_other_type_is_a_415(value: str) -> None:
    with pytest.raises(ApiError) as caught:
        check_content_type(value)
    assert caught.value.status == 415
    assert len(caught.value.message) < 200


class Client:
    """One side of an ASGI exchange: sends chunks for ever, keeps what comes back."""

    def __init__(self, chunk: bytes, headers: list[tuple[bytes, bytes]]) -> None:
        self.chunk = chunk
        self.scope = {"type": "http", "method": "POST", "path": "/", "headers": headers}
        self.given = 0
        self.replies: list[Any] = []

    async def receive(self) -> Any:
        self.given += 1
        return {"type": "http.request", "body": self.chunk, "more_body": True}

    async def send(self, message: Any) -> None:
        self.replies.append(message)


async def _never(scope: Any, receive: Any, send: Any) -> None:
    raise AssertionError("the guarded app must not be reached")


def test_an_endless_body_is_read_no_further_than_the_limit() -> None:
    client = Client(b"x" * 100, [(b"content-type", b"application/json")])
    asyncio.run(BodyGuard(_never, max_bytes=1000)(client.scope, client.receive, client.send))
    assert client.given == 11
    assert client.replies[0]["status"] == 413


def test_a_declared_length_over_the_limit_is_not_read_at_all() -> None:
    client = Client(b"x", [(b"content-type", b"application/json"), (b"content-length", b"1001")])
    asyncio.run(BodyGuard(_never, max_bytes=1000)(client.scope, client.receive, client.send))
    assert client.given == 0
    assert client.replies[0]["status"] == 413


def test_a_good_body_reaches_the_app_whole() -> None:
    parts = [b'{"k"', b": 1", b"}"]
    seen = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        seen.append(await receive())

    async def receive() -> Any:
        return {"type": "http.request", "body": parts.pop(0), "more_body": bool(parts)}

    scope = {"type": "http", "method": "POST", "path": "/", "headers": [(b"content-type", b"application/json")]}
    asyncio.run(BodyGuard(app, max_bytes=1000)(scope, receive, None))  # type: ignore[arg-type]
    assert seen == [{"type": "http.request", "body": b'{"k": 1}', "more_body": False}]
