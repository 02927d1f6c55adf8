"""Builds a retrieval cache by Ray in the directory given: run by a test that kills it."""

from __future__ import annotations

import json
import sys
from functools import partial
from pathlib import Path

import numpy as np
import ray
import torch

from genrec.config import ItemKNNSettings, RetrievalSettings, SasRecSettings
from genrec.data.interactions import Interactions
from genrec.models.item_knn import ItemKNN
from genrec.models.sasrec import SasRec
from genrec.retrieval.cache import build_cache
from genrec.retrieval.cache_units import CacheInputs
from genrec.retrieval.representations import SasRecEncoder

BEAUTY = Path(__file__).parents[2] / "../shared/data/amazon-beauty"
NAMES = {"checkpoint": "c0", "sid_version": "s0", "data": "d0"}
SETTINGS = RetrievalSettings(
    block_queries=500, shard_users=1100, train_positions=1, vote_sources=("neighbours", "item-knn")
)


def encoder(seed: int, n_items: int) -> SasRecEncoder:
    """SASRec with fresh weights: the vectors need not be good here, only the same everywhere."""
    torch.manual_seed(seed)
    return SasRecEncoder(SasRec(SasRecSettings(d_model=32, layers=1, heads=2), n_items, 20))


def raw(n_users: int) -> tuple[list[list[int]], list[str]]:
    """Users of Beauty where it is at hand, else invented ones."""
    if BEAUTY.is_dir():
        lines = (BEAUTY / "sequences.txt").read_text().splitlines()[:n_users]
        records = [json.loads(line) for line in (BEAUTY / "items.jsonl").read_text().splitlines()]
        return [[int(i) - 1 for i in line.split()[1:]] for line in lines], [str(r["title"]) for r in records]
    rng = np.random.default_rng(0)
    texts = [" ".join(f"word{w}" for w in rng.zipf(1.5, 8) % 900) for _ in range(2000)]
    return [rng.integers(2000, size=rng.integers(5, 20)).tolist() for _ in range(n_users)], texts


def inputs_of(n_users: int) -> CacheInputs:
    """The inputs of a cache, the same in every process."""
    sequences, texts = raw(n_users)
    lengths = np.array([len(sequence) for sequence in sequences])
    end = (lengths - 2).astype(np.int32)
    data = Interactions(
        np.concatenate(sequences).astype(np.int32),
        np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        end,
        end,
        (end + 1).astype(np.int32),
        len(texts),
        np.zeros(len(texts), dtype=bool),
    )
    loaders = {"collaborative": partial(encoder, 1, len(texts)), "representation": partial(encoder, 2, len(texts))}
    return CacheInputs(data, SETTINGS, texts, loaders, {"item-knn": ItemKNN.fit(data, ItemKNNSettings())})


def start_ray() -> None:
    """A small cluster of this process."""
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)


if __name__ == "__main__":
    start_ray()
    given = inputs_of(int(sys.argv[2]))
    build_cache(Path(sys.argv[1]), given, given.key(**NAMES))
