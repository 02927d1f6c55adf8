"""Are the retrieved users worth anything? Precision against chance, and what their votes know.

A retrieved user is right if its training items hold the target that the query's user took next. Chance is
the share of such users among all others: what random users would give. Their ratio, not the bare
precision, can be compared between head and tail, since a tail target is in few histories.

Shape letters: B queries, Z retrieved users, M items voted for.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from genrec.data.interactions import Interactions
from genrec.retrieval.documents import training_matrix
from genrec.retrieval.neighbours import Neighbours
from genrec.retrieval.votes import SparseItems


@dataclass(frozen=True)
class RetrievalPrecision:
    """How often retrieved users hold the target.

    Attributes:
        precision: mean share of the first k users whose training items hold the target.
        chance: the same share among all other users.
        queries: number of queries.
    """

    precision: float
    chance: float
    queries: int

    @property
    def lift(self) -> float:
        """Precision in units of chance."""
        return self.precision / self.chance if self.chance > 0 else float("nan")


def retrieval_precision(
    neighbours: Neighbours,
    users_B: NDArray[np.int64],
    targets_B: NDArray[np.int64],
    interactions: Interactions,
    k: int,
) -> dict[str, RetrievalPrecision]:
    """Precision of the first ``k`` users against chance.

    A place that stays empty counts as a miss.

    Args:
        neighbours: retrieved for each query.
        users_B: int64 [B], the users asked about.
        targets_B: int64 [B], what they took next.
        interactions: whose training part decides.
        k: how many retrieved users count.

    Returns:
        "all", "head" and "tail" (by the target), a segment without queries left out.
    """
    held_NU = training_matrix(interactions).T.tocsr()
    holders_N = np.diff(held_NU.indptr)
    chosen = neighbours.best(k)
    holds_BZ = chosen.found_BZ & _contains(held_NU, targets_B, chosen.users_BZ)
    own_B = _contains(held_NU, targets_B, users_B[:, None])[:, 0] & (users_B >= 0)
    chance_B = (holders_N[targets_B] - own_B) / np.maximum(interactions.n_users - (users_B >= 0), 1)
    head_B = interactions.head_items[targets_B]
    segments: Mapping[str, NDArray[np.bool_]] = {"all": np.ones(len(targets_B), bool), "head": head_B, "tail": ~head_B}
    return {
        name: RetrievalPrecision(
            float(holds_BZ[rows].mean(axis=0).sum() / k), float(chance_B[rows].mean()), int(rows.sum())
        )
        for name, rows in segments.items()
        if rows.any()
    }


@dataclass(frozen=True)
class VoteQuality:
    """What a source's votes know of the target.

    Attributes:
        coverage: share of queries whose votes name the target at all: the ceiling of copying from them.
        hit_10: share whose ten strongest votes hold it.
        ndcg_10: discounted gain of the target among the ten strongest.
        mass: mean probability given to the target.
    """

    coverage: float
    hit_10: float
    ndcg_10: float
    mass: float


def vote_quality(votes: SparseItems, targets_B: NDArray[np.int64]) -> VoteQuality:
    """Rank and probability of the targets in the votes."""
    right_BM = votes.items_BM == targets_B[:, None]
    named_B = right_BM.any(axis=1)
    rank_B = np.where(named_B, right_BM.argmax(axis=1), votes.items_BM.shape[1])
    top_B = named_B & (rank_B < 10)
    gain_B = np.where(top_B, 1 / np.log2(rank_B + 2), 0.0)
    mass_B = (votes.weights_BM * right_BM).sum(axis=1)
    return VoteQuality(float(named_B.mean()), float(top_B.mean()), float(gain_B.mean()), float(mass_B.mean()))


def _contains(held_NU: sp.csr_matrix, items_B: NDArray[np.int64], users_BZ: NDArray[np.int64]) -> NDArray[np.bool_]:
    """bool [B, Z], whether each user's training items hold the row's item (user -1: False)."""
    indptr, indices = held_NU.indptr, held_NU.indices
    n_users = held_NU.shape[1]
    sizes = np.diff(indptr)
    pairs = np.repeat(np.arange(len(sizes)), sizes).astype(np.int64) * n_users + indices  # ascending
    wanted_BZ = items_B[:, None] * n_users + np.maximum(users_BZ, 0)
    at = np.minimum(np.searchsorted(pairs, wanted_BZ), max(len(pairs) - 1, 0))
    return (pairs[at] == wanted_BZ) & (users_BZ >= 0)
