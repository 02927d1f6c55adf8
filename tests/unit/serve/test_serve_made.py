"""Made items and their feedback: whose they are, what people did with them, and what follows for the library."""

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from genrec.config.content import LibrarySettings
from genrec.content.fidelity.redteam_pictures import draft_of, drawing
from genrec.content.library import Library, Reactions
from serve.made import judge_made
from serve.shown import ShownItem, ShownList
from serve.store import Event, FeedbackStore, Turn, sqlite_url
from tests.content_samples import passing_report
from tests.postgres import postgres_server

FIRST, SECOND = "asset:" + "1" * 20, "asset:" + "2" * 20


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[FeedbackStore]:
    if request.param == "sqlite":
        opened = FeedbackStore(sqlite_url(tmp_path / "feedback.sqlite3"))
        yield opened
        opened.close()
        return
    with postgres_server() as server:
        opened = FeedbackStore(server.url.replace("postgresql://", "postgresql+psycopg://", 1))
        yield opened
        opened.close()


def turn(number: int, made: str, user: str | None = None, session: str = "session-1") -> Turn:
    return Turn(session, f"i{number}", user, "draw it", "create", f"l{number}", (made,), float(number))


def event(number: int, item: str, kind: Any, user: str = "u1", list_id: str | None = None) -> Event:
    return Event(f"e{number}", user, item, kind, list_id, None, float(number), float(number))


def shown(list_id: str, *items: str) -> ShownList:
    places = tuple(
        ShownItem(
            item_id=item,
            position=place,
            propensity=1.0,
            score=-1.0,
            source="created" if item.startswith("asset:") else "generated-id",
        )
        for place, item in enumerate(items)
    )
    return ShownList(
        list_id=list_id,
        request_id=f"request-{list_id}",
        time=1.0,
        user_id="u1",
        history=None,
        k=len(items),
        bundle_version="b",
        sid_version="s",
        items=places,
    )


def test_what_was_made_belongs_to_its_user_and_session_until_it_is_rejected(store: FeedbackStore) -> None:
    store.write([turn(1, FIRST, user="u1"), turn(2, SECOND, user=None), turn(3, FIRST, user="u1", session="session-2")])
    assert store.made("u1", None) == (FIRST,)
    assert store.made(None, "session-1") == (SECOND, FIRST)
    assert store.made("u2", None) == store.made(None, None) == ()
    store.write([[event(1, FIRST, "like"), event(2, FIRST, "skip", user="u2"), event(3, "50", "skip")]])
    assert store.made("u1", None) == (FIRST,)  # somebody else's word does not count
    store.write([[event(4, FIRST, "skip")]])
    assert store.made("u1", None) == ()
    assert store.made(None, "session-1") == (SECOND,)


def test_reactions_count_lists_on_which_somebody_did_something(store: FeedbackStore) -> None:
    store.write([shown(f"l{n}", "50", FIRST) for n in range(6)])
    assert store.reactions() == {}
    before = store.newest()
    store.write([[event(n, "50", "skip", list_id=f"l{n}") for n in range(4)]])
    assert store.newest() > before
    assert store.reactions() == {FIRST: Reactions(4, 0)}
    likes = [event(10, FIRST, "like", list_id="l1"), event(11, FIRST, "click", list_id="l1")]
    store.write([[*likes, event(12, FIRST, "report", user="u7"), event(13, FIRST, "report", user="u7")]])
    assert store.reactions() == {FIRST: Reactions(4, 1, reports=1)}


class Judged:
    """The library as the fidelity deployment hands it verdicts."""

    def __init__(self, library: Library) -> None:
        self.library, self.rounds = library, 0

    async def judge(self, retired: Mapping[str, str], proved: Sequence[str]) -> None:
        self.rounds += 1
        for asset_id, reason in retired.items():
            self.library.retire(asset_id, reason)
        self.library.prove(proved)


def test_after_poor_feedback_an_asset_is_retired_and_after_good_its_trial_ends(tmp_path: Path) -> None:
    library, store = Library(tmp_path / "library"), FeedbackStore(sqlite_url(tmp_path / "feedback.sqlite3"))
    good, poor, reported = (
        library.admit(draft, passing_report(library.log, draft)).asset_id
        for draft in (draft_of(drawing(seed), title=f"drawing {seed}") for seed in range(3))
    )
    policy, content = LibrarySettings(retire_impressions=5, retire_floor=0.5), Judged(library)

    async def story() -> None:
        loop = asyncio.ensure_future(judge_made(store, content, policy, every_s=0.01))  # type: ignore[arg-type]
        await asyncio.sleep(0.1)
        store.write([shown(f"l{n}", good, poor, reported) for n in range(8)])
        store.write([[event(n, good, "like", list_id=f"l{n}") for n in range(8)]])
        store.write([[event(20, reported, "report", user="u9")]])
        while library.proved() != {good} or set(library.retired()) != {poor, reported}:
            await asyncio.sleep(0.02)
        rounds = content.rounds
        await asyncio.sleep(0.1)
        assert content.rounds == rounds, "nothing new was told"
        loop.cancel()

    asyncio.run(asyncio.wait_for(story(), 30))
    assert "reported" in library.retired()[reported]
    store.close()
