"""The feedback store: what users did and which lists they were shown, in SQLite or PostgreSQL.

Without ``serve.store_url`` it is a SQLite file in the run's folder, in WAL mode and flushed at every commit, so
that what was acknowledged survives the death of the process and of the machine. A PostgreSQL URL takes its
place where replicas run on several machines. Statements are SQLAlchemy's and the same for both.

An event is known by its id alone: what comes again under the same id is not stored again.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from sqlalchemy import (
    JSON,
    BigInteger,
    Column,
    Double,
    Engine,
    Index,
    Integer,
    MetaData,
    String,
    Table,
    create_engine,
    event,
    func,
    make_url,
    or_,
    select,
    text,
)
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.engine import Connection
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.schema import CreateIndex, CreateTable

from genrec.config import Settings
from genrec.content.library.exploration import Reactions
from genrec.errors import GenrecError
from serve.process import run_directory
from serve.shown import ShownItem, ShownList

Kind = Literal["like", "skip", "click", "consume", "dislike", "report"]
TAKEN: tuple[Kind, ...] = ("like", "consume")
"""Kinds that make an item part of the user's history."""

REJECTING: tuple[Kind, ...] = ("skip", "dislike")
LIKING: tuple[Kind, ...] = ("like", "click", "consume")
REPORTING: Kind = "report"
MADE_OF_USER = 20
"""The newest turns of a user or session that are looked through for what was made."""
MAKING = ("create", "edit")
"""Decisions of the instructor by which something is made."""

SESSION_TURNS, SESSION_EVENTS = 20, 50
"""The newest turns of a session, and events on its list, that the instructor is told of."""

RECENT_ITEMS = 1000
"""Most items by which feedback extends a history; a model sees its newest `data.max_history` of them."""

STORE_TIMEOUT_S = 5.0
SQLITE_FILE = Path("feedback") / "feedback.sqlite3"

_SEQUENCE = BigInteger().with_variant(Integer, "sqlite")  # SQLite counts up only where the key is INTEGER
_TABLES = MetaData()
_OF_MADE, _SHOWN_MADE = text("substr(item_id, 1, 6) = 'asset:'"), text("source IN ('created', 'edited')")
"""Rows about made items: few among many, so they have indices of their own, used where these very words stand."""
_EVENTS = Table(
    "feedback_events",
    _TABLES,
    Column("sequence", _SEQUENCE, primary_key=True, comment="order of arrival"),
    Column("event_id", String, nullable=False, unique=True),
    Column("user_id", String, nullable=False),
    Column("item_id", String, nullable=False),
    Column("kind", String, nullable=False),
    Column("list_id", String),
    Column("position", Integer),
    Column("time", Double, nullable=False),
    Column("received", Double, nullable=False),
    Index("feedback_events_of_user", "user_id", "kind", "item_id", "time"),
    Index("feedback_events_of_list", "list_id"),
    Index("feedback_events_of_made", "item_id", sqlite_where=_OF_MADE, postgresql_where=_OF_MADE),
)
_LISTS = Table(
    "shown_lists",
    _TABLES,
    Column("list_id", String, primary_key=True),
    Column("request_id", String, nullable=False, index=True),
    Column("time", Double, nullable=False),
    Column("user_id", String),
    Column("history", JSON(none_as_null=True)),
    Column("recent", JSON, nullable=False),
    Column("k", Integer, nullable=False),
    Column("bundle_version", String, nullable=False),
    Column("sid_version", String, nullable=False),
)
_ITEMS = Table(
    "shown_items",
    _TABLES,
    Column("list_id", String, primary_key=True),
    Column("position", Integer, primary_key=True, autoincrement=False),
    Column("item_id", String, nullable=False),
    Column("propensity", Double),
    Column("score", Double, nullable=False),
    Column("source", String, nullable=False),
    Index("shown_items_made", "item_id", "list_id", sqlite_where=_SHOWN_MADE, postgresql_where=_SHOWN_MADE),
)


_TURNS = Table(
    "session_turns",
    _TABLES,
    Column("sequence", _SEQUENCE, primary_key=True, comment="order of arrival"),
    Column("session_id", String, nullable=False),
    Column("instruction_id", String, nullable=False, unique=True),
    Column("user_id", String),
    Column("text", String, nullable=False),
    Column("action", String, nullable=False),
    Column("list_id", String),
    Column("made", JSON, nullable=False, comment="ids of the assets that came of it"),
    Column("time", Double, nullable=False),
    Index("session_turns_of_session", "session_id", "sequence"),
    Index("session_turns_of_user", "user_id", "sequence"),
)


class StoreError(GenrecError):
    """The feedback store cannot be opened."""


@dataclass(frozen=True)
class Event:
    """What a user did with an item.

    Attributes:
        event_id: chosen by the client; the same id is the same event.
        user_id: raw id; of any user, known to a bundle or not.
        item_id: raw id of the item.
        kind: what was done.
        list_id: the list it was done on; None for none.
        position: 0-based place in that list.
        time: Unix seconds, when it was done.
        received: Unix seconds, when it arrived.
    """

    event_id: str
    user_id: str
    item_id: str
    kind: Kind
    list_id: str | None
    position: int | None
    time: float
    received: float

    def __post_init__(self) -> None:
        assert self.kind in get_args(Kind), self.kind


@dataclass(frozen=True)
class Turn:
    """One turn of a session: what was said and what came of it.

    Attributes:
        session_id: of the dialogue.
        instruction_id: of this turn.
        user_id: raw id of the user, if known.
        text: the user's words.
        action: what the instructor decided.
        list_id: the list that was shown, if one was.
        made: ids of the assets that came of it.
        time: Unix seconds.
    """

    session_id: str
    instruction_id: str
    user_id: str | None
    text: str
    action: str
    list_id: str | None
    made: tuple[str, ...]
    time: float


@dataclass(frozen=True)
class Session:
    """What a session knows when its next turn comes.

    Attributes:
        turns: the newest, oldest first.
        shown: item ids of the list that is before the user, best first.
        rejected: how many of the last events on that list were a skip or dislike, in a row.
    """

    turns: tuple[Turn, ...] = ()
    shown: tuple[str, ...] = ()
    rejected: int = 0


class FeedbackStore:
    """One open store. Threads may share it.

    Args:
        url: SQLAlchemy's URL, as :func:`store_url` gives it.

    Raises:
        StoreError: it cannot be opened, or the driver is not installed.
    """

    def __init__(self, url: str) -> None:
        parsed = make_url(url)
        self.name = parsed.render_as_string(hide_password=True)
        if parsed.drivername == "sqlite":
            assert parsed.database is not None
            _make_file(Path(parsed.database))
        try:
            self._engine = _engine(url)
            with self._engine.begin() as connection:
                for table in _TABLES.sorted_tables:
                    connection.execute(CreateTable(table, if_not_exists=True))
                    for index in sorted(table.indexes, key=lambda one: str(one.name)):
                        connection.execute(CreateIndex(index, if_not_exists=True))
        except ModuleNotFoundError as error:
            raise StoreError(
                f"serve.store_url: {self.name} needs the package {error.name!r}; pip install 'genrec[postgresql]'"
            ) from error
        except SQLAlchemyError as error:
            raise StoreError(f"serve.store_url: {self.name} cannot be opened: {_first_line(error)}") from error

    def write(self, entries: Sequence[ShownList | Turn | Sequence[Event]]) -> list[int]:
        """Store lists, turns and batches of events in one transaction; all of it is durable on return, or none.

        Returns:
            of each entry, how many rows are new: 1 for a list or turn, for a batch its events whose ids were not known.

        Raises:
            SQLAlchemyError: nothing was stored, or the answer of the database got lost.
        """
        with self._engine.begin() as connection:
            return [self._insert_entry(connection, entry) for entry in entries]

    def _insert_entry(self, connection: Connection, entry: ShownList | Turn | Sequence[Event]) -> int:
        if isinstance(entry, ShownList):
            return _insert_list(connection, entry)
        if isinstance(entry, Turn):
            connection.execute(_TURNS.insert(), {**vars(entry), "made": list(entry.made)})
            return 1
        return self._insert(connection, entry)

    def _insert(self, connection: Connection, events: Sequence[Event]) -> int:
        if not events:
            return 0
        insert: Any = postgresql.insert if self._engine.dialect.name == "postgresql" else sqlite.insert
        statement = insert(_EVENTS).on_conflict_do_nothing(index_elements=["event_id"]).returning(_EVENTS.c.event_id)
        return len(connection.execute(statement, [vars(one) for one in events]).all())

    def recent(self, user_id: str) -> tuple[str, ...]:
        """Items that the user took up (:data:`TAKEN`), by when they last did, oldest first; each once."""
        last, arrived = func.max(_EVENTS.c.time), func.max(_EVENTS.c.sequence)
        statement = (
            select(_EVENTS.c.item_id)
            .where(_EVENTS.c.user_id == user_id, _EVENTS.c.kind.in_(TAKEN))
            .group_by(_EVENTS.c.item_id)
            .order_by(last.desc(), arrived.desc())
            .limit(RECENT_ITEMS)
        )
        with self._engine.connect() as connection:
            return tuple(reversed(connection.scalars(statement).all()))

    def session(self, session_id: str, list_id: str | None = None) -> Session:
        """What the next turn of a session needs to know.

        Args:
            session_id: of the dialogue; an unknown one has no turns.
            list_id: the list that is before the user; None: that of the newest turn.
        """
        newest = (
            select(_TURNS)
            .where(_TURNS.c.session_id == session_id)
            .order_by(_TURNS.c.sequence.desc())
            .limit(SESSION_TURNS)
        )
        with self._engine.connect() as connection:
            rows = [{**row} for row in connection.execute(newest).mappings()]
            for row in rows:
                row.pop("sequence")
                row["made"] = tuple(row["made"])
            turns = tuple(Turn(**row) for row in reversed(rows))
            before = list_id or next((turn.list_id for turn in reversed(turns) if turn.list_id is not None), None)
            if before is None:
                return Session(turns)
            places = select(_ITEMS.c.item_id).where(_ITEMS.c.list_id == before).order_by(_ITEMS.c.position)
            shown = tuple(connection.scalars(places).all())
            latest = (
                select(_EVENTS.c.kind)
                .where(_EVENTS.c.list_id == before)
                .order_by(_EVENTS.c.sequence.desc())
                .limit(SESSION_EVENTS)
            )
            kinds = connection.scalars(latest).all()
        rejected = next((place for place, kind in enumerate(kinds) if kind not in REJECTING), len(kinds))
        return Session(turns, shown, rejected)

    def made(self, user_id: str | None, session_id: str | None) -> tuple[str, ...]:
        """Ids of what a user or a session had made of late and did not reject, newest first.

        A session without a user cannot be told apart in the feedback, so that anybody's rejection counts there.
        """
        whose = [
            column == value
            for column, value in ((_TURNS.c.user_id, user_id), (_TURNS.c.session_id, session_id))
            if value is not None
        ]
        if not whose:
            return ()
        making = select(_TURNS.c.made).where(or_(*whose), _TURNS.c.action.in_(MAKING))
        newest = making.order_by(_TURNS.c.sequence.desc()).limit(MADE_OF_USER)
        with self._engine.connect() as connection:
            made = list(dict.fromkeys(name for names in connection.scalars(newest) for name in names))
            if not made:
                return ()
            rejected = select(_EVENTS.c.item_id).where(
                _OF_MADE, _EVENTS.c.item_id.in_(made), _EVENTS.c.kind.in_((*REJECTING, REPORTING))
            )
            if user_id is not None:
                rejected = rejected.where(_EVENTS.c.user_id == user_id)
            away = set(connection.scalars(rejected))
        return tuple(name for name in made if name not in away)

    def reactions(self) -> dict[str, Reactions]:
        """What people did with each made item that a list showed on which somebody did something."""
        answered = select(_EVENTS.c.event_id).where(_EVENTS.c.list_id == _ITEMS.c.list_id).exists()
        shown = (
            select(_ITEMS.c.item_id, func.count(_ITEMS.c.list_id.distinct()))
            .where(_SHOWN_MADE, answered)
            .group_by(_ITEMS.c.item_id)
        )
        on_list = func.coalesce(_EVENTS.c.list_id, _EVENTS.c.event_id)
        liked = (
            select(_EVENTS.c.item_id, func.count(on_list.distinct()))
            .where(_OF_MADE, _EVENTS.c.kind.in_(LIKING))
            .group_by(_EVENTS.c.item_id)
        )
        reported = (
            select(_EVENTS.c.item_id, func.count(_EVENTS.c.user_id.distinct()))
            .where(_OF_MADE, _EVENTS.c.kind == REPORTING)
            .group_by(_EVENTS.c.item_id)
        )
        with self._engine.connect() as connection:
            counts = [{row[0]: row[1] for row in connection.execute(one)} for one in (shown, liked, reported)]
        names = {name for one in counts for name in one}
        return {name: Reactions(*(one.get(name, 0) for one in counts)) for name in names}

    def newest(self) -> int:
        """Another number after every event that is stored."""
        with self._engine.connect() as connection:
            return int(connection.scalar(select(func.max(_EVENTS.c.sequence))) or 0)

    def events(self) -> list[Event]:
        """Every event, in order of arrival."""
        with self._engine.connect() as connection:
            rows = connection.execute(select(_EVENTS).order_by(_EVENTS.c.sequence)).mappings()
            return [Event(**{name: value for name, value in row.items() if name != "sequence"}) for row in rows]

    def lists(self, request_id: str | None = None) -> list[ShownList]:
        """Lists shown, oldest first: all of them, or those of one request."""
        chosen, places = select(_LISTS).order_by(_LISTS.c.time), select(_ITEMS).order_by(_ITEMS.c.position)
        if request_id is not None:
            chosen = chosen.where(_LISTS.c.request_id == request_id)
            places = places.join(_LISTS, _LISTS.c.list_id == _ITEMS.c.list_id).where(_LISTS.c.request_id == request_id)
        with self._engine.connect() as connection:
            items: dict[str, list[ShownItem]] = {}
            for row in connection.execute(places).mappings():
                entry = dict(row)
                items.setdefault(entry.pop("list_id"), []).append(ShownItem(**entry))
            rows = connection.execute(chosen).mappings().all()
        return [ShownList(**row, items=tuple(items.get(row["list_id"], ()))) for row in rows]

    def close(self) -> None:
        """Close every connection."""
        self._engine.dispose()


def store_url(settings: Settings) -> str:
    """SQLAlchemy's URL of the run's store: `serve.store_url`, or the SQLite file in the run's folder."""
    given = settings.serve.store_url
    if given is not None:
        return given.replace("postgresql://", "postgresql+psycopg://", 1)
    return sqlite_url(run_directory(settings) / SQLITE_FILE)


def sqlite_url(path: Path) -> str:
    """SQLAlchemy's URL of a SQLite file."""
    return f"sqlite:///{path}"


def _insert_list(connection: Connection, shown: ShownList) -> int:
    row = shown.model_dump(mode="json")
    items = row.pop("items")
    connection.execute(_LISTS.insert(), row)
    if items:
        connection.execute(_ITEMS.insert(), [{"list_id": shown.list_id, **item} for item in items])
    return 1


def _engine(url: str) -> Engine:
    # Parameters are what users did: they do not belong into logs.
    if make_url(url).drivername != "sqlite":
        return create_engine(
            url,
            hide_parameters=True,
            pool_pre_ping=True,  # a server that was started anew is noticed before a statement is lost on it
            pool_timeout=STORE_TIMEOUT_S,
            connect_args={"connect_timeout": int(STORE_TIMEOUT_S)},
        )
    engine = create_engine(
        url, hide_parameters=True, pool_timeout=STORE_TIMEOUT_S, connect_args={"timeout": STORE_TIMEOUT_S}
    )

    def on_connect(connection: Any, _: Any) -> None:
        connection.execute("PRAGMA journal_mode=WAL")
        connection.execute("PRAGMA synchronous=FULL")  # in WAL mode NORMAL would lose commits when the power fails

    event.listen(engine, "connect", on_connect)
    return engine


def _make_file(path: Path) -> None:
    """The file with its folder, for its owner's eyes alone; SQLite gives its WAL the same mode."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    except OSError as error:
        raise StoreError(f"{path}: the feedback store cannot be opened: {error.strerror}") from error


def _first_line(error: SQLAlchemyError) -> str:
    return str(getattr(error, "orig", None) or error).strip().splitlines()[0]
