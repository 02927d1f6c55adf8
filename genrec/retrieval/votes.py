"""Neighbours speak in items: each source gives every query a sparse distribution over items.

A mean-pooled vector of a neighbour cannot name an item; its training items can. A neighbour's vote for
one of its items weighs

    (score of the neighbour / best score of the row) ** score_power
    * recency ** (steps from the end of the neighbour's training part)
    * (training count of the item) ** popularity_power

Popular items are in many histories whoever the neighbours are, which the last factor takes back (-0.5
on Beauty). A dense scorer (item-kNN, SASRec ...) votes with its scores. Seen items are dropped first, the M best
are kept, and what is left is scaled to sum 1.

Shape letters: B queries, T history items, N items, U users, Z neighbours, M items voted for.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray

from genrec.config import RetrievalSettings
from genrec.data.interactions import Interactions
from genrec.models.dense import DenseScorer
from genrec.retrieval.documents import training_matrix
from genrec.retrieval.neighbours import PAD_USER, Neighbours, top_positive

PAD = -1
CELLS_AT_ONCE = 4_000_000
"""Cells of a dense [B, N] table held at once, which bounds the memory of a vote."""


@dataclass(frozen=True, eq=False)
class SparseItems:
    """A distribution over few items for each query, best first.

    Attributes:
        items_BM: int64 [B, M], item indices, -1 for padding.
        weights_BM: float32 [B, M], sums to 1 in a row with any item, 0 at padding.
    """

    items_BM: NDArray[np.int64]
    weights_BM: NDArray[np.float32]


@dataclass(frozen=True, eq=False)
class NeighbourVotes:
    """Turns neighbours into votes for items.

    Attributes:
        items_UN: float32 CSR [U, N], a user's training items, weighted by recency and popularity.
        score_power: exponent of a neighbour's relative score.
    """

    items_UN: sp.csr_matrix
    score_power: float

    @classmethod
    def fit(cls, interactions: Interactions, settings: RetrievalSettings) -> NeighbourVotes:
        """Weigh the training items of every user."""
        items_UN = training_matrix(interactions, recency=settings.vote_recency)
        counts_N = np.maximum(interactions.train_counts, 1).astype(np.float64)
        damping_N = (counts_N**settings.vote_popularity_power).astype(np.float32)
        items_UN.data *= damping_N[items_UN.indices]
        return cls(items_UN, settings.vote_score_power)

    def voters(self, neighbours: Neighbours) -> sp.csr_matrix:
        """Float32 CSR [B, U], what each neighbour's word weighs."""
        rows, places = np.nonzero(neighbours.found_BZ)
        best_B = neighbours.scores_BZ.max(axis=1, initial=0)
        relative = neighbours.scores_BZ[rows, places] / np.where(best_B > 0, best_B, 1)[rows]
        weight = np.maximum(relative, 0) ** np.float32(self.score_power)
        shape = (len(neighbours.users_BZ), self.items_UN.shape[0])
        return sp.csr_matrix((weight, (rows, neighbours.users_BZ[rows, places])), shape=shape)

    def vote(self, neighbours: Neighbours, m: int, seen_BT: NDArray[np.int64] | None = None) -> SparseItems:
        """The ``m`` items that the neighbours vote for most.

        Args:
            neighbours: of each query.
            m: how many items.
            seen_BT: int64 [B, T], items not to vote for, padded with -1.
        """
        voters_BU = self.voters(neighbours)
        step = max(1, CELLS_AT_ONCE // self.items_UN.shape[1])
        parts = [
            _strongest(
                (voters_BU[begin : begin + step] @ self.items_UN).toarray(),
                m,
                None if seen_BT is None else seen_BT[begin : begin + step],
            )
            for begin in range(0, voters_BU.shape[0], step)
        ]
        return _joined(parts, m)


def scorer_votes(
    scorer: DenseScorer,
    histories_BT: NDArray[np.int64],
    users_B: NDArray[np.int64],
    m: int,
    *,
    n_items: int,
    seen_BT: NDArray[np.int64] | None = None,
) -> SparseItems:
    """The ``m`` items that a dense scorer rates highest above zero, weighted by its scores.

    For scores that are weights (item-kNN's co-occurrences), not for logits.
    """
    step = max(1, CELLS_AT_ONCE // n_items)
    parts = [
        _strongest(
            scorer.score_histories(histories_BT[begin : begin + step], users_B[begin : begin + step]),
            m,
            None if seen_BT is None else seen_BT[begin : begin + step],
        )
        for begin in range(0, len(histories_BT), step)
    ]
    return _joined(parts, m)


def _strongest(scores_BN: NDArray[np.float32], m: int, seen_BT: NDArray[np.int64] | None) -> SparseItems:
    if seen_BT is not None:
        rows, steps = np.nonzero(seen_BT != PAD)
        scores_BN = scores_BN.copy()
        scores_BN[rows, seen_BT[rows, steps]] = 0
    best = top_positive(scores_BN, m)
    total_B1 = best.scores_BZ.sum(axis=1, keepdims=True, dtype=np.float64)
    weights_BM = (best.scores_BZ / np.where(total_B1 > 0, total_B1, 1)).astype(np.float32)
    return SparseItems(np.where(best.users_BZ == PAD_USER, PAD, best.users_BZ), weights_BM)


def _joined(parts: list[SparseItems], m: int) -> SparseItems:
    if not parts:
        return SparseItems(np.empty((0, m), dtype=np.int64), np.empty((0, m), dtype=np.float32))
    return SparseItems(
        np.concatenate([part.items_BM for part in parts]), np.concatenate([part.weights_BM for part in parts])
    )
