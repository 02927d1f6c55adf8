"""The form that research repositories share: sequences whose order is given, and items as JSON lines.

A folder holds ``items.jsonl`` and either ``sequences.txt`` (``user item item …``, with or without
``timestamps.jsonl``: ``[user, [seconds, …]]``) or one ``*.inter.json`` (``{user: [items]}``). The given
order is what published figures rest on, so it is never sorted again and repetitions stay.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from typing_extensions import override

from genrec.data.readers.base import Piece, Reader, existing, item_record, items_table
from genrec.data.readers.columns import interactions_block
from genrec.data.readers.json_lines import id_of, names_of, parse_json_lines, text_of
from genrec.data.readers.text import LineError, locate, parse_chunks, text_pieces
from genrec.errors import DataError

Times = dict[str, list[int]]


class ResearchReader(Reader):
    """Given sequences and items."""

    chronological = True

    def __init__(self, folder: Path) -> None:
        if not folder.is_dir():
            raise DataError(f"{folder}: no such folder (data.path)")
        forms = sorted(folder.glob("*.inter.json")) + sorted(folder.glob("sequences.txt"))
        if len(forms) != 1:
            found = ", ".join(p.name for p in forms) or "neither"
            raise DataError(f"{folder}: expected one of sequences.txt or *.inter.json, found {found}")
        self.sequences = forms[0]
        (self.items,) = existing(folder, "items.jsonl")
        times = folder / "timestamps.jsonl"
        self.times = times if times.is_file() and self.sequences.suffix == ".txt" else None

    @override
    def files(self) -> list[Path]:
        return [self.sequences, self.items, *([self.times] if self.times else [])]

    @override
    def interaction_pieces(self) -> list[Piece]:
        # One piece: the times and the check for repeated users need the whole file, and it is small.
        text_pieces(self.sequences)
        return [Piece(self.sequences)]

    @override
    def item_pieces(self) -> list[Piece]:
        return text_pieces(self.items)

    @override
    def where(self, piece: Piece, order: int) -> str:
        return locate(piece, order if piece.file.suffix != ".json" else 0)

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        if piece.file.suffix == ".json":
            return iter([_inter_json(piece.file)])
        times = _read_times(self.times) if self.times else None
        seen: set[str] = set()
        return parse_chunks(piece, lambda text: _parse_sequences(text, times, seen))

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        def parse(text: str) -> pa.Table:
            return items_table([_item(record, line) for line, record in enumerate(parse_json_lines(text))])

        return parse_chunks(piece, parse)


def _parse_sequences(text: str, times: Times | None, seen: set[str]) -> pa.Table:
    lines = pa.array(text.split("\n"), pa.large_string())
    bad = pc.index(pc.match_substring_regex(lines, r"^[0-9]+( [0-9]+)+$"), False).as_py()
    if bad >= 0:
        raise LineError(
            bad, f"expected 'user item item …', numbers with single blanks, got {lines[bad].as_py()[:60]!r}"
        )
    parts = pc.split_pattern(lines, " ")
    lengths = pc.list_value_length(parts).to_numpy() - 1
    users = pc.list_element(parts, 0)
    for line, user in enumerate(users.to_pylist()):
        if user in seen:
            raise LineError(line, f"user {user} has a second sequence")
        seen.add(user)
    flat, starts = parts.flatten(), np.concatenate([[0], np.cumsum(lengths + 1)[:-1]])
    is_item = np.ones(len(flat), dtype=np.bool_)
    is_item[starts] = False
    line_of = np.repeat(np.arange(len(lines)), lengths)
    time = None if times is None else _times_of(users.to_pylist(), lengths, times)
    return _block_with_gaps(users.take(pa.array(line_of)), flat.filter(pa.array(is_item)), time, line_of)


def _block_with_gaps(users: pa.Array, items: pa.Array, time: pa.Array | None, lines: Any) -> pa.Table:
    """A block whose times may be null (users without known times)."""
    block = interactions_block(users, items, None, order=pa.array(lines, pa.int64()))
    if time is None:
        return block
    return block.set_column(2, block.schema.field("time"), time)


def _times_of(users: list[str], lengths: Any, times: Times) -> pa.Array:
    flat: list[int | None] = []
    for line, (user, length) in enumerate(zip(users, lengths.tolist(), strict=True)):
        own = times.get(user)
        if own is not None and len(own) != length:
            raise LineError(line, f"user {user} has {length} items but {len(own)} times in timestamps.jsonl")
        flat.extend([None] * length if own is None else own)
    return pa.array(flat, pa.int64())


def _read_times(path: Path) -> Times:
    times: Times = {}

    def parse(text: str) -> pa.Table:
        for line, content in enumerate(text.split("\n")):
            try:
                user, own = json.loads(content)
            except (ValueError, TypeError, RecursionError) as error:
                raise LineError(line, f"expected [user, [seconds, …]] ({error})") from error
            if not isinstance(own, list) or not all(type(second) is int and abs(second) < 2**62 for second in own):
                raise LineError(line, "times are not whole numbers of seconds")
            if str(user) in times:
                raise LineError(line, f"user {user} has a second list of times")
            times[str(user)] = own
        return items_table([])

    for piece in text_pieces(path):
        for _ in parse_chunks(piece, parse):
            pass
    return times


def _inter_json(path: Path) -> pa.Table:
    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) != len(pairs):
            raise DataError(f"{path}:1: a user has two sequences")
        return found

    try:
        tree = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=unique)
    except json.JSONDecodeError as error:
        raise DataError(f"{path}:{error.lineno}: not JSON ({error.msg} at column {error.colno})") from error
    except (UnicodeDecodeError, RecursionError) as error:
        raise DataError(f"{path}:1: not JSON in UTF-8 ({error})") from error
    if not isinstance(tree, dict) or not tree:
        raise DataError(f"{path}:1: expected {{user: [items]}}, got {type(tree).__name__} of no user")
    users: list[str] = []
    items: list[str] = []
    lines: list[int] = []
    for position, (user, own) in enumerate(tree.items()):
        if not isinstance(own, list) or not own or not all(type(item) in (int, str) and item != "" for item in own):
            raise DataError(f"{path}:1: user {user!r}: expected a list of item ids")
        users.extend([user] * len(own))
        items.extend(map(str, own))
        lines.extend([position] * len(own))
    return interactions_block(
        pa.array(users, pa.large_string()), pa.array(items, pa.large_string()), None, order=pa.array(lines, pa.int64())
    )


def _item(record: dict[str, Any], line: int) -> dict[str, Any]:
    categories = record.get("categories")
    return item_record(
        id_of(record, "id", line),
        line,
        title=text_of(record.get("title")),
        brand=text_of(record.get("brand")),
        categories=categories.split(",") if isinstance(categories, str) else names_of(categories),
        description=text_of(record.get("description")),
        image_url=text_of(record.get("image_url")),
    )
