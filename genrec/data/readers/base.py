"""What every reader is: raw files cut into pieces, and each piece parsed into Arrow blocks.

A piece is read by one task, in this process or on a Ray worker, and yields blocks of bounded size, so
no file has to fit into memory. Readers hold only settings and paths: they travel to workers cheaply.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa

from genrec.data.schema import ITEMS
from genrec.errors import DataError

DESCRIPTION_WORDS = 60
"""A description is cut here: MiniLM reads 128 tokens by default, and title and brand come first."""

_NO_BRAND = frozenset({"", "unknown", "unbranded", "n/a", "none"})


@dataclass(frozen=True)
class Piece:
    """A part of a raw file: bytes [start, end) of a text file or row groups [start, end) of Parquet.

    ``end`` None reads to the end of the file. A line belongs to the piece in which it begins.
    """

    file: Path
    start: int = 0
    end: int | None = None


class Reader(ABC):
    """One family of raw files.

    Attributes:
        chronological: the given order is the truth: never sorted by time, repetitions kept.
        repeats_metadata: its published metadata is known to hold identical records twice; these are
            dropped. Elsewhere, and where two records differ, an item id given twice is an error.
    """

    chronological = False
    repeats_metadata = False

    @abstractmethod
    def files(self) -> list[Path]:
        """Every file it reads, in reading order.

        Raises:
            DataError: a file is absent.
        """

    @abstractmethod
    def interaction_pieces(self) -> list[Piece]:
        """The interactions, in file order."""

    @abstractmethod
    def item_pieces(self) -> list[Piece]:
        """The item metadata, in file order; empty where there is none."""

    @abstractmethod
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        """Parse a piece into blocks of schema INTERACTIONS.

        ``order`` is the line (or row) within the piece, from 0; it never falls.

        Raises:
            DataError: naming file and line.
        """

    @abstractmethod
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        """Parse a piece into blocks of schema ITEMS, ``order`` as above.

        Raises:
            DataError: naming file and line.
        """

    @abstractmethod
    def where(self, piece: Piece, order: int) -> str:
        """``file:line`` (or row) of an ``order`` of that piece, for messages."""


def existing(folder: Path, *names: str) -> list[Path]:
    """Those files of a folder, all of which must exist.

    Raises:
        DataError: naming the first that is absent.
    """
    paths = [folder / name for name in names]
    for path in paths:
        if not path.is_file():
            raise DataError(f"{path}: no such file; data.path must be a folder with {' and '.join(names)}")
    return paths


def item_record(
    item_id: str,
    order: int,
    *,
    title: str | None = None,
    brand: str | None = None,
    categories: Iterable[str] = (),
    description: str | None = None,
    text: str | None = None,
    image_url: str | None = None,
) -> dict[str, Any]:
    """One row of ITEMS. An item without title is called by its id; ``text`` overrides the joined text."""
    clean_title = _squeezed(title) or item_id
    clean_brand = _squeezed(brand)
    if clean_brand.lower() in _NO_BRAND:
        clean_brand = ""
    clean_categories = list(dict.fromkeys(filter(None, map(_squeezed, categories))))
    return {
        "item_id": item_id,
        "title": clean_title,
        "text": _squeezed(text) or item_text(clean_title, clean_brand, clean_categories, description or ""),
        "brand": clean_brand or None,
        "categories": clean_categories,
        "image_url": image_url or None,
        "order": order,
    }


def item_text(title: str, brand: str, categories: Sequence[str], description: str) -> str:
    """What the text encoder reads of an item: title, brand, categories, the description's first words."""
    parts = [title]
    if brand:
        parts.append(f"Brand: {brand}")
    if categories:
        parts.append(f"Categories: {', '.join(categories)}")
    words = description.split()
    if words:
        parts.append(" ".join(words[:DESCRIPTION_WORDS]))
    return ". ".join(part.rstrip(". ") or part for part in parts)


def items_table(records: Sequence[dict[str, Any]]) -> pa.Table:
    """Rows made by :func:`item_record` as a block of schema ITEMS."""
    return pa.Table.from_pylist(list(records), schema=ITEMS)


def _squeezed(text: str | None) -> str:
    # A lone surrogate (legal in JSON's \uXXXX) cannot be written as UTF-8.
    return " ".join((text or "").encode("utf-8", "replace").decode("utf-8").split())
