"""Random codes: the control at equal budget. Whatever beats them owes it to what the codes mean.

A code is a hash of the embedding and the seed, so it says nothing of similarity, yet the same item gets
the same code in any order and any batch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genrec.tokenizer.quantizer import CHUNK, Codes, FloatRows, Quantizer


class RandomCodes(Quantizer):
    """Codes drawn uniformly by a hash.

    Args:
        level_sizes: V of each level.
        seed: another seed gives other codes.
    """

    kind = "random"

    def __init__(self, level_sizes: Sequence[int], *, seed: int = 0) -> None:
        super().__init__(level_sizes)
        self.seed = seed
        self.mean_E: NDArray[np.float32] = np.zeros(0, dtype=np.float32)

    def options(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        return {**super().options(), "seed": self.seed}

    def fit(self, embeddings_NE: FloatRows) -> dict[str, float]:
        """Remember the mean, the best reconstruction of one who knows nothing."""
        self.mean_E = np.asarray(np.mean(embeddings_NE, axis=0, dtype=np.float64), dtype=np.float32)
        return {}

    def encode(self, embeddings_NE: FloatRows) -> Codes:
        """int32 [N, L], uniform in each level."""
        codes_NL = np.empty((len(embeddings_NE), self.n_levels), dtype=np.int32)
        for begin in range(0, len(embeddings_NE), CHUNK):
            rows = np.ascontiguousarray(embeddings_NE[begin : begin + CHUNK], dtype=np.float32)
            for level, size in enumerate(self.level_sizes):
                codes_NL[begin : begin + CHUNK, level] = self._hashed(rows, level) % np.uint64(size)
        return codes_NL

    def decode(self, codes_NL: NDArray[np.integer]) -> FloatRows:
        """The mean embedding, whatever the codes."""
        return np.broadcast_to(self.mean_E, (len(codes_NL), len(self.mean_E))).copy()

    def distances(self, embeddings_NE: FloatRows, codes_NL: NDArray[np.integer], level: int) -> FloatRows:
        """Random preferences; the code that :meth:`encode` chose comes first."""
        size = self.level_sizes[level]
        first_N = np.asarray(codes_NL)[:, level].astype(np.int64)
        order_N1 = self._hashed(np.ascontiguousarray(embeddings_NE, dtype=np.float32), self.n_levels + level)[:, None]
        step_V = np.arange(size, dtype=np.uint64)
        distances_NV = (_mixed(order_N1 + step_V) >> np.uint64(40)).astype(np.float32) + 1.0
        distances_NV[np.arange(len(first_N)), first_N] = 0.0
        return distances_NV

    def tensors(self) -> dict[str, NDArray[Any]]:
        """``mean``: float32 [E]."""
        return {"mean": self.mean_E}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take the mean back."""
        self.mean_E = tensors["mean"]

    def _hashed(self, rows_NE: FloatRows, stream: int) -> NDArray[np.uint64]:
        """uint64 [N]: multilinear hash of the rows' bits with random odd factors, then mixed."""
        rng = np.random.default_rng([self.seed, stream])
        factors_E = rng.integers(0, 2**63, rows_NE.shape[1], dtype=np.uint64) * np.uint64(2) + np.uint64(1)
        return _mixed(rows_NE.view(np.uint32).astype(np.uint64) @ factors_E)


def _mixed(value: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """splitmix64's finaliser: every input bit reaches every output bit."""
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return value ^ (value >> np.uint64(31))
