"""Small data sets for the retrieval tests: users in groups of taste, items whose texts name the group."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from genrec.data.interactions import Interactions

BEAUTY = Path(__file__).parents[3] / "../shared/data/amazon-beauty"


def leave_one_out(sequences: list[list[int]], n_items: int) -> Interactions:
    lengths = np.array([len(sequence) for sequence in sequences])
    train_end = (lengths - 2).astype(np.int32)
    arrays = {
        "items": np.concatenate(sequences).astype(np.int32),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "train_end": train_end,
        "valid_at": train_end,
        "test_at": train_end + 1,
        "n_items": n_items,
    }
    counts = Interactions(**arrays, head_items=np.zeros(n_items, dtype=bool)).train_counts
    head = np.zeros(n_items, dtype=bool)
    head[np.argsort(-counts, kind="stable")[: n_items // 5]] = True
    return Interactions(**arrays, head_items=head)


@pytest.fixture(scope="session")
def tastes() -> tuple[Interactions, list[str]]:
    """120 users, 60 items, 4 tastes; texts with words shared and not shared."""
    rng = np.random.default_rng(7)
    words = np.array([f"word{i}" for i in range(40)])
    texts = [f"taste{item % 4} common {' '.join(rng.choice(words, 3))}" for item in range(60)]
    own = [np.arange(60)[np.arange(60) % 4 == user % 4] for user in range(120)]
    sequences = [
        [int(rng.choice(own[u]) if rng.random() < 0.8 else rng.integers(60)) for _ in range(rng.integers(3, 30))]
        for u in range(120)
    ]
    return leave_one_out(sequences, 60), texts


@pytest.fixture(scope="session")
def beauty() -> tuple[Interactions, list[str]]:
    """The first 2,000 users of Amazon Beauty; texts: titles, brands and categories."""
    if not BEAUTY.is_dir():
        pytest.skip(f"needs {BEAUTY.name} beside the project (shared/data)")
    lines = (BEAUTY / "sequences.txt").read_text().splitlines()
    records = [json.loads(line) for line in (BEAUTY / "items.jsonl").read_text().splitlines()]
    texts = [
        " ".join([r["title"] or "", r["brand"] or "", *(word for path in r["categories"] for word in path)])
        for r in records
    ]
    return leave_one_out([[int(item) - 1 for item in line.split()[1:]] for line in lines[:2000]], len(records)), texts
