"""A synthetic shop of any size: titles with the statistics of real ones, sequences that survive a 5-core.

Titles resample the words of Amazon Beauty and Scientific: an item takes brand, categories and title length from
a real item, half of its words from that item's title and half from all titles (so frequent words stay
frequent and like items stay alike). Without these data sets at hand the words are invented, with Zipf's frequencies.

Every item is consumed at least five times (one third of all interactions), the others fall by popularity,
so the prepared catalog has exactly as many items as asked for.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from benchmarks.shapes import BEAUTY

SCIENTIFIC = BEAUTY.parent / "amazon-scientific"
USERS_AN_ITEM = 2
SHORTEST, LONGEST = 5, 10
"""Interactions of a user: uniform, 7.5 on average (Beauty's mean is 8.9, its median 6)."""
ROWS = 100_000


@dataclass(frozen=True)
class Originals:
    """Real items to resample: words of each title, its brand and its categories joined by bars."""

    titles: list[list[str]]
    brands: list[str]
    categories: list[str]
    source: str


def originals() -> Originals:
    """The items of both data sets, or invented ones."""
    rows = [row for folder in (BEAUTY, SCIENTIFIC) for row in _rows(folder / "items.jsonl")]
    if rows:
        titles = [row["title"].split()[:40] for row in rows]
        brands = [row.get("brand") or "" for row in rows]
        return Originals(titles, brands, [_joined(row.get("categories")) for row in rows], "Beauty and Scientific")
    rng = np.random.default_rng(0)
    words = np.minimum(rng.zipf(1.3, size=(10_000, 9)), 30_000)
    titles = [[f"word{word}" for word in row] for row in words.tolist()]
    return Originals(titles, [f"brand{n % 500}" for n in range(10_000)], ["all"] * 10_000, "invented words")


def _rows(path: Path) -> list[dict]:
    if not path.is_file():
        return []
    rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return [row for row in rows if (row.get("title") or "").split()]


def _joined(categories: object) -> str:
    if isinstance(categories, str):
        return categories
    flat = [part for entry in categories or [] for part in (entry if isinstance(entry, list) else [entry])]  # type: ignore[union-attr]
    return "|".join(dict.fromkeys(flat))


def write_shop(folder: Path, n_items: int, seed: int = 0) -> dict[str, object]:
    """Write ``log.parquet`` and ``items.parquet`` for reader `table`; about 15 interactions an item.

    Returns:
        items, users, interactions and the source of the words.
    """
    folder.mkdir(parents=True, exist_ok=True)
    real = originals()
    _write_items(folder / "items.parquet", n_items, real, np.random.default_rng([seed, 0]))
    interactions = _write_log(folder / "log.parquet", n_items, np.random.default_rng([seed, 1]))
    return {
        "items": n_items,
        "users": USERS_AN_ITEM * n_items,
        "interactions": interactions,
        "words": real.source,
    }


def _write_items(path: Path, n_items: int, real: Originals, rng: np.random.Generator) -> None:
    words = np.array([word for title in real.titles for word in title], dtype=object)
    lengths = np.array([len(title) for title in real.titles])
    begins = np.cumsum(lengths) - lengths
    columns = ("item", "title", "brand", "categories")
    with pq.ParquetWriter(path, pa.schema([(name, pa.string()) for name in columns])) as writer:
        for first in range(0, n_items, ROWS):
            count = min(ROWS, n_items - first)
            template = rng.integers(len(lengths), size=count)
            sizes = lengths[template]
            own = np.repeat(begins[template], sizes) + (rng.random(sizes.sum()) * np.repeat(sizes, sizes)).astype(int)
            drawn = np.where(rng.random(len(own)) < 0.5, own, rng.integers(len(words), size=len(own)))
            flat, ends = words[drawn].tolist(), np.cumsum(sizes).tolist()
            titles = [" ".join(flat[end - size : end]) for end, size in zip(ends, sizes.tolist(), strict=True)]
            writer.write_table(
                pa.table(
                    {
                        "item": _ids("B", np.arange(first, first + count)),
                        "title": titles,
                        "brand": [real.brands[n] for n in template],
                        "categories": [real.categories[n] for n in template],
                    }
                )
            )


def _write_log(path: Path, n_items: int, rng: np.random.Generator) -> int:
    n_users = USERS_AN_ITEM * n_items
    lengths = rng.integers(SHORTEST, LONGEST + 1, n_users)
    user = np.repeat(np.arange(n_users, dtype=np.int32), lengths)
    item = (n_items * rng.random(len(user), dtype=np.float32) ** 3).astype(np.int32)
    item = np.minimum(item, n_items - 1)
    places = rng.permutation(len(user))[: 5 * n_items]
    item[places] = np.tile(np.arange(n_items, dtype=np.int32), 5)
    # Distinct times, so that no interaction is a repetition of another.
    time = 1_500_000_000 + rng.permutation(len(user))
    schema = pa.schema([("user", pa.string()), ("item", pa.string()), ("time", pa.int64())])
    with pq.ParquetWriter(path, schema) as writer:
        order = np.argsort(time)
        for first in range(0, len(user), 10 * ROWS):
            rows = order[first : first + 10 * ROWS]
            writer.write_table(
                pa.table({"user": _ids("U", user[rows]), "item": _ids("B", item[rows]), "time": time[rows]}, schema)
            )
    return len(user)


def _ids(letter: str, numbers: NDArray[np.integer]) -> pa.Array:
    return pa.array(np.char.add(letter, np.char.mod("%09d", numbers)))
