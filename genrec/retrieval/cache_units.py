"""The units of work of a retrieval cache: each writes one file and can run anywhere, in any order.

Three passes:

1. *vectors*: the vectors of a block of indexed users in one space (training items alone).
2. *text*: the best z of one shard of users for a block of queries; the top of all shards equals the whole.
   A corpus of one shard needs no such pass.
3. *rows*: a block of queries answered: merge, re-rank, votes, one Parquet file.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import BinaryIO, Protocol

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrec.artifacts import digest
from genrec.config import RetrievalSettings
from genrec.data.interactions import Interactions
from genrec.models.dense import DenseScorer
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.cache_table import (
    CacheKey,
    CacheSplit,
    block_path,
    queries_of,
    to_table,
    write_whole,
)
from genrec.retrieval.documents import known_histories, training_histories
from genrec.retrieval.neighbours import Neighbours, merge_top
from genrec.retrieval.representations import EncoderLoader, HistoryEncoder, single_threaded
from genrec.retrieval.retriever import Retriever, needed_spaces

WORK = ".work"
HOW_NOT_WHAT = {"workers", "shard_users"}
"""Settings that change how a cache is made, not what is in it."""


@dataclass(frozen=True, eq=False)
class CacheInputs:
    """What a cache is made from.

    Attributes:
        interactions: the prepared data.
        settings: the retrieval section.
        item_texts: N texts.
        encoders: space -> loader of its encoder, called once in each actor; "collaborative" and "representation"
            as far as the settings need them. With one for "representation" the cache also holds the users' vectors.
        scorers: dense scorers that vote, by the source's name, fitted on the training part.
        exclude_seen: leave what a user has already taken out of the votes.
        splits: which moments to answer for.
    """

    interactions: Interactions
    settings: RetrievalSettings
    item_texts: Sequence[str] = ()
    encoders: Mapping[str, EncoderLoader] = field(default_factory=dict)
    scorers: Mapping[str, DenseScorer] = field(default_factory=dict)
    exclude_seen: bool = True
    splits: tuple[CacheSplit, ...] = ("train", "valid", "test")

    def key(self, *, checkpoint: str, sid_version: str, data: str) -> CacheKey:
        """The key of the cache of these inputs, whose checkpoint and data the caller names."""
        shape = self.settings.model_dump(mode="json", exclude=HOW_NOT_WHAT)
        content = [shape, self.exclude_seen, list(self.splits), sorted(self.encoders)]
        return CacheKey(checkpoint, sid_version, digest(content)[:16], data)

    def blocks(self, n_queries: int) -> int:
        """Number of blocks of so many queries or users."""
        return -(-n_queries // self.settings.block_queries)

    def rows(self, split: CacheSplit, block: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Users and positions of one block."""
        users, positions = queries_of(self.interactions, split, self.settings.train_positions)
        span = slice(block * self.settings.block_queries, (block + 1) * self.settings.block_queries)
        return users[span], positions[span]

    def histories(self, users_B: NDArray[np.int64], positions_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """What the queries read: the last ``max_history`` items known."""
        return known_histories(self.interactions, users_B, positions_B, self.settings.max_history)


@dataclass(frozen=True)
class Unit:
    """One piece of work: ``block`` of a space or split, and the shard of the text pass."""

    part: str
    block: int
    shard: int = 0


class Worker(Protocol):
    """Does units of one pass; made once in each process.

    Attributes:
        kind: of the pass, as :func:`unit_path` has it.
    """

    kind: str

    def __call__(self, unit: Unit) -> None:
        """Do the unit and commit its file."""

    def reads(self, unit: Unit) -> list[Unit]:
        """Units of the text pass whose files this one reads."""


def unit_path(directory: Path, kind: str, unit: Unit) -> Path:
    """The file that a unit of a pass ("vectors", "text", "rows") commits."""
    if kind == "rows":
        return block_path(directory, unit.part, unit.block)
    return directory / WORK / kind / f"{unit.part}-{unit.shard:05d}-{unit.block:05d}.npy"


class VectorWorker:
    """First pass."""

    kind = "vectors"

    def __init__(self, inputs: CacheInputs, directory: Path) -> None:
        self.inputs, self.directory = inputs, directory
        self.encoders: dict[str, HistoryEncoder] = {}

    def reads(self, unit: Unit) -> list[Unit]:
        """None."""
        return []

    def __call__(self, unit: Unit) -> None:
        """Encode the training part of one block of users."""
        if unit.part not in self.encoders:
            self.encoders[unit.part] = self.inputs.encoders[unit.part]()
        settings, data = self.inputs.settings, self.inputs.interactions
        begin = unit.block * settings.block_queries
        users = np.arange(begin, min(begin + settings.block_queries, data.n_users))
        with single_threaded():
            vectors = self.encoders[unit.part](training_histories(data, users, settings.max_history))
        write_whole(
            unit_path(self.directory, "vectors", unit), npy_writer(vectors), self.directory / WORK / "unfinished"
        )


class TextWorker:
    """Second pass; keeps the shard it worked on last."""

    kind = "text"

    def __init__(self, inputs: CacheInputs, directory: Path, shards: Sequence[Callable[[], Bm25Users]]) -> None:
        self.inputs, self.directory, self.shards = inputs, directory, shards
        self.loaded: tuple[int, Bm25Users] | None = None

    def reads(self, unit: Unit) -> list[Unit]:
        """None."""
        return []

    def __call__(self, unit: Unit) -> None:
        """Search one shard for one block of queries."""
        if self.loaded is None or self.loaded[0] != unit.shard:
            self.loaded = None  # let the old shard go before the next comes
            self.loaded = (unit.shard, self.shards[unit.shard]())
        users, positions = self.inputs.rows(unit.part, unit.block)  # type: ignore[arg-type]
        histories = self.inputs.histories(users, positions)
        found = self.loaded[1].search(histories, users, self.inputs.settings.candidates)
        both = np.stack([found.users_BZ, found.scores_BZ.view(np.int32).astype(np.int64)])
        write_whole(unit_path(self.directory, "text", unit), npy_writer(both), self.directory / WORK / "unfinished")


class RowWorker:
    """Third pass."""

    kind = "rows"

    def __init__(self, inputs: CacheInputs, directory: Path, retriever: Retriever, n_shards: int) -> None:
        self.inputs, self.directory, self.retriever, self.n_shards = inputs, directory, retriever, n_shards
        self.encoders = {space: inputs.encoders[space]() for space in needed_spaces(inputs.settings)}

    def reads(self, unit: Unit) -> list[Unit]:
        """What each shard found for these queries, where there are several."""
        if self.retriever.text is not None or "text" not in self.inputs.settings.paths:
            return []
        return [Unit(unit.part, unit.block, shard) for shard in range(self.n_shards)]

    def __call__(self, unit: Unit) -> None:
        """Answer one block of queries."""
        users, positions = self.inputs.rows(unit.part, unit.block)  # type: ignore[arg-type]
        seen = None
        if self.inputs.exclude_seen:
            longest = int(positions.max(initial=1))
            seen = known_histories(self.inputs.interactions, users, positions, longest)
        with single_threaded():
            histories = self.inputs.histories(users, positions)
            found = self.retriever.retrieve(histories, users, self.encoders, seen_BT=seen, text=self._text(unit))
        table = to_table(users, positions, found)
        path = unit_path(self.directory, "rows", unit)
        write_whole(path, lambda s: pq.write_table(table, s, compression="zstd"), self.directory / WORK / "unfinished")

    def _text(self, unit: Unit) -> Neighbours | None:
        """The text path's candidates, if shards were searched before."""
        parts = []
        for read in self.reads(unit):
            both = np.load(unit_path(self.directory, "text", read), allow_pickle=False)
            parts.append(Neighbours(both[0], both[1].astype(np.int32).view(np.float32)))
        return merge_top(parts, self.inputs.settings.candidates) if parts else None


def npy_writer(array: NDArray[np.generic]) -> Callable[[BinaryIO], object]:
    """Writes an array as .npy to a stream."""
    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return lambda stream: stream.write(buffer.getbuffer())
