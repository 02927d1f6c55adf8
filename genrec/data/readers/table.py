"""Any Parquet or CSV table with a user, an item and a time column, and items in a table beside it.

``data.path`` is one file, or a folder whose ``*.parquet``, ``*.csv`` and ``*.csv.gz`` files are read in
the order of their names; ``items.parquet``, ``items.csv`` or ``items.jsonl`` there holds the metadata
(id in the item column's name or ``item_id``; ``title``, ``text``, ``description``, ``brand``,
``categories`` (in CSV separated by bars) and ``image_url`` where known). Times are Unix seconds or
Parquet timestamps; a ``rating`` column is optional.
"""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from typing_extensions import override

from genrec.config import DataSettings
from genrec.data.readers.base import Piece, Reader, item_record, items_table
from genrec.data.readers.columns import interactions_block, parse_delimited
from genrec.data.readers.json_lines import id_of, names_of, parse_json_lines, text_of
from genrec.data.readers.text import LineError, first_line, locate, parse_chunks, text_pieces
from genrec.errors import DataError

TABLES = (".parquet", ".csv", ".csv.gz")
ITEM_FILES = ("items.parquet", "items.csv", "items.csv.gz", "items.jsonl", "items.jsonl.gz")
BATCH_ROWS = 1 << 18
ITEM_ROWS = 1 << 14
"""Rows of metadata at once: they pass through Python objects, about a kilobyte each."""
GROUPS_A_PIECE_ROWS = 1 << 22
RATING = "rating"


class TableReader(Reader):
    """Parquet or CSV interactions, with the columns that the settings name."""

    def __init__(self, settings: DataSettings, path: Path) -> None:
        self.user, self.item, self.time = settings.user_column, settings.item_column, settings.time_column
        folder = path if path.is_dir() else path.parent
        self.items = next((p for name in ITEM_FILES if (p := folder / name).is_file()), None)
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(TABLES))
            self.tables = [p for p in found if p != self.items]
        elif path.is_file() and path.name.endswith(TABLES):
            self.tables = [path]
        else:
            raise DataError(f"{path}: expected a folder or a file {', '.join('*' + s for s in TABLES)} (data.path)")
        if not self.tables:
            raise DataError(f"{path}: no table ({', '.join('*' + s for s in TABLES)})")

    @override
    def files(self) -> list[Path]:
        return [*self.tables, *([self.items] if self.items else [])]

    @override
    def interaction_pieces(self) -> list[Piece]:
        return [piece for path in self.tables for piece in _pieces(path)]

    @override
    def item_pieces(self) -> list[Piece]:
        return _pieces(self.items) if self.items else []

    @override
    def where(self, piece: Piece, order: int) -> str:
        if piece.file.suffix != ".parquet":
            return locate(piece, order)
        groups = _parquet_file(piece.file).metadata
        return f"{piece.file}: row {sum(groups.row_group(g).num_rows for g in range(piece.start)) + order + 1}"

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        if piece.file.suffix == ".parquet":
            yield from self._parquet_interactions(piece)
            return
        names = self._checked(piece.file, _header(piece.file))

        def parse(text: str) -> pa.Table:
            return self._block(parse_delimited(text, names, ",", quoted=True))

        yield from parse_chunks(piece, parse, skip_header=True)

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        if piece.file.suffix == ".parquet":
            first = 0
            for batch in _parquet_batches(piece, None, ITEM_ROWS):
                try:
                    yield _shifted(self._items(batch.to_pylist()), first)
                except LineError as error:
                    raise DataError(f"{self.where(piece, first + error.line)}: {error}") from error
                first += len(batch)
        elif ".jsonl" in piece.file.suffixes:
            yield from parse_chunks(piece, lambda text: self._items(parse_json_lines(text)))
        else:
            names = _header(piece.file)

            def parse(text: str) -> pa.Table:
                return self._items(parse_delimited(text, names, ",", quoted=True).to_pylist())

            yield from parse_chunks(piece, parse, skip_header=True)

    def _parquet_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        names = self._checked(piece.file, _parquet_file(piece.file).schema_arrow.names)
        wanted = [name for name in (self.user, self.item, self.time, RATING) if name in names]
        first = 0
        for batch in _parquet_batches(piece, wanted):
            try:
                yield _shifted(self._block(pa.Table.from_batches([batch])), first)
            except LineError as error:
                raise DataError(f"{self.where(piece, first + error.line)}: {error}") from error
            first += len(batch)

    def _block(self, table: pa.Table) -> pa.Table:
        rating = table[RATING] if RATING in table.column_names else None
        return interactions_block(table[self.user], table[self.item], table[self.time], rating)

    def _checked(self, path: Path, names: list[str]) -> list[str]:
        for setting, name in (("user", self.user), ("item", self.item), ("time", self.time)):
            if names.count(name) != 1:
                raise DataError(
                    f"{path}:1: {names.count(name)} columns {name!r}, expected one; the table has: {', '.join(names)} "
                    f"(data.{setting}_column)"
                )
        return names

    def _items(self, rows: list[dict[str, Any]]) -> pa.Table:
        return items_table([self._item(row, line) for line, row in enumerate(rows)])

    def _item(self, row: dict[str, Any], line: int) -> dict[str, Any]:
        categories = row.get("categories")
        return item_record(
            id_of(row, self.item if self.item in row else "item_id", line),
            line,
            title=text_of(row.get("title")),
            brand=text_of(row.get("brand")),
            categories=categories.split("|") if isinstance(categories, str) else names_of(categories),
            description=text_of(row.get("description")),
            text=text_of(row.get("text")),
            image_url=text_of(row.get("image_url")),
        )


def _pieces(path: Path) -> list[Piece]:
    if path.suffix != ".parquet":
        return text_pieces(path)
    metadata = _parquet_file(path).metadata
    if metadata.num_rows == 0:
        raise DataError(f"{path}: row 1: the table is empty")
    pieces, begin, rows = [], 0, 0
    for group in range(metadata.num_row_groups):
        rows += metadata.row_group(group).num_rows
        if rows >= GROUPS_A_PIECE_ROWS or group == metadata.num_row_groups - 1:
            pieces.append(Piece(path, begin, group + 1))
            begin, rows = group + 1, 0
    return pieces


def _parquet_file(path: Path) -> pq.ParquetFile:
    try:
        return pq.ParquetFile(path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: not a readable Parquet file ({error})") from error


def _parquet_batches(piece: Piece, columns: list[str] | None, rows: int = BATCH_ROWS) -> Iterator[pa.RecordBatch]:
    groups = range(piece.start, piece.end or 0)
    try:
        for batch in _parquet_file(piece.file).iter_batches(rows, row_groups=list(groups), columns=columns):
            batch.validate(full=True)  # Parquet does not promise that strings are UTF-8
            yield batch
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{piece.file}: damaged in row groups {groups.start}-{groups.stop - 1} ({error})") from error


def _header(path: Path) -> list[str]:
    names = next(csv.reader([first_line(path)]), [])
    return [name.strip().removeprefix("\ufeff") for name in names]


def _shifted(block: pa.Table, first: int) -> pa.Table:
    position = block.schema.get_field_index("order")
    orders = pa.array(block.column("order").to_numpy() + first, pa.int64())
    return block.set_column(position, block.schema.field("order"), orders)
