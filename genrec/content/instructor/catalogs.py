"""The catalogs that the instructor is trained and measured on, read without interactions: titles and texts alone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from genrec.config.sections import DataSettings
from genrec.data.blocks import blocks
from genrec.data.readers import open_reader
from genrec.errors import DataError


@dataclass(frozen=True)
class Items:
    """Titles and texts by item index."""

    name: str
    titles: tuple[str, ...]
    texts: tuple[str, ...]


def movies() -> Items:
    """MovieLens 100K, all 1,682 films, from the recbole wheel.

    Raises:
        DataError: the wheel is not installed.
    """
    return _items("ml-100k", DataSettings(reader="ml-100k"))


def products(directory: Path) -> Items:
    """An Amazon set in the research form (items.jsonl and sequences).

    Raises:
        DataError: it is not there or not readable.
    """
    return _items(directory.name, DataSettings(reader="research", path=str(directory)))


def _items(name: str, settings: DataSettings) -> Items:
    reader = open_reader(settings)
    titles: list[str] = []
    texts: list[str] = []
    for table in blocks(reader, "items", use_ray=False):
        titles += table.column("title").to_pylist()
        texts += table.column("text").to_pylist()
    if not titles:
        raise DataError(f"{name}: no items")
    return Items(name, tuple(titles), tuple(texts))
