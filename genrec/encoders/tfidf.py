"""TF-IDF + truncated SVD (latent semantic analysis): the encoder that needs no weights.

It is fitted on the catalog's texts; its state (vocabulary as JSON, weights as safetensors) encodes new
items later. Source: Deerwester et al. 1990; the counts are damped by 1 + log.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from genrec.artifacts import digest
from genrec.encoders.protocol import normalised
from genrec.errors import DataError

VOCABULARY = "tfidf_vocabulary.json"
WEIGHTS = "tfidf.safetensors"
MAX_TERMS = 50_000
FIT_TEXTS = 131_072
"""Texts that vocabulary and directions are learned from, at most: the count of all distinct pairs of words and the
dense factors of the SVD grow with them."""


class TfidfSvdEncoder:
    """A fitted TF-IDF + SVD map.

    Args:
        terms: F vocabulary terms (words and pairs of words), by column.
        idf_F: float64 [F], inverse document frequencies.
        components_EF: float32 [E, F], right singular vectors.
    """

    def __init__(self, terms: Sequence[str], idf_F: NDArray[np.float64], components_EF: NDArray[np.float32]) -> None:
        self.terms = list(terms)
        self.idf_F = idf_F
        self.components_EF = components_EF

    @classmethod
    def fit(cls, texts: Sequence[str], *, dimension: int, seed: int = 0) -> TfidfSvdEncoder:
        """Learn vocabulary, weights and directions from the catalog.

        Args:
            texts: the catalog's texts; of more than FIT_TEXTS a sample is used.
            dimension: E; a catalog with fewer terms or texts gives fewer.
            seed: of the randomised SVD and of the sample.

        Raises:
            DataError: no text holds a word.
        """
        from sklearn.decomposition import TruncatedSVD

        if len(texts) > FIT_TEXTS:
            rows = np.sort(np.random.default_rng(seed).choice(len(texts), FIT_TEXTS, replace=False))
            texts = [texts[row] for row in rows]
        vectorizer = _vectorizer()
        try:
            counts_NF = vectorizer.fit_transform(texts)
        except ValueError as error:
            raise DataError(f"encoder.text tfidf-svd: the catalog's texts hold no words ({error})") from error
        n_components = max(1, min(dimension, *(side - 1 for side in counts_NF.shape)))
        svd = TruncatedSVD(n_components, n_iter=7, random_state=seed).fit(counts_NF)
        components_EF = np.ascontiguousarray(svd.components_, dtype=np.float32)
        return cls(vectorizer.get_feature_names_out().tolist(), vectorizer.idf_, components_EF)

    @property
    def dimension(self) -> int:
        """E, the number of components."""
        return int(self.components_EF.shape[0])

    @cached_property
    def identity(self) -> str:
        """Hash of the fitted state."""
        arrays = [hashlib.sha256(array.tobytes()).hexdigest() for array in (self.idf_F, self.components_EF)]
        return digest({"kind": "tfidf-svd", "terms": self.terms, "arrays": arrays})[:16]

    def __getstate__(self) -> dict[str, Any]:
        return {key: value for key, value in vars(self).items() if key not in ("_fitted", "_directions_FE")}

    @cached_property
    def _fitted(self) -> Any:
        vectorizer = _vectorizer(vocabulary={term: column for column, term in enumerate(self.terms)})
        vectorizer.idf_ = self.idf_F
        return vectorizer

    @cached_property
    def _directions_FE(self) -> NDArray[np.float64]:
        # As the sparse product wants it: left to itself it would copy and convert the whole matrix for every batch.
        return np.ascontiguousarray(self.components_EF.T, dtype=np.float64)

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """Embed texts: float32 [N, E], rows of length 1; zeros where no term is known."""
        if not len(texts):
            return np.empty((0, self.dimension), dtype=np.float32)
        return normalised(self._fitted.transform(texts) @ self._directions_FE)

    def save(self, directory: Path) -> None:
        """Write vocabulary and weights."""
        (directory / VOCABULARY).write_text(json.dumps(self.terms, ensure_ascii=False) + "\n", encoding="utf-8")
        save_file({"idf": self.idf_F, "components": self.components_EF}, directory / WEIGHTS)

    @classmethod
    def load(cls, directory: Path) -> TfidfSvdEncoder:
        """Read what :meth:`save` wrote."""
        tensors = load_file(directory / WEIGHTS)
        terms = json.loads((directory / VOCABULARY).read_text(encoding="utf-8"))
        return cls(terms, tensors["idf"], tensors["components"])


def _vectorizer(**options: Any) -> Any:
    from sklearn.feature_extraction.text import TfidfVectorizer

    return TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True, max_features=MAX_TERMS, **options)
