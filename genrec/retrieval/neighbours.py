"""Retrieved users, ranked the same way everywhere: by score, equal scores by user index.

Every search, shard and merge goes through one total order, so that no result depends on how the users
were cut into shards or the queries into batches. Score and index are packed into one integer per
candidate (:func:`rank_keys`); partial sorting of integers is fast and has no ties.

Shape letters: B queries, U candidate users, Z kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

PAD_USER = -1
_INDEX_BITS = np.uint64(32)
_INDEX_MASK = np.uint64(0xFFFFFFFF)
_SIGN = np.uint32(0x80000000)


@dataclass(frozen=True, eq=False)
class Neighbours:
    """Users retrieved for each query, best first.

    Attributes:
        users_BZ: int64 [B, Z], user indices, PAD_USER where fewer were found.
        scores_BZ: float32 [B, Z], 0 at padding.
    """

    users_BZ: NDArray[np.int64]
    scores_BZ: NDArray[np.float32]

    @property
    def found_BZ(self) -> NDArray[np.bool_]:
        """bool [B, Z], True where there is a user."""
        return self.users_BZ != PAD_USER

    def best(self, k: int) -> Neighbours:
        """The first ``k`` of every row."""
        return Neighbours(self.users_BZ[:, :k], self.scores_BZ[:, :k])

    @classmethod
    def none(cls, n_queries: int, z: int) -> Neighbours:
        """Rows in which nobody was found."""
        return cls(np.full((n_queries, z), PAD_USER, dtype=np.int64), np.zeros((n_queries, z), dtype=np.float32))


def rank_keys(scores: NDArray[np.float32], users: NDArray[np.int64]) -> NDArray[np.uint64]:
    """Integers that sort (descending) by score, equal scores by ascending user; 0 for PAD_USER.

    Args:
        scores: float32, finite.
        users: int64 of the same or a broadcastable shape, below 2**32 - 1.
    """
    bits = (np.ascontiguousarray(scores, dtype=np.float32) + np.float32(0)).view(np.uint32)  # + 0: no negative zero
    ordered = np.where(bits & _SIGN, ~bits, bits | _SIGN).astype(np.uint64)
    keys = (ordered << _INDEX_BITS) | (_INDEX_MASK - np.maximum(users, 0).astype(np.uint64))
    return np.where(users == PAD_USER, np.uint64(0), keys)


def top_keys(keys_BU: NDArray[np.uint64], z: int) -> Neighbours:
    """The ``z`` largest keys of every row, as neighbours; a row with fewer is padded."""
    width = keys_BU.shape[1]
    if width > z:
        keys_BU = np.partition(keys_BU, width - z, axis=1)[:, width - z :]
    keys_BZ = np.sort(keys_BU, axis=1)[:, ::-1]
    if width < z:
        keys_BZ = np.pad(keys_BZ, ((0, 0), (0, z - width)))
    ordered = (keys_BZ >> _INDEX_BITS).astype(np.uint32)
    bits = np.where(ordered & _SIGN, ordered ^ _SIGN, ~ordered)
    found = keys_BZ != 0
    users_BZ = np.where(found, (_INDEX_MASK - (keys_BZ & _INDEX_MASK)).astype(np.int64), PAD_USER)
    return Neighbours(users_BZ, np.where(found, bits.view(np.float32), np.float32(0)))


def merge_top(parts: Sequence[Neighbours], z: int) -> Neighbours:
    """The best ``z`` of several retrievals over disjoint sets of users (shards)."""
    keys = [rank_keys(part.scores_BZ, part.users_BZ) for part in parts]
    return top_keys(np.concatenate(keys, axis=1), z)


def top_positive(scores_BU: NDArray[np.float32], z: int, *, first: int = 0) -> Neighbours:
    """The ``z`` best columns of every row among those above 0; column c stands for user ``first + c``."""
    width = scores_BU.shape[1]
    if width <= z:
        floor_B1 = np.zeros((len(scores_BU), 1), dtype=np.float32)
    else:
        floor_B1 = np.partition(scores_BU, width - z, axis=1)[:, width - z, None]
    rows, columns = np.nonzero((scores_BU >= floor_B1) & (scores_BU > 0))  # ties at the floor are all in
    counts_B = np.bincount(rows, minlength=len(scores_BU))
    places = np.arange(len(rows)) - np.repeat(np.cumsum(counts_B) - counts_B, counts_B)
    keys_BZ = np.zeros((len(scores_BU), max(int(counts_B.max(initial=0)), 1)), dtype=np.uint64)
    keys_BZ[rows, places] = rank_keys(scores_BU[rows, columns], columns.astype(np.int64) + first)
    return top_keys(keys_BZ, z)
