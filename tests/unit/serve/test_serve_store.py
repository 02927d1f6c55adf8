"""The feedback store on SQLite and on a real PostgreSQL server: each event once, and histories out of events."""

import dataclasses
import itertools
import sqlite3
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy.exc import SQLAlchemyError

from genrec.config import Settings, load_settings
from genrec.errors import SettingsError
from serve.shown import ShownItem, ShownList
from serve.store import RECENT_ITEMS, SQLITE_FILE, Event, FeedbackStore, StoreError, sqlite_url, store_url
from tests.postgres import PostgresServer, postgres_server

_users = itertools.count()


@pytest.fixture(scope="module")
def server() -> Iterator[PostgresServer]:
    with postgres_server() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeedbackStore]:
    url = sqlite_url(tmp_path / "made" / "feedback.sqlite3")
    if request.param == "postgresql":
        server = request.getfixturevalue("server")
        url = store_url(Settings.model_validate({"serve": {"store_url": server.url}}))
    store = FeedbackStore(url)
    yield store
    store.close()


@pytest.fixture
def user() -> str:
    """Nobody else's: the tests share one PostgreSQL database."""
    return f"user é'{next(_users)}"


def did(user: str, item: str, kind: str = "like", time: float = 1.0, event_id: str | None = None) -> Event:
    return Event(event_id or f"{user}:{item}:{kind}:{time}", user, item, kind, None, None, time, 100.0)  # type: ignore[arg-type]


def shown(list_id: str, request_id: str, **changes: object) -> ShownList:
    items = tuple(
        ShownItem(item_id=name, position=i, propensity=p, score=-0.1 * i, source="generated-id")
        for i, (name, p) in enumerate((("50\u2028\n", 1.0), ("172", 0.25), ("é", None)))
    )
    fields = {
        "list_id": list_id,
        "request_id": request_id,
        "time": 1.5,
        "user_id": "196",
        "history": None,
        "recent": ("7",),
        "k": 3,
        "bundle_version": "b",
        "sid_version": "s",
        "items": items,
    }
    return ShownList(**{**fields, **changes})


def test_events_are_read_back_as_they_were_stored(store: FeedbackStore, user: str) -> None:
    events = [
        Event(f"{user}-1", user, "item'; DROP TABLE feedback_events;--", "skip", "list", 3, 1.25, 2.5),
        Event(f"{user}-2", user, "\u2028é", "click", None, None, 0.0, 2.5),
    ]
    assert store.write([events]) == [2]
    assert [one for one in store.events() if one.user_id == user] == events


def test_an_event_id_is_stored_once_within_a_batch_a_transaction_and_over_time(store: FeedbackStore, user: str) -> None:
    first, other = did(user, "a", event_id=f"{user}-1"), did(user, "b", event_id=f"{user}-2")
    changed = dataclasses.replace(first, item_id="c")
    assert store.write([[first, changed], [changed, other]]) == [1, 1]
    assert store.write([[other, first], []]) == [0, 0]
    assert [one for one in store.events() if one.user_id == user] == [first, other]


def test_writers_at_the_same_time_store_each_event_once(store: FeedbackStore, user: str) -> None:
    new: list[int] = []

    def send() -> None:
        new.extend(store.write([[did(user, str(i), event_id=f"{user}-{i}")]])[0] for i in range(40))

    writers = [threading.Thread(target=send) for _ in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert (len(new), sum(new)) == (160, 40)


def test_what_was_liked_and_consumed_is_recent_by_when_it_was_done(store: FeedbackStore, user: str) -> None:
    done = [
        did(user, "late", "consume", 9.0),
        did(user, "early", "like", 2.0),
        did(user, "skipped", "skip", 3.0),
        did(user, "clicked", "click", 3.0),
        did(user, "twice", "like", 1.0),
        did(user, "twice", "consume", 5.0),
        did(user, "tie", "consume", 5.0),
    ]
    store.write([done, [did(f"not {user}", "other's", "like", 4.0)]])
    assert store.recent(user) == ("early", "twice", "tie", "late")
    assert store.recent("nobody") == ()


def test_recent_items_are_bounded_and_the_newest_stay(store: FeedbackStore, user: str) -> None:
    store.write([[did(user, str(i), "like", float(i)) for i in range(RECENT_ITEMS + 5)]])
    assert store.recent(user) == tuple(str(i) for i in range(5, RECENT_ITEMS + 5))


def test_lists_are_read_back_with_positions_scores_and_propensities(store: FeedbackStore, user: str) -> None:
    lists = [
        shown(f"{user}-1", f"request {user}"),
        shown(f"{user}-2", f"request {user}", user_id=None, history=("a", "b"), recent=(), time=2.0),
        shown(f"{user}-3", f"another {user}", items=(), time=3.0),
    ]
    assert store.write(lists) == [1, 1, 1]
    assert store.lists(f"request {user}") == lists[:2], "a client may send a request id twice"
    assert [one for one in store.lists() if one.list_id.startswith(f"{user}-")] == lists


def test_a_transaction_that_fails_stores_nothing(store: FeedbackStore, user: str) -> None:
    store.write([shown(user, user)])
    with pytest.raises(SQLAlchemyError) as caught:
        store.write([[did(user, "a")], shown(user, user)])
    assert store.recent(user) == ()
    assert "196" not in str(caught.value), "parameters are what users did, not for logs"


def test_impressions_are_contract_6_where_the_propensity_is_defined() -> None:
    events = shown("list", "r1").impressions()
    assert [(event.position, event.propensity) for event in events] == [(0, 1.0), (1, 0.25)]
    assert {event.shown for event in events} == {("50\u2028\n", "172", "é")}
    assert {event.event_id for event in events} == {"list:0", "list:1"}
    assert {(event.action, event.request_id) for event in events} == {("impression", "r1")}


def test_the_embedded_store_is_in_the_run_in_wal_mode_and_its_owners_alone(tmp_path: Path) -> None:
    settings = Settings.model_validate({"run": {"directory": str(tmp_path / "runs"), "name": "r"}})
    path = tmp_path / "runs" / "r" / SQLITE_FILE
    store = FeedbackStore(store_url(settings))
    store.write([[did("u", "a")]])
    with sqlite3.connect(path) as plain:
        assert plain.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert plain.execute("SELECT item_id FROM feedback_events").fetchall() == [("a",)]
    assert {stat.S_IMODE(one.stat().st_mode) for one in path.parent.iterdir()} == {0o600}
    store.close()
    assert FeedbackStore(store_url(settings)).recent("u") == ("a",)


def test_a_store_that_cannot_be_opened_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match=r"file/feedback\.sqlite3: the feedback store cannot be opened"):
        FeedbackStore(sqlite_url(tmp_path / "file" / "feedback.sqlite3"))
    (tmp_path / "no.sqlite3").write_bytes(b"no database, but long enough to be looked at" * 50)
    with pytest.raises(StoreError, match="not a database"):
        FeedbackStore(sqlite_url(tmp_path / "no.sqlite3"))
    with pytest.raises(StoreError, match=r"serve\.store_url: .* cannot be opened"):
        FeedbackStore(f"postgresql+psycopg://nobody@/none?host={tmp_path}")


def test_a_postgresql_server_that_was_killed_and_started_again_is_found_again() -> None:
    with postgres_server() as server:
        store = FeedbackStore(store_url(Settings.model_validate({"serve": {"store_url": server.url}})))
        store.write([[did("u", "a")]])
        server.end(9)
        with pytest.raises(SQLAlchemyError):
            store.write([[did("u", "b")]])
        server.start()
        assert store.write([[did("u", "a"), did("u", "c", time=2.0)]]) == [1]
        assert store.recent("u") == ("a", "c")
        store.close()


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("mysql://u@h/d", "scheme 'mysql'"),
        ("feedback.db", "scheme ''"),
        ("postgresql://u:secret@h/d", "PGPASSWORD"),
        ("postgresql://u@h/d?password=secret", "PGPASSWORD"),
        ("postgresql://u@[h/d", "no URL"),
    ],
)
def test_a_store_url_that_is_no_postgresql_or_holds_a_password_is_refused(url: str, words: str) -> None:
    with pytest.raises(SettingsError, match=rf"^serve\.store_url: .*{words}") as caught:
        load_settings(overrides=[f"serve.store_url={url}"])
    assert "secret" not in str(caught.value)
