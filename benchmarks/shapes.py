"""Catalogs and histories to measure on: Amazon Beauty where it is at hand, else synthetic of the same statistics.

Beauty 2014 5-core: 22,363 users, 12,101 items, 198,502 interactions, 131,413 training prefixes.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.data.interactions import Interactions
from genrec.tokenizer.sid_table import SidTable

BEAUTY = Path(__file__).resolve().parents[1] / "../shared/data/amazon-beauty"
LENGTH_DECILES = (5, 5, 5, 6, 6, 7, 8, 9, 11, 15, 60)
"""Deciles of Beauty's sequence lengths."""


def beauty_sequences(seed: int = 0, directory: Path = BEAUTY) -> tuple[list[NDArray[np.int64]], str]:
    """Each user's items (from 0) in order, and where they come from."""
    path = directory / "sequences.txt"
    if path.is_file():
        rows = [line.split() for line in path.read_text().splitlines()]
        return [np.asarray(row[1:], dtype=np.int64) - 1 for row in rows], "Amazon Beauty"
    rng = np.random.default_rng(seed)
    n_users, n_items = 22_363, 12_101
    lengths = np.interp(rng.random(n_users), np.linspace(0, 1, 11), LENGTH_DECILES).astype(int)
    popularity = rng.permutation(1.0 / np.arange(10, n_items + 10))
    draws = rng.choice(n_items, size=lengths.sum(), p=popularity / popularity.sum())
    return np.split(draws, np.cumsum(lengths)[:-1]), "synthetic with Beauty's length statistics"


def interactions_of(sequences: Sequence[Sequence[int] | NDArray[np.int64]], n_items: int) -> Interactions:
    """The sequences as a data set split by leave-one-out."""
    lengths = np.asarray([len(row) for row in sequences], dtype=np.int32)
    return Interactions(
        items=np.concatenate(sequences).astype(np.int32),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=lengths - 2,
        valid_at=lengths - 2,
        test_at=lengths - 1,
        n_items=n_items,
        head_items=np.zeros(n_items, dtype=bool),
    )


def beauty_table(n_items: int, seed: int = 0, directory: Path = BEAUTY) -> SidTable:
    """Published TIGER codes (4 x 256), the few that collide moved to a free last code; else random codes."""
    path = directory / "semantic_ids" / "tiger.json"
    rng = np.random.default_rng(seed)
    if path.is_file():
        published = json.loads(path.read_text())
        codes = [[int(re.search(r"_(\d+)>", code)[1]) for code in published[str(i)]] for i in range(n_items)]  # type: ignore[index]
    else:
        codes = np.floor(rng.random((n_items, 4)) ** 2 * 256).astype(int).tolist()
    taken: set[tuple[int, ...]] = set()
    for row in codes:
        while tuple(row) in taken:
            row[-1] = int(rng.integers(256))
        taken.add(tuple(row))
    return SidTable(np.asarray(codes, dtype=np.int32), (256, 256, 256, 256))


def last_histories(sequences: list[NDArray[np.int64]], rows: int, longest: int, seed: int = 0) -> NDArray[np.int64]:
    """int64 [rows, T], test-time histories of random users (all but the last item), padded right with -1."""
    chosen = np.random.default_rng(seed).choice(len(sequences), size=rows, replace=False)
    cut = [sequences[user][:-1][-longest:] for user in chosen]
    history = np.full((rows, max(map(len, cut))), -1, dtype=np.int64)
    for row, items in enumerate(cut):
        history[row, : len(items)] = items
    return history
