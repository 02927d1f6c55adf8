"""Request models: what is taken, what is refused, and that the published schema says the same."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter, ValidationError

from genrec.config import ServeSettings
from genrec.recommender import RecommendRequest
from serve.errors import explain
from serve.models import MAX_ID_LENGTH, request_type

LIMITS = ServeSettings(max_k=20, max_history=5, max_exclude=3)
ADAPTER = TypeAdapter(request_type(LIMITS))

item_ids = st.text(st.characters(codec="utf-8"), min_size=1, max_size=8)


def test_a_known_user() -> None:
    body = ADAPTER.validate_python({"user_id": "196"})
    assert body.to_request() == RecommendRequest(user_id="196", history=None, k=10)


@given(
    history=st.lists(item_ids, min_size=1, max_size=LIMITS.max_history),
    exclude=st.lists(item_ids, max_size=LIMITS.max_exclude),
    k=st.integers(1, LIMITS.max_k),
)
def test_a_history_within_the_limits_arrives_unchanged(history: list[str], exclude: list[str], k: int) -> None:
    sent = json.loads(json.dumps({"history": history, "exclude": exclude, "k": k}))
    request = ADAPTER.validate_python(sent).to_request()
    assert request == RecommendRequest(user_id=None, history=tuple(history), k=k, exclude=tuple(exclude))


REFUSED = [
    ({}, "user_id", "send user_id"),
    ({"user_id": "1", "history": ["2"]}, "user_id", "not both"),
    ({"user_id": ""}, "user_id", "at least 1 character"),
    ({"user_id": "x" * (MAX_ID_LENGTH + 1)}, "user_id", "at most 256"),
    ({"user_id": 196}, "user_id", "valid string (got 196)"),
    ({"user_id": None}, "user_id", "valid string"),
    ({"user_id": "1", "k": 0}, "k", "greater than or equal to 1"),
    ({"user_id": "1", "k": 21}, "k", "less than or equal to 20 (got 21)"),
    ({"user_id": "1", "k": 10**400}, "k", "a very large number"),
    ({"user_id": "1", "k": "5"}, "k", "valid integer"),
    ({"user_id": "1", "k": True}, "k", "valid integer"),
    ({"user_id": "1", "k": 2.5}, "k", "valid integer"),
    ({"user_id": "1", "kk": 5}, "kk", "unknown field"),
    ({"history": []}, "history", "at least 1 item"),
    ({"history": ["1"] * 6}, "history", "at most 5 items"),
    ({"history": ["1", ""]}, "history.1", "at least 1 character"),
    ({"history": "1"}, "history", "valid list"),
    ({"history": ["1"], "exclude": ["1"] * 4}, "exclude", "at most 3 items"),
    ([1, 2], None, "valid dictionary"),
    ("user", None, "valid dictionary"),
    (None, None, "valid dictionary"),
]


@pytest.mark.parametrize(("sent", "field", "words"), REFUSED, ids=[json.dumps(case[0])[:40] for case in REFUSED])
def test_a_refusal_names_the_field_and_the_mend(sent: object, field: str | None, words: str) -> None:
    with pytest.raises(ValidationError) as caught:
        ADAPTER.validate_python(sent)
    errors = [{**error, "loc": ("body", *error["loc"])} for error in caught.value.errors()]
    named, message = explain(errors)
    assert named == field
    assert words in message
    assert len(message) < 300


def test_an_integral_float_is_an_integer_as_json_schema_has_it() -> None:
    assert ADAPTER.validate_python({"user_id": "1", "k": 7.0}).k == 7


def test_a_lone_surrogate_is_refused() -> None:
    with pytest.raises(ValidationError):
        ADAPTER.validate_python(json.loads(r'{"user_id": "\ud800"}'))


def test_the_schema_states_the_limits() -> None:
    schemas = ADAPTER.json_schema()["$defs"]
    assert schemas["ForUser"]["properties"]["k"]["maximum"] == 20
    assert schemas["ForHistory"]["properties"]["history"]["maxItems"] == 5
    assert schemas["ForHistory"]["properties"]["exclude"]["maxItems"] == 3
    assert not schemas["ForUser"]["additionalProperties"]


def test_the_default_list_is_no_longer_than_allowed() -> None:
    body = TypeAdapter(request_type(ServeSettings(max_k=3))).validate_python({"user_id": "1"})
    assert body.k == 3
