"""What every text encoder offers, and the normalisation that all of them share."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray


@runtime_checkable
class TextEncoder(Protocol):
    """A frozen map from texts to vectors; it can be pickled, so that Ray actors hold one each."""

    @property
    def dimension(self) -> int:
        """E, width of an embedding."""

    @property
    def identity(self) -> str:
        """Hash of all that decides the embedding of a text; part of the cache's address."""

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """float32 [N, E], rows of length 1 (a text without any known word: zeros)."""

    def save(self, directory: Path) -> None:
        """Write what :func:`genrec.encoders.load_encoder` needs to make the same encoder again."""


def normalised(rows_NE: NDArray[np.floating]) -> NDArray[np.float32]:
    """Rows scaled to length 1; zero rows stay zero."""
    norms = np.linalg.norm(rows_NE, axis=1, keepdims=True)
    return np.asarray(rows_NE / np.maximum(norms, 1e-12), dtype=np.float32)
