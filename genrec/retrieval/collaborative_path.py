"""The collaborative path: users whose vector points the same way, by FAISS.

A user's vector is what SASRec knows after the training items (any vectors do: they come as an array). All
vectors are scaled to length 1, so the inner product is the cosine. FAISS proposes some more users than
asked for; their cosines are then computed one by one in float64 and rank them, so that a result does not
depend on how many queries were asked at once. From ``ivf_from`` users on, FAISS visits the nearest clusters
only (approximate).

Shape letters: B queries, U users, D width, Z kept.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from genrec.config import RetrievalSettings
from genrec.errors import ArtifactError
from genrec.retrieval.neighbours import PAD_USER, Neighbours, rank_keys, top_keys

MARGIN = 16
"""Users proposed beyond those asked for, so that rounding inside FAISS does not decide who is kept."""
TRAIN_PER_CLUSTER = 64


@dataclass(frozen=True, eq=False)
class CollaborativeUsers:
    """Users indexed by vectors.

    Attributes:
        vectors_UD: float32 [U, D], rows of length 1 or 0 (unknown users, never retrieved).
        index: the FAISS index over them.
    """

    vectors_UD: NDArray[np.float32]
    index: Any

    @cached_property
    def known_U(self) -> NDArray[np.bool_]:
        """bool [U], users that have a vector."""
        return np.asarray(self.vectors_UD.any(axis=1))

    @classmethod
    def fit(cls, user_vectors_UD: NDArray[np.float32], settings: RetrievalSettings | None = None) -> CollaborativeUsers:
        """Index float [U, D]; exact below ``retrieval.ivf_from`` users, clusters from there on.

        Raises:
            ArtifactError: a vector holds NaN or infinity.
        """
        settings = RetrievalSettings() if settings is None else settings
        vectors_UD = unit_rows(user_vectors_UD)
        n_users, width = vectors_UD.shape
        index: Any
        if n_users < settings.ivf_from:
            index = faiss.IndexFlatIP(width)
        else:
            clusters = min(int(4 * math.sqrt(n_users)), max(n_users // 40, 1))
            index = faiss.IndexIVFFlat(faiss.IndexFlatIP(width), width, clusters, faiss.METRIC_INNER_PRODUCT)
            sample = np.random.default_rng(0).permutation(n_users)[: clusters * TRAIN_PER_CLUSTER]
            index.train(vectors_UD[np.sort(sample)])
            index.nprobe = min(settings.ivf_probes, clusters)
        index.add(vectors_UD)
        return cls(vectors_UD, index)

    def search(self, query_vectors_BD: NDArray[np.float32], users_B: NDArray[np.int64], z: int) -> Neighbours:
        """The ``z`` users of highest cosine for each query.

        Args:
            query_vectors_BD: float [B, D]; a row of zeros (empty history) retrieves nobody.
            users_B: int64 [B], the user asked about, who is never retrieved; -1: none.
            z: how many.
        """
        queries_BD = unit_rows(query_vectors_BD)
        if not len(queries_BD):
            return Neighbours.none(0, z)
        _, users_BZ = self.index.search(queries_BD, min(z + 1 + MARGIN, len(self.vectors_UD)))
        users_BZ = users_BZ.astype(np.int64)
        scores_BZ = cosines(queries_BD, self.vectors_UD, users_BZ)
        known_BZ = self.known_U[np.maximum(users_BZ, 0)] & np.asarray(queries_BD.any(axis=1))[:, None]
        allowed_BZ = known_BZ & (users_BZ != users_B[:, None])
        return top_keys(rank_keys(scores_BZ, np.where(allowed_BZ, users_BZ, PAD_USER)), z)


def unit_rows(vectors_BD: NDArray[np.floating]) -> NDArray[np.float32]:
    """float32 rows of length 1; zero rows stay zero.

    Raises:
        ArtifactError: a value is not finite.
    """
    rows_BD = np.asarray(vectors_BD, dtype=np.float64)
    if not np.isfinite(rows_BD).all():
        raise ArtifactError("retrieval: a user vector holds NaN or infinity; the model that made it did not converge")
    lengths_B1 = np.sqrt((rows_BD**2).sum(axis=1, keepdims=True))
    return np.ascontiguousarray(rows_BD / np.where(lengths_B1 > 0, lengths_B1, 1), dtype=np.float32)


def cosines(
    queries_BD: NDArray[np.float32], vectors_UD: NDArray[np.float32], users_BZ: NDArray[np.int64]
) -> NDArray[np.float32]:
    """float32 [B, Z], inner products of each query with its own users (0 for padding), summed in float64."""
    found_BZD = vectors_UD[np.maximum(users_BZ, 0)].astype(np.float64)
    found_BZD *= queries_BD[:, None, :].astype(np.float64)
    return np.where(users_BZ == PAD_USER, 0.0, found_BZD.sum(axis=2)).astype(np.float32)
