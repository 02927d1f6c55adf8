"""Feedback over HTTP, in process: stored once, bounded, and heard by the next list."""

import asyncio
import math
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from sqlalchemy.exc import OperationalError

from genrec.config import ServeSettings
from genrec.recommender import Recommender, RecommendRequest, UnknownUserError
from serve.api import create_api
from serve.errors import ApiError
from serve.journal import Journal
from serve.recommender import Answer, RecommenderLogic, Refusal
from serve.store import Event, FeedbackStore, sqlite_url
from tests.serving import assembled_bundle

LIMITS = ServeSettings(max_k=20, max_feedback=5)


class ByLogic:
    """The routes' backend without Ray between."""

    def __init__(self, logic: RecommenderLogic) -> None:
        self.logic = logic

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        return self.logic.check(request) or self.logic.answer([request])[0]

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        return self.logic.item(item_id)

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        return self.logic.card()

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        return self.logic.recommender.version, self.logic.recommender.sid_version


@pytest.fixture(scope="module")
def recommender(tmp_path_factory: pytest.TempPathFactory) -> Recommender:
    return Recommender.load(assembled_bundle(tmp_path_factory.mktemp("bundle")))


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    store = FeedbackStore(sqlite_url(tmp_path / "feedback.sqlite3"))
    yield store
    store.close()


@pytest.fixture
def client(recommender: Recommender, store: FeedbackStore) -> Iterator[TestClient]:
    backend = ByLogic(RecommenderLogic(recommender, LIMITS))
    with TestClient(create_api(LIMITS, backend, Journal(store)), raise_server_exceptions=False) as client:
        yield client


def entry(**changes: Any) -> dict[str, Any]:
    return {"event_id": "e1", "user_id": "u7", "item_id": "item é'3", "kind": "like", **changes}


def told(client: TestClient, *events: dict[str, Any]) -> Any:
    reply = client.post("/v1/feedback", json={"events": events})
    assert reply.status_code == 200, reply.text
    return reply.json()


def listed(client: TestClient, user: str) -> list[str]:
    reply = client.post("/v1/recommendations", json={"user_id": user, "k": 10})
    assert reply.status_code == 200, reply.text
    return [one["item_id"] for one in reply.json()["items"]]


def test_a_batch_is_stored_and_its_repetition_is_not(client: TestClient, store: FeedbackStore) -> None:
    before = time.time()
    batch = [entry(list_id="l", position=2, time=12.5), entry(event_id="e2", kind="skip")]
    assert told(client, *batch) == {"stored": 2, "duplicates": 0}
    assert told(client, *batch, entry(event_id="e3")) == {"stored": 1, "duplicates": 2}
    first, second, _ = store.events()
    assert first == Event("e1", "u7", "item é'3", "like", "l", 2, 12.5, first.received)
    assert (second.kind, second.list_id, second.position) == ("skip", None, None)
    assert before <= second.received == second.time <= time.time()


def test_an_event_of_the_future_is_of_now(client: TestClient, store: FeedbackStore) -> None:
    told(client, entry(time=1e300))
    assert store.events()[0].time == store.events()[0].received <= time.time()


@pytest.mark.parametrize(("kind", "heard"), [("like", True), ("consume", True), ("skip", False), ("click", False)])
def test_the_next_list_is_that_of_the_longer_history(
    client: TestClient, recommender: Recommender, store: FeedbackStore, kind: str, heard: bool
) -> None:
    before = listed(client, "u7")
    told(client, entry(item_id=before[0], kind=kind))
    after = listed(client, "u7")
    known = tuple(recommender.bundle.catalog.item_ids[i] for i in recommender.history_of("u7"))
    longer = RecommendRequest("u7", (*known, before[0]), 10)
    assert after == ([one.item_id for one in recommender.recommend_batch([longer])[0]] if heard else before)
    assert (before[0] in after) is not heard
    assert [one.recent for one in sorted(store.lists(), key=lambda one: one.time)] == [(), (before[0],) * heard]
    assert listed(client, "u8") == [one.item_id for one in recommender.recommend(["u8"], 10)[0]]


def test_a_user_whom_the_bundle_does_not_know_has_a_history_by_feedback(
    client: TestClient, recommender: Recommender
) -> None:
    items = [f"item é'{i}" for i in (4, 8)]
    body = {"user_id": "new", "k": 10}
    assert client.post("/v1/recommendations", json=body).status_code == 404
    told(client, *(entry(event_id=item, user_id="new", item_id=item, time=i) for i, item in enumerate(items)))
    alone = recommender.recommend_batch([RecommendRequest(None, tuple(items), 10)])[0]
    assert listed(client, "new") == [one.item_id for one in alone]


def test_feedback_on_items_that_the_catalog_lacks_is_kept_and_passed_over(
    client: TestClient, recommender: Recommender, store: FeedbackStore
) -> None:
    before = listed(client, "u7")
    told(client, entry(item_id="of another catalog"), entry(event_id="e2", user_id="new", item_id="of another catalog"))
    assert len(store.events()) == 2
    assert listed(client, "u7") == before
    with pytest.raises(UnknownUserError, match="'new'"):
        recommender.check(RecommendRequest("new", None, 5, recent=("of another catalog",)))


def test_a_history_that_is_sent_along_is_taken_as_it_is(client: TestClient) -> None:
    body = {"history": ["item é'0", "item é'4"], "k": 10}
    before = client.post("/v1/recommendations", json=body).json()["items"]
    told(client, entry(item_id=before[0]["item_id"]))
    assert client.post("/v1/recommendations", json=body).json()["items"] == before


@pytest.mark.parametrize(
    ("events", "field", "words"),
    [
        ([], "events", "at least 1 item"),
        ([entry(event_id=str(i)) for i in range(6)], "events", "at most 5 items"),
        ([entry(kind="impression")], "events.0.kind", "'dislike' or 'report'"),
        ([entry(), entry(event_id="")], "events.1.event_id", "at least 1 character"),
        ([entry(user_id="u" * 257)], "events.0.user_id", "at most 256"),
        ([entry(item_id="a\x00b")], "events.0.item_id", "match pattern"),
        ([entry(item_id=None)], "events.0.item_id", "valid string"),
        ([entry(list_id="l", position=-1)], "events.0.position", "greater than or equal to 0"),
        ([entry(list_id="l", position=2**31)], "events.0.position", "less than"),
        ([entry(time=-1)], "events.0.time", "greater than or equal to 0"),
        ([entry(propensity=0.5)], "events.0.propensity", "unknown field"),
        ([{"event_id": "e"}], "events.0.user_id", "required"),
    ],
)
def test_what_is_malformed_is_refused_and_nothing_of_its_batch_is_stored(
    client: TestClient, store: FeedbackStore, events: list[Any], field: str, words: str
) -> None:
    reply = client.post("/v1/feedback", json={"events": events})
    error = reply.json()["error"]
    assert (reply.status_code, error["field"]) == (422, field)
    assert words in error["message"]
    assert store.events() == []


def test_the_schema_states_the_limits(client: TestClient) -> None:
    schemas = client.get("/openapi.json").json()["components"]["schemas"]
    assert schemas["FeedbackBatch"]["properties"]["events"]["maxItems"] == 5
    entry = schemas["FeedbackEntry"]["properties"]
    position, time = entry["position"]["anyOf"][0], entry["time"]["anyOf"][0]
    assert (position["minimum"], position["exclusiveMaximum"], time["minimum"]) == (0, 2**31, 0)
    assert entry["list_id"]["anyOf"][0]["maxLength"] == entry["event_id"]["maxLength"] == 256


def test_a_time_that_overflows_is_refused(client: TestClient) -> None:
    body = b'{"events": [{"event_id": "e", "user_id": "u", "item_id": "i", "kind": "like", "time": 1e999}]}'
    reply = client.post("/v1/feedback", content=body, headers={"content-type": "application/json"})
    assert reply.status_code == 422


def test_a_store_that_fails_refuses_feedback_and_does_not_stop_lists(
    client: TestClient, store: FeedbackStore, caplog: pytest.LogCaptureFixture
) -> None:
    before = listed(client, "u7")
    with store._engine.begin() as connection:
        for table in ("feedback_events", "shown_lists"):
            connection.exec_driver_sql(f"DROP TABLE {table}")
    reply = client.post("/v1/feedback", json={"events": [entry()]})
    assert (reply.status_code, reply.headers["retry-after"]) == (503, "1")
    assert "send the batch again" in reply.json()["error"]["message"]
    assert listed(client, "u7") == before
    assert "is not logged" in caplog.text
    assert "without the user's feedback" in caplog.text
    assert "item é'3" not in caplog.text


def test_entries_that_wait_together_share_a_commit_and_each_learns_its_own(store: FeedbackStore) -> None:
    commits: list[int] = []
    write = store.write

    def counted(entries: Any) -> list[int]:
        commits.append(len(entries))
        return write(entries)

    async def send() -> list[int]:
        journal = Journal(store)
        batches = [[Event(f"e{i % 30}", "u", str(i), "like", None, None, float(i), 0.0)] for i in range(60)]
        return await asyncio.gather(*(journal.feedback(batch) for batch in batches))

    store.write = counted  # type: ignore[method-assign]
    assert asyncio.run(send()) == [1] * 30 + [0] * 30
    assert (sum(commits), len(commits) < 60) == (60, True)
    assert len(store.events()) == 30


def test_a_batch_whose_sender_gave_up_harms_no_other(store: FeedbackStore) -> None:
    async def send() -> int:
        journal = Journal(store)
        gone = asyncio.create_task(journal.feedback([Event("gone", "u", "a", "like", None, None, 1.0, 1.0)]))
        kept = asyncio.create_task(journal.feedback([Event("kept", "u", "b", "like", None, None, 1.0, 1.0)]))
        await asyncio.sleep(0)
        gone.cancel()
        return await kept

    assert asyncio.run(send()) == 1
    assert "kept" in {event.event_id for event in store.events()}


def test_a_failed_commit_is_told_to_everyone_in_it(tmp_path: Path) -> None:
    class Failing(FeedbackStore):
        def write(self, entries: Any) -> list[int]:
            raise OperationalError("INSERT", {}, OSError(28, "No space left on device"))

    async def send() -> list[Any]:
        journal = Journal(Failing(sqlite_url(tmp_path / "full.sqlite3")))
        batches = [[Event(f"e{i}", "u", "a", "like", None, None, math.pi, 4.0)] for i in range(3)]
        return await asyncio.gather(*(journal.feedback(batch) for batch in batches), return_exceptions=True)

    replies = asyncio.run(send())
    assert all(isinstance(reply, ApiError) and reply.status == 503 for reply in replies)
