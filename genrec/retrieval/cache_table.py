"""What a retrieval cache looks like on disk, and how it is read.

    <directory>/cache.json                        key, plan; written last: without it the cache is unfinished
    <directory>/split=test/part-00000.parquet     one file a block of queries, in the order of (user, position)
    <directory>/representations.npy               float32 [U, D], if representations were asked for

A row is one moment of a user: (user, position), where the first ``position`` items of the user were known.
Columns: ``users``, ``scores`` [v] the neighbours; ``items_<source>``, ``weights_<source>`` [M] the votes.

The key says what the cache was made from: checkpoint, version of the semantic IDs, settings, data. A reader
gives the key it expects; another one is an error, never a warning.

Shape letters: B rows, R neighbours kept, M items voted for, U users, D width.
"""

from __future__ import annotations

import json
import os
import uuid
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from genrec.artifacts import canonical_json
from genrec.data.interactions import Interactions
from genrec.errors import ArtifactError
from genrec.retrieval.neighbours import Neighbours
from genrec.retrieval.retriever import Retrieved
from genrec.retrieval.votes import SparseItems

CACHE_FILE = "cache.json"
REPRESENTATIONS = "representations.npy"
CacheSplit = Literal["train", "valid", "test"]


@dataclass(frozen=True)
class CacheKey:
    """What a cache was made from.

    Attributes:
        checkpoint: key or digest of the models whose vectors it used.
        sid_version: version of the SidTable the representations speak; "" for none.
        settings: digest of the settings that shape the content.
        data: key or digest of interactions, texts and splits.
    """

    checkpoint: str
    sid_version: str
    settings: str
    data: str


def queries_of(
    interactions: Interactions, split: CacheSplit, train_positions: int | None
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Users and positions to answer for: each target's moment, or every moment of the training part.

    In training the first item is known before the first target, so positions go from 1 to ``train_end - 1``;
    of these the last ``train_positions`` (None: all).
    """
    if split != "train":
        users = interactions.users_with(split)
        at = interactions.valid_at if split == "valid" else interactions.test_at
        return users, at[users].astype(np.int64)
    last_U = interactions.train_end.astype(np.int64) - 1
    first_U = np.ones_like(last_U) if train_positions is None else np.maximum(last_U - train_positions + 1, 1)
    counts_U = np.maximum(last_U - first_U + 1, 0)
    users = np.repeat(np.arange(interactions.n_users), counts_U)
    within = np.arange(len(users)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
    return users, first_U[users] + within


def to_table(users_B: NDArray[np.int64], positions_B: NDArray[np.int64], found: Retrieved) -> pa.Table:
    """One block of rows as an Arrow table."""
    columns: dict[str, pa.Array] = {
        "user": pa.array(users_B.astype(np.int32)),
        "position": pa.array(positions_B.astype(np.int32)),
        "users": _lists(found.neighbours.users_BZ.astype(np.int32)),
        "scores": _lists(found.neighbours.scores_BZ),
    }
    for source, votes in found.votes.items():
        columns[f"items_{source}"] = _lists(votes.items_BM.astype(np.int32))
        columns[f"weights_{source}"] = _lists(votes.weights_BM)
    return pa.table(columns)


def write_whole(path: Path, write: Callable[[BinaryIO], object], scratch: Path) -> None:
    """Write a file so that it is there whole or not at all.

    Args:
        path: the file.
        write: writes its content to the open stream.
        scratch: directory on the same file system, where half a file may be left by a kill.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch.mkdir(parents=True, exist_ok=True)
    unfinished = scratch / f"{path.parent.name}.{path.name}.{uuid.uuid4().hex}"
    with unfinished.open("wb") as stream:
        write(stream)
        stream.flush()
        os.fsync(stream.fileno())
    os.replace(unfinished, path)


def write_plan(path: Path, key: CacheKey, plan: Mapping[str, Any], scratch: Path) -> None:
    """Write what :func:`read_plan` reads."""
    write_whole(path, lambda stream: stream.write(canonical_json({"key": asdict(key), **plan})), scratch)


def read_plan(path: Path, key: CacheKey) -> dict[str, Any]:
    """The plan in ``path``, if it was made for ``key``.

    Raises:
        ArtifactError: unreadable, or made from something else; the text says from what.
    """
    try:
        plan = json.loads(path.read_bytes())
        made = dict(plan["key"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ArtifactError(
            f"{path}: not a retrieval cache ({error}). Delete the directory, build it again."
        ) from error
    stale = [
        f"{name} {made.get(name)!r}, asked for {value!r}"
        for name, value in asdict(key).items()
        if made.get(name) != value
    ]
    if stale:
        raise ArtifactError(
            f"{path}: the cache is stale: made with {'; '.join(stale)}. Delete it or build it elsewhere."
        )
    return dict(plan)


@dataclass(frozen=True, eq=False)
class CachedRows:
    """All rows of one split, in the order of (user, position).

    Attributes:
        users_B, positions_B: int64 [B].
        neighbours: kept users of each row.
        votes: source -> distribution over items.
    """

    users_B: NDArray[np.int64]
    positions_B: NDArray[np.int64]
    neighbours: Neighbours
    votes: Mapping[str, SparseItems]

    def rows_of(self, users: NDArray[np.int64], positions: NDArray[np.int64]) -> NDArray[np.int64]:
        """Row of each (user, position), -1 where the cache has none (any shape)."""
        if not len(self.users_B):
            return np.full(np.shape(users), -1, dtype=np.int64)
        span = int(max(self.positions_B.max(), np.max(positions, initial=0))) + 1
        have, wanted = self.users_B * span + self.positions_B, np.asarray(users) * span + positions
        at = np.minimum(np.searchsorted(have, wanted), len(have) - 1)
        return np.where((have[at] == wanted) & (np.asarray(users) >= 0) & (np.asarray(positions) >= 0), at, -1)

    def take(self, rows_B: NDArray[np.int64]) -> CachedRows:
        """These rows; -1 gives a row in which nobody was found."""
        missing = rows_B < 0
        at = np.where(missing, 0, rows_B)

        def pick(values: NDArray[Any], pad: float) -> NDArray[Any]:
            return np.where(missing[:, None], np.asarray(pad, dtype=values.dtype), values[at])

        kept = self.neighbours
        return CachedRows(
            np.where(missing, -1, self.users_B[at]),
            np.where(missing, -1, self.positions_B[at]),
            Neighbours(pick(kept.users_BZ, -1), pick(kept.scores_BZ, 0)),
            {name: SparseItems(pick(v.items_BM, -1), pick(v.weights_BM, 0)) for name, v in self.votes.items()},
        )


class RetrievalCache:
    """A finished cache, opened for reading."""

    def __init__(self, directory: Path, plan: Mapping[str, Any]) -> None:
        self.directory, self.plan = directory, plan

    @classmethod
    def open(cls, directory: Path, key: CacheKey) -> RetrievalCache:
        """Open the cache in ``directory``, which must have been made for ``key``.

        Raises:
            ArtifactError: absent, unfinished, stale, or a block is missing.
        """
        path = directory / CACHE_FILE
        if not path.is_file():
            raise ArtifactError(f"{directory}: no finished retrieval cache there; build it (an unfinished one resumes)")
        plan = read_plan(path, key)
        for split, blocks in plan["blocks"].items():
            for block in range(blocks):
                if not block_path(directory, split, block).is_file():
                    raise ArtifactError(f"{block_path(directory, split, block)}: is missing; build the cache again")
        return cls(directory, plan)

    def table(self, split: CacheSplit) -> pa.Table:
        """All rows of a split.

        Raises:
            ArtifactError: the cache was built without that split, or a block cannot be read.
        """
        if split not in self.plan["blocks"]:
            raise ArtifactError(
                f"{self.directory}: split {split!r} is not cached, only {', '.join(self.plan['blocks'])}"
            )
        try:
            parts = [
                pq.read_table(block_path(self.directory, split, b), partitioning=None)
                for b in range(self.plan["blocks"][split])
            ]
        except (OSError, pa.ArrowInvalid) as error:
            raise ArtifactError(
                f"{self.directory}: a block of split {split!r} is damaged ({error}); build again"
            ) from error
        return pa.concat_tables(parts)

    def rows(self, split: CacheSplit) -> CachedRows:
        """All rows of a split as arrays."""
        table = self.table(split)
        kept = Neighbours(_matrix(table, "users").astype(np.int64), _matrix(table, "scores"))
        sources = [name.removeprefix("items_") for name in table.column_names if name.startswith("items_")]
        votes = {
            name: SparseItems(_matrix(table, f"items_{name}").astype(np.int64), _matrix(table, f"weights_{name}"))
            for name in sources
        }
        users, positions = (table[name].to_numpy().astype(np.int64) for name in ("user", "position"))
        return CachedRows(users, positions, kept, votes)

    def representations(self) -> NDArray[np.float32]:
        """float32 [U, D], each user's mean-pooled vector, read from disk as needed.

        Raises:
            ArtifactError: the cache was built without them.
        """
        path = self.directory / REPRESENTATIONS
        if not path.is_file():
            raise ArtifactError(f"{path}: this cache holds no representations; give its build an encoder for them")
        return np.load(path, mmap_mode="r", allow_pickle=False)


def block_path(directory: Path, split: str, block: int) -> Path:
    """File of one block of a split."""
    return directory / f"split={split}" / f"part-{block:05d}.parquet"


def _lists(values_BK: NDArray[Any]) -> pa.Array:
    return pa.FixedSizeListArray.from_arrays(pa.array(values_BK.ravel()), values_BK.shape[1])


def _matrix(table: pa.Table, name: str) -> NDArray[Any]:
    column = table[name]
    flat = (
        np.concatenate([np.asarray(chunk.flatten()) for chunk in column.chunks]) if column.num_chunks else np.empty(0)
    )
    return flat.reshape(table.num_rows, column.type.list_size)
