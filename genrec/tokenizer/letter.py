"""LETTER's tokenizer: an RQ-VAE whose codes also follow who is consumed with whom, and are used more evenly.

Source: Wang et al. 2024, "Learnable Item Tokenization for Generative Recommendation" (arXiv 2405.07314), section 3.2:
to RQ-VAE's loss come

    alignment: -log softmax over the batch of (quantized vector of item i . collaborative vector of item j) at j = i
    diversity: -log softmax over the codes c != chosen of (chosen code . code c) at a random code of the chosen
        one's cluster, where clusters of a codebook are of equal size (constrained k-means, anew every epoch)

The collaborative vectors are those of a trained SASRec. The dot product asks for vectors as wide as the latent
space: wider ones are reduced to their principal components, narrower ones get zeros. Items without such a vector
(nobody consumed them in training) are left out of the alignment; they are encoded from their text like all
others, so the fitted quantizer needs no collaborative vectors.

Shape letters: N items, B items of a batch, E embedding width, C width of the collaborative vectors, D latent width,
V codes of a level, G clusters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor
from torch.nn import functional

from genrec.errors import DataError
from genrec.tokenizer.quantizer import FloatRows, squared_distances
from genrec.tokenizer.residual_kmeans import principal_axes
from genrec.tokenizer.rqvae import RQVAE

CLUSTER_ROUNDS = 10


class LetterQuantizer(RQVAE):
    """RQ-VAE with collaborative alignment and diversity of codes.

    Args:
        level_sizes: V of each level.
        alignment: weight of the alignment loss.
        diversity: weight of the diversity loss.
        clusters: G, clusters of each codebook.
        rest: as for :class:`RQVAE`.
    """

    kind = "letter"

    def __init__(
        self,
        level_sizes: Sequence[int],
        *,
        alignment: float = 0.01,
        diversity: float = 1e-4,
        clusters: int = 10,
        **rest: Any,
    ) -> None:
        super().__init__(level_sizes, **rest)
        self.alignment = alignment
        self.diversity = diversity
        self.clusters = clusters
        self._targets_ND: Tensor | None = None
        self._cluster_V: list[Tensor] = []

    def options(self) -> dict[str, Any]:
        """Constructor arguments as JSON values."""
        own = {"alignment": self.alignment, "diversity": self.diversity, "clusters": self.clusters}
        return {**super().options(), **own}

    def fit(self, embeddings_NE: FloatRows, collaborative_NC: FloatRows | None = None) -> dict[str, float]:
        """Train autoencoder and codebooks.

        Args:
            embeddings_NE: float32 [N, E].
            collaborative_NC: float32 [N, C], a row of NaN for an item without; None: no alignment.

        Raises:
            DataError: not one collaborative vector an item.
        """
        self._targets_ND = None
        if collaborative_NC is not None and self.alignment > 0:
            if len(collaborative_NC) != len(embeddings_NE):
                raise DataError(
                    f"tokenize: {len(collaborative_NC)} collaborative vectors for {len(embeddings_NE)} items; "
                    "both must come from one prepared data set"
                )
            self._targets_ND = _at_width(torch.from_numpy(np.asarray(collaborative_NC, np.float32)), self.latent)
        try:
            return super().fit(embeddings_NE)
        finally:
            self._targets_ND, self._cluster_V = None, []

    def _begin_epoch(self) -> None:
        if self.diversity > 0:
            self._cluster_V = [
                balanced_clusters(book_VD.detach(), self.clusters, self.seed + level)
                for level, book_VD in enumerate(self.codebooks)
            ]

    def _further_loss(
        self, items_B: Tensor, straight_BD: Tensor, codes: Sequence[Tensor], rng: torch.Generator
    ) -> Tensor:
        total = straight_BD.new_zeros(())
        if self._targets_ND is not None:
            total = total + self.alignment * alignment_loss(straight_BD, self._targets_ND[items_B])
        for code_B, codebook_VD, cluster_V in zip(codes, self.codebooks, self._cluster_V, strict=False):
            total = total + self.diversity * diversity_loss(codebook_VD, code_B, cluster_V, rng) / self.n_levels
        return total


def alignment_loss(quantized_BD: Tensor, targets_BD: Tensor) -> Tensor:
    """Cross-entropy (scalar) of each item's own collaborative vector among the batch's; rows of NaN do not count."""
    there_B = torch.isfinite(targets_BD).all(dim=1)
    if int(there_B.sum()) < 2:
        return quantized_BD.new_zeros(())
    similarity = quantized_BD[there_B] @ targets_BD[there_B].T
    return functional.cross_entropy(similarity, torch.arange(len(similarity)))


def diversity_loss(codebook_VD: Tensor, code_B: Tensor, cluster_V: Tensor, rng: torch.Generator) -> Tensor:
    """Cross-entropy (scalar) of a random other code of the chosen one's cluster among all other codes.

    A code that is alone in its cluster does not count.
    """
    candidates_BV = cluster_V[code_B][:, None] == cluster_V[None, :]
    candidates_BV[torch.arange(len(code_B)), code_B] = False
    some_B = candidates_BV.any(dim=1)
    if not bool(some_B.any()):
        return codebook_VD.new_zeros(())
    code_B = code_B[some_B]
    positive_B = torch.multinomial(candidates_BV[some_B].float(), 1, generator=rng)[:, 0]
    similarity_BV = codebook_VD[code_B] @ codebook_VD.T
    itself = functional.one_hot(code_B, len(codebook_VD)).bool()
    return functional.cross_entropy(similarity_BV.masked_fill(itself, -torch.inf), positive_B)


def balanced_clusters(rows_VD: Tensor, count: int, seed: int) -> Tensor:
    """int64 [V], clusters whose sizes differ by one at most (k-means with an optimal balanced assignment)."""
    n_rows = len(rows_VD)
    count = min(count, n_rows)
    place_V = torch.arange(n_rows) % count  # cluster of each place to be filled
    start = torch.randperm(n_rows, generator=torch.Generator().manual_seed(seed))
    cluster_V = torch.empty(n_rows, dtype=torch.int64)
    cluster_V[start] = place_V
    centres_GD = rows_VD[start[:count]]
    for _ in range(CLUSTER_ROUNDS):
        distances = squared_distances(rows_VD, centres_GD)[:, place_V]
        _, chosen = linear_sum_assignment(distances.numpy())
        found_V = place_V[torch.from_numpy(chosen)]
        if torch.equal(found_V, cluster_V):
            break
        cluster_V = found_V
        member = functional.one_hot(cluster_V, count).T.to(rows_VD.dtype)
        centres_GD = member @ rows_VD / member.sum(dim=1, keepdim=True)
    return cluster_V


def _at_width(collaborative_NC: Tensor, width: int) -> Tensor:
    """Collaborative vectors as [N, ``width``], centred, of unit mean variance; rows that are not finite become NaN."""
    there_N = torch.isfinite(collaborative_NC).all(dim=1)
    if not bool(there_N.any()):
        return torch.full((len(collaborative_NC), width), torch.nan)
    known = collaborative_NC[there_N]
    centred = collaborative_NC - known.mean(dim=0)
    axes = principal_axes(centred[there_N], min(width, collaborative_NC.shape[1]))
    reduced = centred @ axes.T
    reduced = reduced / reduced[there_N].square().mean().sqrt().clamp_min(1e-12)
    reduced = functional.pad(reduced, (0, width - reduced.shape[1]))
    return reduced.masked_fill(~there_N[:, None], torch.nan)
