"""What a dense scorer is: a model that gives every user a score for every item of the catalog.

Popularity, item-kNN, the linear model, user-kNN and SASRec are dense scorers. They share one call, so one ranking
function evaluates them all and any two can be blended. Arrays, not tensors, cross this door: half of
the scorers are sparse-matrix products.

Shape letters: B users asked about, T history items, N items, W training windows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


class DenseScorer(Protocol):
    """Scores of the whole catalog, higher is better; only their order within a user counts."""

    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N] scores.

        Args:
            histories_BT: int64 [B, T], item indices, oldest first, padded right with -1.
            users_B: int64 [B], user indices for scorers that must leave the user's own data out;
                -1 or None: a history sent along.
        """


@dataclass(frozen=True)
class Probabilities:
    """The softmax over the catalog of a scorer whose scores are logits.

    Attributes:
        scorer: of the logits.
    """

    scorer: DenseScorer

    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N], each row sums to 1."""
        logits_BN = self.scorer.score_histories(histories_BT, users_B)
        weights_BN = np.exp(logits_BN - logits_BN.max(axis=1, keepdims=True))
        return np.asarray(weights_BN / weights_BN.sum(axis=1, keepdims=True), dtype=np.float32)


@dataclass(frozen=True)
class Blend:
    """Weighted sum of several scorers, each standardised per user (z-scores over the catalog).

    Attributes:
        parts: (scorer, weight) pairs.
    """

    parts: Sequence[tuple[DenseScorer, float]]

    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N]; a scorer that gives all items of a user one score adds nothing there."""
        assert self.parts, "a blend of no scorers"
        total: NDArray[np.float32] | float = 0.0
        for scorer, weight in self.parts:
            scores_BN = scorer.score_histories(histories_BT, users_B)
            spread_B1 = scores_BN.std(axis=1, keepdims=True)
            centred_BN = scores_BN - scores_BN.mean(axis=1, keepdims=True)
            total = total + weight * centred_BN / np.where(spread_B1 > 0, spread_B1, 1)
        return np.asarray(total, dtype=np.float32)
