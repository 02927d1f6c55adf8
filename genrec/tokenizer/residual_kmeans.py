"""Residual k-means: one FAISS k-means a level on what the levels before left over.

It works on the first principal components: in all 384 dimensions of a sentence embedding the residuals
are mostly noise, a few outliers take the centroids and the rest crowd on few codes (docs/decisions).
No training beyond that, so it is the quick and sturdy choice. FAISS learns from at most 256 points a
centroid; drawing that sample first keeps memory bounded whatever the size of the catalog.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from genrec.tokenizer.quantizer import FloatRows, ResidualQuantizer, squared_distances

POINTS_PER_CENTROID = 256
PCA_POINTS = 65_536
"""Items that the principal axes are learned from."""


class ResidualKMeans(ResidualQuantizer):
    """Residual quantization of the principal components.

    Args:
        level_sizes: V of each level.
        latent: D, number of principal components kept (E or more: all).
        iterations: of each k-means.
        seed: of the sample and of the first centroids.
    """

    kind = "residual-kmeans"

    def __init__(self, level_sizes: Sequence[int], *, latent: int = 32, iterations: int = 25, seed: int = 0) -> None:
        super().__init__(level_sizes)
        self.latent = latent
        self.iterations = iterations
        self.seed = seed

    def options(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        return {**super().options(), "latent": self.latent, "iterations": self.iterations, "seed": self.seed}

    def fit(self, embeddings_NE: FloatRows) -> dict[str, float]:
        """Learn the axes and one codebook a level from a sample of the items."""
        limit = max(PCA_POINTS, POINTS_PER_CENTROID * max(self.level_sizes))
        sample_ME = torch.from_numpy(sampled(embeddings_NE, limit, self.seed))
        self.mean_E = sample_ME.mean(0)
        self.axes_DE = principal_axes(sample_ME - self.mean_E, self.latent)
        latent_MD = self.to_latent(sample_ME).numpy()
        self.codebooks = residual_codebooks(latent_MD, self.level_sizes, iterations=self.iterations, seed=self.seed)
        return {"fitted_on": float(len(sample_ME))}

    def to_latent(self, embeddings_NE: torch.Tensor) -> torch.Tensor:
        """Project: [N, E] -> [N, D]."""
        return (embeddings_NE - self.mean_E) @ self.axes_DE.T

    def from_latent(self, latent_ND: torch.Tensor) -> torch.Tensor:
        """Back into the embeddings' space: [N, D] -> [N, E]."""
        return latent_ND @ self.axes_DE + self.mean_E

    def tensors(self) -> dict[str, NDArray[Any]]:
        """Codebooks, mean and principal axes."""
        return {**super().tensors(), "mean": self.mean_E.numpy(), "axes": self.axes_DE.numpy()}

    def restore(self, tensors: Mapping[str, NDArray[Any]]) -> None:
        """Take the fitted state back."""
        super().restore(tensors)
        self.mean_E, self.axes_DE = torch.from_numpy(tensors["mean"]), torch.from_numpy(tensors["axes"])


def principal_axes(centred_NE: torch.Tensor, count: int) -> torch.Tensor:
    """float32 [D, E], the first D = min(count, E) principal axes of centred rows, signs fixed."""
    covariance_EE = (centred_NE.T @ centred_NE).double()
    axes_ED = torch.linalg.eigh(covariance_EE).eigenvectors.flip(1)[:, :count]
    largest_D = axes_ED.gather(0, axes_ED.abs().argmax(0, keepdim=True))
    return (axes_ED * torch.sign(largest_D)).T.float().contiguous()


def sampled(embeddings_NE: FloatRows, limit: int, seed: int) -> FloatRows:
    """At most ``limit`` rows, drawn without replacement, in their order; float32 in memory."""
    if len(embeddings_NE) <= limit:
        return np.array(embeddings_NE, dtype=np.float32)
    rows = np.sort(np.random.default_rng(seed).choice(len(embeddings_NE), limit, replace=False))
    return np.ascontiguousarray(embeddings_NE[rows], dtype=np.float32)


def residual_codebooks(
    rows_ND: FloatRows, level_sizes: Sequence[int], *, iterations: int, seed: int
) -> list[torch.Tensor]:
    """k-means of the rows, then of the residuals, and so on: one float32 [V, D] a level."""
    residual_ND = torch.from_numpy(np.array(rows_ND, dtype=np.float32))
    codebooks = []
    for level, size in enumerate(level_sizes):
        book_VD = torch.from_numpy(_kmeans(residual_ND.numpy(), size, iterations, seed + level))
        residual_ND -= book_VD[squared_distances(residual_ND, book_VD).argmin(1)]
        codebooks.append(book_VD)
    return codebooks


def _kmeans(rows_ND: FloatRows, size: int, iterations: int, seed: int) -> FloatRows:
    book_VD = np.full((size, rows_ND.shape[1]), np.nan, dtype=np.float32)
    distinct = np.unique(rows_ND, axis=0)
    if len(distinct) <= size:
        # Fewer points than centroids: each point is its own centroid, the other codes stay unused.
        book_VD[: len(distinct)] = distinct
        return book_VD
    kmeans = faiss.Kmeans(
        rows_ND.shape[1],
        size,
        niter=iterations,
        seed=seed + 1,
        min_points_per_centroid=1,
        max_points_per_centroid=POINTS_PER_CENTROID,
    )
    kmeans.train(np.ascontiguousarray(rows_ND))
    book_VD[:] = kmeans.centroids
    return book_VD
