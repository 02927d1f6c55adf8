"""Popularity: everyone gets the items that occur most often in the training part.

The floor of every table: a personalised model that does not clear it has learned nothing.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.data.interactions import Interactions


@dataclass(frozen=True)
class Popularity:
    """Scores by training counts.

    Attributes:
        counts_N: float32 [N], how often each item occurs in the training part.
    """

    counts_N: NDArray[np.float32]

    @classmethod
    def fit(cls, interactions: Interactions) -> Popularity:
        """Count the training interactions of every item."""
        return cls(interactions.train_counts.astype(np.float32))

    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N], the same counts for every user."""
        return np.broadcast_to(self.counts_N, (len(histories_BT), len(self.counts_N))).copy()
