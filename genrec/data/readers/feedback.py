"""Feedback of the endpoint beside a data set: what people liked or consumed there comes after what they did before.

``export_feedback`` takes the log out of the store once, as a file named by its content: equal logs make equal files,
hence equal keys of all stages, and the store may go on growing meanwhile. Each user's item counts once, at the time of
its last event, as in the lists that the endpoint makes. Assets made by the service itself are left out: they are no
items of the catalog. Filtering (``data.min_*``) treats what is added like all else.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from sqlalchemy import Column, Double, MetaData, String, Table, create_engine, func, select
from sqlalchemy.exc import SQLAlchemyError
from typing_extensions import override

from genrec.data.readers.base import Piece, Reader
from genrec.data.readers.columns import interactions_block
from genrec.data.readers.json_lines import id_of, parse_json_lines, seconds_of
from genrec.data.readers.text import locate, parse_chunks, text_pieces
from genrec.errors import DataError

TAKEN = ("like", "consume")
"""Kinds of events that make an item part of a history."""
ASSET_PREFIX = "asset:"
SQLITE_FILE = Path("feedback") / "feedback.sqlite3"
"""Where the endpoint keeps its log, below the run's folder, unless ``serve.store_url`` says otherwise."""


def export_feedback(store_url: str, out: Path) -> tuple[Path, int]:
    """Write what was taken up to ``out``/feedback-HASH.jsonl, one object a line: user, item, time.

    Args:
        store_url: SQLAlchemy's URL of the endpoint's store.
        out: a folder, made if need be.

    Returns:
        the file, and how many interactions it holds.

    Raises:
        DataError: the store cannot be read, or holds nothing that was liked or consumed.
    """
    names = ("event_id", "user_id", "item_id", "kind")
    events = Table("feedback_events", MetaData(), *(Column(name, String) for name in names), Column("time", Double))
    last = func.max(events.c.time)
    statement = (
        select(events.c.user_id, events.c.item_id, last)
        .where(events.c.kind.in_(TAKEN), ~events.c.item_id.startswith(ASSET_PREFIX, autoescape=True))
        .group_by(events.c.user_id, events.c.item_id)
        .order_by(last, events.c.user_id, events.c.item_id)
    )
    missing = Path(store_url.removeprefix("sqlite:///"))
    if store_url.startswith("sqlite:///") and not missing.is_file():
        raise DataError(f"{missing}: no feedback store there; serve this run first, or give its URL")
    engine = create_engine(store_url.replace("postgresql://", "postgresql+psycopg://", 1), hide_parameters=True)
    try:
        with engine.connect() as connection:
            rows = connection.execute(statement).all()
    except (SQLAlchemyError, ModuleNotFoundError) as error:
        shown = engine.url.render_as_string(hide_password=True)
        raise DataError(f"{shown}: the feedback store cannot be read ({type(error).__name__})") from error
    finally:
        engine.dispose()
    if not rows:
        raise DataError("the feedback store holds nothing that was liked or consumed; leave out --from-feedback")
    lines = [json.dumps({"user": user, "item": item, "time": int(time)}) for user, item, time in rows]
    content = ("\n".join(lines) + "\n").encode()
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"feedback-{hashlib.sha256(content).hexdigest()[:16]}.jsonl"
    fresh = path.with_suffix(f".{os.getpid()}")
    fresh.write_bytes(content)
    os.replace(fresh, path)
    return path, len(rows)


class WithFeedback(Reader):
    """A data set, and after it a file of :func:`export_feedback`.

    Args:
        reader: of the data set.
        feedback: the file.

    Raises:
        DataError: there is no such file.
    """

    def __init__(self, reader: Reader, feedback: Path) -> None:
        if not feedback.is_file():
            raise DataError(f"{feedback}: no such file (data.feedback); make it anew with --from-feedback")
        self._reader, self._feedback = reader, feedback
        self.chronological = reader.chronological
        self.repeats_metadata = reader.repeats_metadata

    @override
    def files(self) -> list[Path]:
        return [*self._reader.files(), self._feedback]

    @override
    def interaction_pieces(self) -> list[Piece]:
        return [*self._reader.interaction_pieces(), *text_pieces(self._feedback)]

    @override
    def item_pieces(self) -> list[Piece]:
        return self._reader.item_pieces()

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        if piece.file != self._feedback:
            return self._reader.read_interactions(piece)
        return parse_chunks(piece, _events)

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        return self._reader.read_items(piece)

    @override
    def where(self, piece: Piece, order: int) -> str:
        return self._reader.where(piece, order) if piece.file != self._feedback else locate(piece, order)


def _events(text: str) -> pa.Table:
    records = parse_json_lines(text)
    users = [id_of(record, "user", line) for line, record in enumerate(records)]
    items = [id_of(record, "item", line) for line, record in enumerate(records)]
    times = [str(seconds_of(record, "time", line)) for line, record in enumerate(records)]
    kind = pa.large_string()
    return interactions_block(pa.array(users, kind), pa.array(items, kind), pa.array(times, kind), None)
