"""The routes around the real recommender, in process: replies, errors, the log, and the published schema."""

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from fastapi.testclient import TestClient

from genrec.config import ServeSettings
from genrec.recommender import Recommender, RecommendRequest
from serve.api import create_api
from serve.errors import ApiError, not_ready, overloaded, timed_out
from serve.journal import Journal
from serve.metrics import IngressMetrics
from serve.recommender import Answer, RecommenderLogic, Refusal
from serve.store import FeedbackStore, sqlite_url
from tests.serving import ITEMS, USERS, assembled_bundle

LIMITS = ServeSettings(max_k=20, max_history=8, max_exclude=4, max_body_bytes=2000)


class InProcess:
    """The recommender's logic without Ray between; ``failure`` stands for what Ray can do to a call."""

    def __init__(self, logic: RecommenderLogic | None, failure: ApiError | None = None) -> None:
        self.logic, self.failure = logic, failure

    def _checked(self) -> RecommenderLogic:
        if self.failure is not None:
            raise self.failure
        assert self.logic is not None
        return self.logic

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        logic = self._checked()
        return logic.check(request) or logic.answer([request])[0]

    async def explain(
        self, request: RecommendRequest, item_id: str, catalog: str | None = None
    ) -> dict[str, Any] | Refusal:
        return self._checked().explain(request, item_id)

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        return self._checked().item(item_id)

    async def find_items(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        return self._checked().find_items(query, limit)

    async def find_users(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        return self._checked().find_users(query, limit)

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        return self._checked().card()

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        recommender = self._checked().recommender
        return recommender.version, recommender.sid_version


@pytest.fixture(scope="module")
def logic(tmp_path_factory: pytest.TempPathFactory) -> RecommenderLogic:
    return RecommenderLogic(Recommender.load(assembled_bundle(tmp_path_factory.mktemp("bundle"))), LIMITS)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FeedbackStore]:
    store = FeedbackStore(sqlite_url(tmp_path / "feedback.sqlite3"))
    yield store
    store.close()


@pytest.fixture
def api(logic: RecommenderLogic, store: FeedbackStore) -> FastAPI:
    return create_api(LIMITS, InProcess(logic), Journal(store))


@pytest.fixture
def client(api: FastAPI) -> Iterator[TestClient]:
    with TestClient(api, raise_server_exceptions=False) as client:
        yield client


def test_a_kept_list_is_the_list(tmp_path: Path) -> None:
    whole = RecommenderLogic(Recommender.load(assembled_bundle(tmp_path, neighbours=True)), LIMITS)
    request = RecommendRequest("u1", None, 6)
    (answer,) = whole.answer([request])
    assert answer.items[0].evidence
    assert Answer.unpacked(answer.packed()) == answer


def failing(failure: ApiError, store: FeedbackStore) -> TestClient:
    return TestClient(create_api(LIMITS, InProcess(None, failure), Journal(store)))


def test_a_user_gets_what_the_recommender_gives(
    client: TestClient, logic: RecommenderLogic, store: FeedbackStore
) -> None:
    reply = client.post("/v1/recommendations", json={"user_id": "u7", "k": 6})
    assert reply.status_code == 200
    shown = reply.json()
    expected = logic.recommender.recommend(["u7"], 6)[0]
    assert [entry["item_id"] for entry in shown["items"]] == [entry.item_id for entry in expected]
    assert [entry["score"] for entry in shown["items"]] == [entry.score for entry in expected]
    assert shown["bundle_version"] == logic.recommender.version
    assert shown["sid_version"] == logic.recommender.sid_version
    (logged,) = store.lists()
    assert (logged.list_id, logged.request_id, logged.user_id) == (shown["list_id"], shown["request_id"], "u7")
    assert (logged.k, logged.bundle_version) == (6, shown["bundle_version"])
    assert [(item.item_id, item.position, item.score, item.propensity) for item in logged.items] == [
        (entry["item_id"], i, entry["score"], 1.0) for i, entry in enumerate(shown["items"])
    ]


def test_a_history_and_exclusions_are_heeded(client: TestClient) -> None:
    history = [f"item é'{i}" for i in (0, 4, 8)]
    first = client.post("/v1/recommendations", json={"history": history, "k": 5}).json()["items"]
    best = first[0]["item_id"]
    second = client.post("/v1/recommendations", json={"history": history, "k": 5, "exclude": [best]}).json()["items"]
    listed = [entry["item_id"] for entry in second]
    assert best not in listed
    assert not set(history) & set(listed)
    assert listed[:4] == [entry["item_id"] for entry in first[1:]]


def listed(reply: Any) -> list[str]:
    assert reply.status_code == 200, reply.text
    return [entry["item_id"] for entry in reply.json()["items"]]


def test_filters_leave_what_they_say_and_nothing_of_the_history(client: TestClient, logic: RecommenderLogic) -> None:
    body = {"user_id": "u7", "k": 20}
    plain = listed(client.post("/v1/recommendations", json=body))
    seas = listed(client.post("/v1/recommendations", json={**body, "filters": {"title": "VOYAGE sea"}}))
    titles = logic.recommender.bundle.catalog.titles
    index = logic.recommender.bundle.catalog.index
    assert seas
    assert all("Sea Voyage" in titles[index[item]] for item in seas)
    order = {item: place for place, item in enumerate(listed(client.post("/v1/recommendations", json=body)))}
    kept = [item for item in seas if item in order]
    assert kept == sorted(kept, key=lambda item: order[item]), "a filter changes which, not in what order"
    allowed = plain[1:4]
    filters = {"items": [*allowed, logic.recommender.bundle.catalog.item_ids[7]]}
    only = listed(client.post("/v1/recommendations", json={**body, "filters": filters}))
    assert set(allowed) <= set(only) <= set(filters["items"])
    none = client.post("/v1/recommendations", json={**body, "filters": {"categories": ["no such genre"]}})
    assert listed(none) == []
    unknown = client.post("/v1/recommendations", json={**body, "filters": {"items": ["nothing"]}})
    assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "filters.items")


def test_a_varied_list_logs_the_probability_of_each_draw(client: TestClient, store: FeedbackStore) -> None:
    body = {"user_id": "u7", "k": 6, "diversity": 0.7}
    replies = [client.post("/v1/recommendations", json=body).json() for _ in range(4)]
    assert len({tuple(entry["item_id"] for entry in reply["items"]) for reply in replies}) > 1
    for logged, reply in zip(sorted(store.lists(), key=lambda one: one.time), replies, strict=True):
        told = [entry["evidence"]["propensity"] for entry in reply["items"]]
        assert [item.propensity for item in logged.items] == told
        assert all(0 < one <= 1 for one in told)
        assert min(told) < 1
    plain = client.post("/v1/recommendations", json={**body, "diversity": 0}).json()
    assert "propensity" not in plain["items"][0]["evidence"]


def test_every_entry_says_why(client: TestClient) -> None:
    history = [f"item é'{i}" for i in (0, 4, 8)]
    for entry in client.post("/v1/recommendations", json={"history": history, "k": 5}).json()["items"]:
        assert entry["evidence"]["reason"]
        assert {one["item_id"] for one in entry["evidence"]["because"]} <= set(history)


def test_an_explanation_is_measured_by_leaving_out(client: TestClient, logic: RecommenderLogic) -> None:
    history = [f"item é'{i}" for i in (0, 4, 8)]
    told = client.post("/v1/explanations", json={"history": history, "item_id": "item é'12"}).json()
    longer = [entry["influence"] for entry in told["history"]]
    assert longer == sorted(longer, reverse=True)
    without = client.post("/v1/explanations", json={"history": history[1:], "item_id": "item é'12"}).json()
    first = next(entry for entry in told["history"] if entry["item_id"] == history[0])
    assert first["influence"] == pytest.approx(told["score"] - without["score"], abs=1e-4)
    assert told["sources"] == {"generator": 1.0}
    alone = client.post("/v1/explanations", json={"history": history[:1], "item_id": "item é'12"}).json()
    assert [entry["influence"] for entry in alone["history"]] == [None]
    unknown = client.post("/v1/explanations", json={"history": history, "item_id": "nothing"})
    assert (unknown.status_code, unknown.json()["error"]["field"]) == (404, "item_id")


def test_items_and_users_are_found(client: TestClient) -> None:
    found = client.get("/v1/items", params={"query": "COMEDY robot", "limit": 3}).json()["items"]
    assert len(found) == 3
    assert all(one["title"].startswith("Robot Comedy") for one in found)
    assert client.get("/v1/items", params={"query": "nothing of the kind"}).json() == {"items": []}
    users = client.get("/v1/users", params={"query": "u12", "limit": 4}).json()["users"]
    assert [one["user_id"] for one in users] == ["u12", "u120", "u121", "u122"]
    assert users[0]["history"] >= 6
    assert len(users[0]["latest"]) == 3
    assert len(client.get("/v1/users").json()["users"]) == 20
    for wrong in ({"limit": 0}, {"limit": 10**6}, {"query": "x" * 201}):
        assert client.get("/v1/items", params=wrong).status_code == 422


def test_one_client_may_hold_so_many_requests_and_no_more(logic: RecommenderLogic, store: FeedbackStore) -> None:
    began = asyncio.Event()

    class Slow(InProcess):
        async def card(self, catalog: str | None = None) -> dict[str, Any]:
            began.set()
            await asyncio.sleep(0.2)
            return self._checked().card()

    limits = LIMITS.model_copy(update={"max_ongoing_of_client": 1})
    api = create_api(limits, Slow(logic), Journal(store))

    async def together() -> tuple[httpx.Response, httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://host") as client:
            first = asyncio.ensure_future(client.get("/v1/model"))
            await began.wait()
            second = await client.get("/v1/model")
            other = await client.get("/v1/items/none", headers={"Authorization": "Bearer another"})
            return await first, second, other

    first, second, other = asyncio.run(together())
    assert (first.status_code, second.status_code, other.status_code) == (200, 429, 404)
    assert int(second.headers["retry-after"]) >= 1
    assert second.json()["error"]["code"] == "too_many_requests"


def test_beyond_the_room_for_lists_requests_are_refused_at_the_door_and_counted(
    logic: RecommenderLogic, store: FeedbackStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    began, go_on, counted = asyncio.Event(), asyncio.Event(), Counter[int]()
    monkeypatch.setattr(IngressMetrics, "refused", lambda _, status: counted.update([status]))

    class Slow(InProcess):
        async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
            began.set()
            await go_on.wait()
            return await super().recommend(request, catalog)

    limits = LIMITS.model_copy(update={"max_ongoing_requests": 1, "max_queued_requests": 1})
    api = create_api(limits, Slow(logic), Journal(store))

    async def together() -> tuple[list[httpx.Response], httpx.Response, httpx.Response]:
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=api), base_url="http://host") as client:
            held = [asyncio.ensure_future(client.post("/v1/recommendations", json={"user_id": "u1"})) for _ in "ab"]
            await began.wait()
            await asyncio.sleep(0.05)
            refused = await client.post("/v1/recommendations", content=b"no JSON: it is not even read")
            other = await client.get("/v1/items")
            go_on.set()
            return await asyncio.gather(*held), refused, other

    held, refused, other = asyncio.run(together())
    assert [reply.status_code for reply in held] == [200, 200]
    assert (refused.status_code, refused.json()["error"]["code"]) == (503, "overloaded")
    assert int(refused.headers["retry-after"]) >= 1
    assert other.status_code == 200
    assert counted == {503: 1}


def test_requests_have_different_ids(client: TestClient) -> None:
    ids = {client.post("/v1/recommendations", json={"user_id": "u1"}).json()["request_id"] for _ in range(5)}
    assert len(ids) == 5


def test_the_request_id_is_the_one_in_the_header_if_it_is_a_plain_one(client: TestClient) -> None:
    def sent(name: str) -> str:
        headers = {"X-Request-ID": name}
        return client.post("/v1/recommendations", json={"user_id": "u1"}, headers=headers).json()["request_id"]

    assert sent("0123456789abcdef") == "0123456789abcdef"
    assert sent('x"} forged') != 'x"} forged'


def test_an_item_is_found_by_an_id_with_any_letters(client: TestClient) -> None:
    reply = client.get("/v1/items/item é'3")
    assert reply.json()["title"] == "Robot Comedy Part 3"
    assert len(reply.json()["semantic_id"]) == 2


@pytest.mark.parametrize(
    ("body", "code", "field", "words"),
    [
        ({"user_id": "nobody"}, "unknown_user", "user_id", "'nobody'"),
        ({"history": ["item é'1", "nothing"]}, "unknown_item", "history", "'nothing'"),
        ({"user_id": "u1", "exclude": ["nothing"]}, "unknown_item", "exclude", "'nothing'"),
    ],
)
def test_what_is_unknown_is_named(client: TestClient, body: Any, code: str, field: str, words: str) -> None:
    reply = client.post("/v1/recommendations", json=body)
    error = reply.json()["error"]
    assert (reply.status_code, error["code"], error["field"]) == (404, code, field)
    assert words in error["message"]


def test_an_unknown_item_and_an_unknown_path_are_404(client: TestClient) -> None:
    assert client.get("/v1/items/nothing").json()["error"]["code"] == "unknown_item"
    assert client.get("/v1/nothing").json()["error"]["code"] == "not_found"
    wrong = client.get("/v1/recommendations")
    assert (wrong.status_code, wrong.headers["allow"]) == (405, "POST")


@pytest.mark.parametrize(
    ("content", "kind", "status"),
    [
        (b'{"user_id": "u1", "k": NaN}', "application/json", 400),
        (b"[" * 1500, "application/json", 400),
        (b'{"user_id": "\xff"}', "application/json", 400),
        (b'{"user_id": "\\ud800"}', "application/json", 422),
        (b'{"user_id": "u1"}', "text/plain", 415),
        (b'{"user_id": "' + b"u" * 2000 + b'"}', "application/json", 413),
        (b'{"user_id": "u1", "k": 1' + b"0" * 500 + b"}", "application/json", 422),
        (b'{"user_id": "' + b"'; DROP TABLE users;--" + b'"}', "application/json", 404),
    ],
)
def test_malformed_bodies_get_a_4xx_in_the_one_shape(
    client: TestClient, content: bytes, kind: str, status: int
) -> None:
    reply = client.post("/v1/recommendations", content=content, headers={"content-type": kind})
    assert reply.status_code == status
    assert set(reply.json()["error"]) == {"code", "field", "message"}


@pytest.mark.parametrize(
    ("failure", "status", "retry"), [(overloaded(), 503, "1"), (not_ready(), 503, "1"), (timed_out(2.0), 504, None)]
)
def test_failures_behind_the_ingress_are_told(
    store: FeedbackStore, failure: ApiError, status: int, retry: str | None
) -> None:
    reply = failing(failure, store).post("/v1/recommendations", json={"user_id": "u1"})
    assert (reply.status_code, reply.headers.get("retry-after")) == (status, retry)
    assert reply.json()["error"]["code"] == failure.code


def test_health_is_ready_only_once_a_replica_answers(logic: RecommenderLogic, store: FeedbackStore) -> None:
    backend = InProcess(logic, timed_out(2.0))
    client = TestClient(create_api(LIMITS, backend, Journal(store)))
    assert client.get("/v1/health").status_code == 503
    assert client.get("/v1/health").json()["error"]["code"] == "not_ready"
    backend.failure = overloaded()
    assert client.get("/v1/health").status_code == 503, "a queue that is full before anything answered is no proof"
    backend.failure = None
    assert client.get("/v1/health").json()["status"] == "ready"
    backend.failure = overloaded()
    assert client.get("/v1/health").json()["status"] == "busy"


def test_a_crash_shows_no_trace(store: FeedbackStore) -> None:
    class Broken(InProcess):
        async def card(self, catalog: str | None = None) -> dict[str, Any]:
            raise KeyError("secret")

    client = TestClient(create_api(LIMITS, Broken(None), Journal(store)), raise_server_exceptions=False)
    reply = client.get("/v1/model")
    assert reply.status_code == 500
    assert reply.json()["error"]["code"] == "internal"
    assert "secret" not in reply.text
    assert "Traceback" not in reply.text


def test_the_model_card_tells_sizes_and_metrics(client: TestClient) -> None:
    card = client.get("/v1/model").json()
    assert (card["items"], card["users"], card["levels"]) == (ITEMS, USERS, [8, 8])
    assert card["card"]["metrics"][0]["metric"] == "hit@10"


def test_the_schema_and_the_docs_page_load_nothing_from_outside(client: TestClient) -> None:
    schema = client.get("/openapi.json").json()
    operations = {(method, path) for path, methods in schema["paths"].items() for method in methods}
    assert operations == {
        ("post", "/v1/recommendations"),
        ("post", "/v1/explanations"),
        ("post", "/v1/feedback"),
        ("get", "/v1/items"),
        ("get", "/v1/users"),
        ("get", "/v1/items/{item_id}"),
        ("get", "/v1/model"),
        ("get", "/v1/health"),
    }
    page = client.get("/docs")
    assert page.status_code == 200
    assert "/v1/recommendations" in page.text
    assert "&quot;events&quot;" in page.text
    assert "http://" not in page.text
    assert "https://" not in page.text
