"""EvalFrame (contract 7): what a model answered, for every metric to read."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class EvalFrame:
    """Ranked lists of U' evaluated users.

    Attributes:
        model: name of the model.
        users: int64 [U'], user indices, ascending.
        lists: int64 [U', K], ranked items, best first; -1 fills a list that ran short.
        targets: int64 [U'], the held-out item.
        segments: name -> bool [U'], membership ("head", "tail", "cold", ...); "all" is implied.
        scores: float [U', K], log-probability or score of each listed item, or None.
        seed: seed of the model's training; None for a deterministic model.
    """

    model: str
    users: NDArray[np.int64]
    lists: NDArray[np.int64]
    targets: NDArray[np.int64]
    segments: dict[str, NDArray[np.bool_]]
    scores: NDArray[np.float32] | None = None
    seed: int | None = None

    @property
    def ranks(self) -> NDArray[np.int64]:
        """int64 [U'], 0-based rank of the target in its list; K where it is not listed."""
        hits = self.lists == self.targets[:, None]
        return np.where(hits.any(axis=1), hits.argmax(axis=1), self.lists.shape[1])
