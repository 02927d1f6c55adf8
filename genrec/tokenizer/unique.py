"""Unique semantic IDs: a leaf of the codebooks' tree holds only so many items, the others move on.

Two methods, one placement:

* collision level: a leaf holds C items; a last code 0 .. C-1 tells them apart. C leaves headroom.
* re-allocation: a leaf holds one item; the colliding ones move to the nearest free code of the last
  level (a full node sends them to the next nearest code of the level before, and so on up).

The items nearest to a leaf's centroid stay; ties go to the lower index, so the result does not depend on
chance. All steps are array operations over the items that must move, in chunks; which leaves are taken is asked
of sorted keys, so no round looks at the whole catalog. A million items with many collisions stay near-linear
in time and bounded in memory.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from genrec.errors import SettingsError
from genrec.tokenizer.trie import row_keys

Codes = NDArray[np.int32]
IntArray = NDArray[np.int64]
Distances = Callable[[IntArray, NDArray[np.integer], int], NDArray[np.float32]]
"""(rows, their codes [M, L], level) -> [M, V] distance of the rows' embeddings to that level's codes."""
CHUNK = 16_384


def collision_capacity(codes_NL: NDArray[np.integer]) -> int:
    """Size of the collision level: twice the most crowded leaf, at least 16 (headroom for new items)."""
    return max(16, 2 * int(np.bincount(prefix_groups(codes_NL, codes_NL.shape[1])).max()))


def prefix_groups(codes_NL: NDArray[np.integer], depth: int) -> IntArray:
    """int64 [N], equal numbers for equal prefixes of ``depth`` codes, in lexicographic order."""
    group_N = np.zeros(len(codes_NL), dtype=np.int64)
    for level in range(depth):
        key_N = group_N * (int(codes_NL[:, level].max(initial=0)) + 1) + codes_NL[:, level]
        group_N = np.unique(key_N, return_inverse=True)[1].reshape(-1)
    return group_N


def ranks(group_N: IntArray) -> IntArray:
    """int64 [N], how many earlier rows have the same group."""
    order = np.argsort(group_N, kind="stable")
    ordered = group_N[order]
    begins = np.searchsorted(ordered, ordered)
    rank_N = np.empty(len(group_N), dtype=np.int64)
    rank_N[order] = np.arange(len(group_N)) - begins
    return rank_N


def with_collision_code(codes_NL: Codes, n_old: int, old_rank: NDArray[np.integer]) -> Codes:
    """Append the collision code: old rows keep theirs, new ones count on from the largest of their leaf."""
    group_N = prefix_groups(codes_NL, codes_NL.shape[1])
    next_free = np.zeros(int(group_N.max()) + 1, dtype=np.int64)
    np.maximum.at(next_free, group_N[:n_old], old_rank.astype(np.int64) + 1)
    rank_N = np.concatenate([old_rank.astype(np.int64), ranks(group_N[n_old:]) + next_free[group_N[n_old:]]])
    return np.column_stack([codes_NL, rank_N]).astype(np.int32)


def place(
    codes_NL: Codes, level_sizes: tuple[int, ...], capacity: int, distances: Distances, *, n_old: int = 0
) -> Codes:
    """Move items until no leaf holds more than ``capacity``.

    Args:
        codes_NL: the codes wanted, old items first.
        level_sizes: V of each level.
        capacity: items a leaf may hold.
        distances: preferences of the items that must move.
        n_old: the first so many rows stay as they are, whatever happens.

    Returns:
        int32 [N, L].

    Raises:
        SettingsError: the tree has too few leaves.
    """
    codes = codes_NL.copy()
    n_levels = codes.shape[1]
    room = float(np.prod(np.asarray(level_sizes, dtype=np.float64))) * capacity
    if len(codes) > room:
        raise _too_small(level_sizes, len(codes))
    crowded = _crowded(codes, capacity, n_old)
    leaves = _Leaves(np.delete(codes, crowded, axis=0))

    def seek(rows: IntArray, level: int) -> IntArray:
        """Try all codes from ``level`` down, nearest first; returns the rows that found no room."""
        if level == n_levels - 1:
            return _settle(codes, leaves, rows, level_sizes, capacity, distances)
        order = _nearest_first(rows, codes, level, level_sizes[level], distances)
        for turn in range(level_sizes[level]):
            if not len(rows):
                break
            codes[rows, level] = order[:, turn]
            left = seek(rows, level + 1)
            order, rows = order[np.isin(rows, left)], left
        return rows

    homeless = crowded
    for level in reversed(range(n_levels)):
        codes[homeless] = codes_NL[homeless]
        homeless = seek(homeless, level) if len(homeless) else homeless
    if len(homeless):
        raise _too_small(level_sizes, len(codes))
    return codes


def _too_small(level_sizes: tuple[int, ...], n_items: int) -> SettingsError:
    return SettingsError(
        f"tokenizer.level_sizes: {list(level_sizes)} leaves no free code for some of {n_items} items; use larger or "
        "more levels, or tokenizer.unique=collision-level"
    )


def _crowded(codes_NL: Codes, capacity: int, n_old: int) -> IntArray:
    """New rows whose leaf holds more than ``capacity`` items."""
    group_N = prefix_groups(codes_NL, codes_NL.shape[1])
    over = np.bincount(group_N)[group_N] > capacity
    over[:n_old] = False
    return np.flatnonzero(over)


def _nearest_first(rows: IntArray, codes_NL: Codes, level: int, size: int, distances: Distances) -> NDArray[np.integer]:
    """int [M, V], the codes of a level by rising distance; small integers, for M may be large."""
    order_MV = np.empty((len(rows), size), dtype=np.int16 if size < 2**15 else np.int32)
    for begin in range(0, len(rows), CHUNK):
        part = rows[begin : begin + CHUNK]
        order_MV[begin : begin + CHUNK] = np.argsort(distances(part, codes_NL[part], level), axis=1, kind="stable")
    return order_MV


class _Leaves:
    """How many items each leaf holds: the codes of all settled items, as sorted keys.

    Those who never move are sorted once; those who settle later are merged into a list of their own.
    """

    def __init__(self, codes_NL: Codes) -> None:
        self._fixed = np.sort(row_keys(codes_NL))
        self._later = self._fixed[:0]

    def add(self, codes_ML: Codes) -> None:
        """Items that have settled."""
        keys = np.sort(row_keys(codes_ML))
        self._later = np.insert(self._later, np.searchsorted(self._later, keys), keys)

    def taken(self, prefixes_PL: Codes, size: int) -> IntArray:
        """int64 [P * V], items at each leaf below distinct prefixes (rows of codes whose last one does not count)."""
        first, beyond = prefixes_PL.copy(), prefixes_PL.copy()
        first[:, -1], beyond[:, -1] = 0, size
        taken = np.zeros(len(prefixes_PL) * size, dtype=np.int64)
        for keys in (self._fixed, self._later):
            begin, end = np.searchsorted(keys, row_keys(first)), np.searchsorted(keys, row_keys(beyond))
            held = end - begin
            at = np.arange(held.sum()) + np.repeat(begin - np.cumsum(held) + held, held)
            last = keys[at].view(">i4").reshape(len(at), prefixes_PL.shape[1])[:, -1]
            taken += np.bincount(np.repeat(np.arange(len(held)), held) * size + last, minlength=len(taken))
        return taken


def _settle(
    codes_NL: Codes,
    leaves: _Leaves,
    movers: IntArray,
    level_sizes: tuple[int, ...],
    capacity: int,
    distances: Distances,
) -> IntArray:
    """Give movers the nearest free last code below their prefix; returns those whose prefix is full.

    Writes into ``codes_NL`` and ``leaves``.
    """
    last, size = codes_NL.shape[1] - 1, level_sizes[-1]
    prefixes_ML = codes_NL[movers]
    prefixes_ML[:, last] = 0
    order = np.argsort(row_keys(prefixes_ML), kind="stable")
    movers, prefixes_ML = movers[order], prefixes_ML[order]
    left: list[IntArray] = []
    for begin in range(0, len(movers), CHUNK):
        rows, prefixes = movers[begin : begin + CHUNK], prefixes_ML[begin : begin + CHUNK]
        _, first, local_M = np.unique(row_keys(prefixes), return_index=True, return_inverse=True)
        free = capacity - leaves.taken(prefixes[first], size)
        preference_MV = distances(rows, codes_NL[rows], last)
        code_M = _proposals(preference_MV, local_M.reshape(-1), free, size)
        done = code_M >= 0
        codes_NL[rows[done], last] = code_M[done]
        leaves.add(codes_NL[rows[done]])
        left.append(rows[~done])
    return np.sort(np.concatenate(left)) if left else np.empty(0, dtype=np.int64)


def _proposals(preference_MV: NDArray[np.float32], local_M: IntArray, free: IntArray, size: int) -> IntArray:
    """Rounds: everyone asks for the nearest code with room; each code takes the nearest askers.

    Returns:
        int64 [M], the code given, -1 where the prefix is full. ``free`` [prefixes * V] is used up.
    """
    order_MV = np.argsort(preference_MV, axis=1, kind="stable")
    at_M = np.zeros(len(order_MV), dtype=np.int64)
    code_M = np.full(len(order_MV), -1, dtype=np.int64)
    waiting = np.arange(len(order_MV))
    while len(waiting):
        asked = order_MV[waiting, at_M[waiting]]
        leaf = local_M[waiting] * size + asked
        nearest_first = np.lexsort((waiting, preference_MV[waiting, asked], leaf))
        rank = np.empty(len(waiting), dtype=np.int64)
        rank[nearest_first] = ranks(leaf[nearest_first])
        accepted = rank < free[leaf]
        code_M[waiting[accepted]] = asked[accepted]
        np.subtract.at(free, leaf[accepted], 1)
        waiting = waiting[~accepted]
        at_M[waiting] += 1
        waiting = waiting[at_M[waiting] < size]
    return code_M
