"""Amazon reviews as their editions of 2014, 2018 and 2023 come: reviews and metadata, JSON lines, often gzipped.

All names of fields that differ between the editions stand in :data:`EDITIONS`. The metadata of 2014
are Python literals, read by ``ast.literal_eval``, which runs no code.
"""

from __future__ import annotations

import ast
import html
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
from typing_extensions import override

from genrec.data.readers.base import Piece, Reader, item_record, items_table
from genrec.data.readers.columns import interactions_block
from genrec.data.readers.json_lines import id_of, names_of, parse_json_lines, rating_of, seconds_of, text_of
from genrec.data.readers.text import locate, parse_chunks, text_pieces
from genrec.errors import DataError

SUFFIXES = (".json", ".jsonl", ".json.gz", ".jsonl.gz")


@dataclass(frozen=True)
class Edition:
    """The fields of one edition. ``time_unit``: how many of its time units make a second."""

    user: str
    item: str
    rating: str
    time: str
    time_unit: int
    brand: tuple[str, ...]
    images: tuple[str, ...]
    literals: bool = False
    repeats_metadata: bool = False


EDITIONS = {
    "amazon-2014": Edition(
        "reviewerID", "asin", "overall", "unixReviewTime", 1, ("brand",), ("imUrl",), literals=True
    ),
    "amazon-2018": Edition(
        "reviewerID", "asin", "overall", "unixReviewTime", 1, ("brand",),
        ("imageURLHighRes", "imageURL", "imUrl"), repeats_metadata=True,
    ),
    "amazon-2023": Edition("user_id", "parent_asin", "rating", "timestamp", 1000, ("store",), ("images",)),
}  # fmt: skip


class AmazonReader(Reader):
    """One edition's reviews and metadata.

    ``path`` is a folder (its ``meta_*`` files are metadata, the others reviews, all read in the order
    of their names) or one review file with its metadata beside it.
    """

    def __init__(self, edition: str, path: Path) -> None:
        self.edition = EDITIONS[edition]
        self.repeats_metadata = self.edition.repeats_metadata
        if path.is_dir():
            found = sorted(p for p in path.iterdir() if p.is_file() and p.name.endswith(SUFFIXES))
            self.metadata = [p for p in found if p.name.startswith("meta_")]
            self.reviews = [p for p in found if not p.name.startswith("meta_")]
        elif path.is_file():
            self.reviews, self.metadata = [path], _metadata_beside(path)
        else:
            raise DataError(f"{path}: no such file or folder (data.path)")
        if not self.reviews:
            raise DataError(f"{path}: no review file ({', '.join('*' + s for s in SUFFIXES)})")
        if not self.metadata:
            raise DataError(f"{path}: no metadata file: put meta_<name>.json.gz beside the reviews")

    @override
    def files(self) -> list[Path]:
        return [*self.reviews, *self.metadata]

    @override
    def interaction_pieces(self) -> list[Piece]:
        return [piece for path in self.reviews for piece in text_pieces(path)]

    @override
    def item_pieces(self) -> list[Piece]:
        return [piece for path in self.metadata for piece in text_pieces(path)]

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        return parse_chunks(piece, self._parse_reviews)

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        return parse_chunks(piece, self._parse_metadata)

    @override
    def where(self, piece: Piece, order: int) -> str:
        return locate(piece, order)

    def _parse_reviews(self, text: str) -> pa.Table:
        e = self.edition
        records = list(enumerate(parse_json_lines(text)))
        return interactions_block(
            pa.array([id_of(r, e.user, i) for i, r in records], pa.large_string()),
            pa.array([id_of(r, e.item, i) for i, r in records], pa.large_string()),
            pa.array([seconds_of(r, e.time, i, e.time_unit) for i, r in records], pa.int64()),
            pa.array([rating_of(r, e.rating, i) for i, r in records], pa.float32()),
        )

    def _parse_metadata(self, text: str) -> pa.Table:
        records = parse_json_lines(text, _json_or_literal if self.edition.literals else json.loads)
        return items_table([self._item(record, line) for line, record in enumerate(records)])

    def _item(self, record: dict[str, Any], line: int) -> dict[str, Any]:
        brands = (html.unescape(text_of(record.get(name))) for name in self.edition.brand)
        images = (url for name in self.edition.images if (url := _image_url(record.get(name))))
        return item_record(
            id_of(record, self.edition.item, line),
            line,
            title=html.unescape(text_of(record.get("title"))),
            brand=next(filter(None, brands), None),
            categories=[html.unescape(name) for name in names_of(record.get("categories") or record.get("category"))],
            description=html.unescape(text_of(record.get("description"))),
            image_url=next(images, None),
        )


def _metadata_beside(reviews: Path) -> list[Path]:
    stem = reviews.name.partition(".")[0].removeprefix("reviews_").removesuffix("_5")
    return [p for suffix in SUFFIXES if (p := reviews.with_name(f"meta_{stem}{suffix}")).is_file()][:1]


def _json_or_literal(line: str) -> Any:
    try:
        return json.loads(line)
    except ValueError:
        return ast.literal_eval(line.strip())


def _image_url(value: Any) -> str | None:
    """A URL in any edition's form: a string, a list of strings, or a list of {size: url}."""
    if isinstance(value, list):
        return _image_url(value[0]) if value else None
    if isinstance(value, dict):
        return next((url for size in ("hi_res", "large", "thumb") if (url := value.get(size))), None)
    return value if isinstance(value, str) and value else None
