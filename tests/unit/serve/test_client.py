"""The Python client against the real API over HTTP; retries and broken replies against a scripted transport."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from genrec.config import ServeSettings
from genrec.recommender import Recommender
from serve.api import create_api
from serve.client import Client
from serve.client_errors import (
    BrokenError,
    BusyError,
    NotFoundError,
    RefusedError,
    TimedOutError,
    UnauthorizedError,
    UnreachableError,
)
from serve.client_events import Decided, Done, ItemTold, Progress
from serve.journal import Journal
from serve.keys import load_digests
from serve.recommender import RecommenderLogic
from serve.store import FeedbackStore, sqlite_url
from tests.live_api import DrawingContent, LogicBackend, drawing, live
from tests.serving import ITEMS, USERS, assembled_bundle

KEY = "a-key-of-thirty-two-characters-x"
LIMITS = ServeSettings(max_k=20, max_history=8)
MATCHES = ("item é'3", "item é'5")


@pytest.fixture(scope="module")
def content() -> DrawingContent:
    return DrawingContent(MATCHES)


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FeedbackStore]:
    store = FeedbackStore(sqlite_url(tmp_path_factory.mktemp("store") / "feedback.sqlite3"))
    yield store
    store.close()


@pytest.fixture(scope="module")
def logic(tmp_path_factory: pytest.TempPathFactory) -> RecommenderLogic:
    return RecommenderLogic(Recommender.load(assembled_bundle(tmp_path_factory.mktemp("bundle"))), LIMITS)


@pytest.fixture(scope="module")
def url(logic: RecommenderLogic, store: FeedbackStore, content: DrawingContent) -> Iterator[str]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CLIENT_TEST_KEY", KEY)
        keys = load_digests(("env:CLIENT_TEST_KEY",))
    with live(create_api(LIMITS, LogicBackend(logic), Journal(store), keys, content)) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, KEY) as client:
        yield client


def test_every_route_answers_with_its_type(client: Client, logic: RecommenderLogic) -> None:
    assert client.health().bundle_version == logic.recommender.version
    assert client.model().items == ITEMS
    shown = client.recommend(user_id="u7", k=4, exclude=[MATCHES[0]], filters={"title": "part"}, diversity=0.5)
    assert len(shown.items) == 4
    assert client.recommend(history=MATCHES, k=3).items[0].evidence["semantic_id"]
    told = client.explain(shown.items[0].item_id, user_id="u7")
    assert (told.item_id, told.title) == (shown.items[0].item_id, shown.items[0].title)
    assert client.item(MATCHES[0]).title == "Robot Comedy Part 3"
    assert [found.item_id for found in client.items("robot part 3", limit=1)] == [MATCHES[0]]
    assert len(client.users(limit=100)) == min(100, USERS)


def test_feedback_is_stored_once_however_often_it_is_sent(client: Client, store: FeedbackStore) -> None:
    shown = client.recommend(user_id="u9", k=5)
    events = [client.event("u9", shown.items[2].item_id, "like", shown=shown), client.event("u9", MATCHES[0], "skip")]
    assert (events[0].list_id, events[0].position, events[1].list_id) == (shown.list_id, 2, None)
    replies = [client.feedback(events) for _ in range(2)]
    assert [(reply.stored, reply.duplicates) for reply in replies] == [(2, 0), (0, 2)]
    assert store.recent("u9") == (shown.items[2].item_id,)
    assert shown.items[2].item_id not in [item.item_id for item in client.recommend(user_id="u9").items]


def test_an_instruction_is_told_as_it_happens(client: Client) -> None:
    events = list(client.instruct_events("make a quiet hill", user_id="u1", k=3))
    kinds = [type(event) for event in events]
    assert kinds.index(Decided) < kinds.index(ItemTold)
    assert kinds.count(Done) == 1
    assert kinds[-1] is Done
    told = [event for event in events if isinstance(event, Progress)]
    assert {"reading", "creating"} <= {event.what for event in told}
    assert all(0 <= event.share <= 1 for event in told)
    reply = events[-1].reply
    assert [event.item for event in events if isinstance(event, ItemTold)] == reply.items
    made, *found = reply.items
    assert (made.source, len(found)) == ("created", 2)
    file = client.media(made.item_id)
    assert (file.data[:4], file.media_type) == (b"\x89PNG", "image/png")
    assert client.provenance(made.item_id)["prompt"] == "make a quiet hill"


def test_a_dialogue_goes_on_and_carries_a_picture(client: Client, content: DrawingContent, tmp_path: Path) -> None:
    asked = client.instruct("hm", user_id="u2")
    assert (asked.decision.action, asked.decision.question) == ("clarify", "What should it be about?")
    picture = tmp_path / "hill.png"
    picture.write_bytes(drawing(3))
    answered = client.instruct("like this", picture=picture, session_id=asked.session_id, user_id="u2")
    assert answered.session_id == asked.session_id
    assert [item.item_id for item in answered.items[:2]] != []
    assert content.calls[-1].turns == ("hm",)
    assert content.calls[-1].picture is not None
    assert content.calls[-1].picture.size == (64, 64)


def test_a_draft_that_fails_its_checks_is_not_among_the_items(client: Client) -> None:
    reply = client.instruct("make something forbidden", user_id="u1")
    assert not [item for item in reply.items if item.source == "created"]
    assert [verdict["check"] for verdict in reply.refused[0]["verdicts"] if not verdict["passed"]] == ["legality"]


def test_mistakes_are_errors_of_their_kind(client: Client, url: str) -> None:
    with pytest.raises(NotFoundError, match="nobody") as unknown:
        client.recommend(user_id="nobody")
    assert (unknown.value.status, unknown.value.code, unknown.value.field) == (404, "unknown_user", "user_id")
    with pytest.raises(RefusedError) as refused:
        client.recommend(user_id="u1", k=1000)
    assert (refused.value.status, refused.value.field) == (422, "k")
    with pytest.raises(NotFoundError):
        client.media(f"asset:{0:032x}")
    with pytest.raises(RefusedError, match="picture"):
        list(client.instruct_events("this", picture=b"no picture"))
    with pytest.raises(NotFoundError) as streamed:
        list(client.instruct_events("something", user_id="nobody"))
    assert streamed.value.code == "unknown_user"
    with Client(url) as stranger, pytest.raises(UnauthorizedError):
        stranger.model()
    with Client("http://127.0.0.1:9") as nowhere, pytest.raises(UnreachableError):
        nowhere.health()


def scripted(*answers: httpx.Response | Exception) -> tuple[Callable[[httpx.Request], httpx.Response], list[str]]:
    """A transport that gives these answers in turn, and the bodies that it was sent."""
    left, seen = list(answers), list[str]()

    def answer(request: httpx.Request) -> httpx.Response:
        seen.append(request.read().decode())
        given = left.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    return answer, seen


def busy(seconds: int | None = 0) -> httpx.Response:
    headers = {} if seconds is None else {"Retry-After": str(seconds)}
    return httpx.Response(
        503, json={"error": {"code": "overloaded", "field": None, "message": "full"}}, headers=headers
    )


STORED = httpx.Response(200, json={"stored": 1, "duplicates": 0})
BROKEN = httpx.ReadError("connection reset")
DIED = httpx.Response(500, text="Internal Server Error")
OURS = httpx.Response(500, json={"error": {"code": "internal", "field": None, "message": "a fault"}})


def client_of(answer: Callable[[httpx.Request], httpx.Response], retries: int = 1) -> Client:
    return Client("http://service", retries=retries, transport=httpx.MockTransport(answer))


@pytest.mark.parametrize("first", [busy(), BROKEN, httpx.ConnectError("refused"), DIED])
def test_feedback_is_sent_once_more_with_the_same_ids(first: httpx.Response | Exception) -> None:
    answer, seen = scripted(first, STORED)
    client = client_of(answer)
    assert client.feedback([client.event("u1", "i1", "like")]).stored == 1
    assert seen[0] == seen[1]
    assert json.loads(seen[0])["events"][0]["event_id"]


@pytest.mark.parametrize(
    ("answers", "retries", "kind"),
    [
        ((busy(), busy()), 1, BusyError),
        ((busy(),), 0, BusyError),
        ((busy(None),), 1, BusyError),
        ((busy(3600),), 1, BusyError),
        ((httpx.ReadTimeout("slow"),), 1, TimedOutError),
        ((OURS,), 1, BrokenError),
        ((DIED, DIED), 1, BrokenError),
        ((httpx.Response(200, text="{}"),), 1, BrokenError),
    ],
)
def test_what_is_not_sent_again(
    answers: tuple[httpx.Response | Exception, ...], retries: int, kind: type[Exception]
) -> None:
    answer, seen = scripted(*answers)
    with pytest.raises(kind):
        client_of(answer, retries).model()
    assert len(seen) == len(answers)


def test_an_instruction_that_may_have_begun_is_not_sent_again() -> None:
    answer, seen = scripted(BROKEN)
    with pytest.raises(UnreachableError):
        client_of(answer).instruct("make a hill")
    assert len(seen) == 1
    answer, seen = scripted(busy(), httpx.ConnectError("refused"))
    with pytest.raises(UnreachableError):
        client_of(answer).instruct("make a hill")
    assert len(seen) == 2


@pytest.mark.parametrize(
    ("stream", "kind"),
    [
        ('event: progress\ndata: {"share": 0.5, "what": "creating"}\n\n', UnreachableError),
        ('event: error\ndata: {"error": {"code": "timeout", "field": null, "message": "late"}}\n\n', TimedOutError),
        ("event: decision\ndata: {}\n\n", BrokenError),
        ("event: error\ndata: nothing\n\n", BrokenError),
    ],
)
def test_a_stream_that_ends_badly_is_an_error(stream: str, kind: type[Exception]) -> None:
    answer, _ = scripted(httpx.Response(200, text=stream, headers={"content-type": "text/event-stream"}))
    with pytest.raises(kind):
        list(client_of(answer).instruct_events("make a hill"))
