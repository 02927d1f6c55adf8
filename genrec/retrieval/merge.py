"""From the candidates of both paths to the neighbours that are kept.

The paper (GENPLUGIN, section on retrieval) takes the users that both paths propose first, fills up from the
others, and orders them by the cosine of mean-pooled states of the learned ID encoder: rule
"intersection-first" with order "representation". Rule "union" lets all candidates compete. Order "fused"
adds what the text path says: reciprocal rank fusion (Cormack et al., SIGIR 2009), the sum of 1 / (60 + rank)
over the rank by BM25 (a user it did not propose stands behind its last) and the rank by representation. The
collaborative path's own rank has no voice there, because on Beauty it made the result worse
(docs/experiments.md). Order "paths" fuses the ranks of the paths alone and needs no representation.

Shape letters: B queries, Z candidates of a path, C candidates of all paths, D width, V kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from genrec.errors import SettingsError
from genrec.retrieval.collaborative_path import cosines, unit_rows
from genrec.retrieval.neighbours import PAD_USER, Neighbours, rank_keys, top_keys

FUSION_CONSTANT = 60
Rule = Literal["union", "intersection-first"]
Order = Literal["fused", "representation", "paths"]


@dataclass(frozen=True, eq=False)
class CentredSpace:
    """Representations without what all users have in common.

    Mean-pooled states share a large part, which says nothing about whose they are; cosines are taken of what
    is left.

    Attributes:
        vectors_UD: float32 [U, D], centred, rows of length 1 (0 for users without a vector).
        centre_D: float32 [D], mean of the users' unit vectors.
    """

    vectors_UD: NDArray[np.float32]
    centre_D: NDArray[np.float32]

    @classmethod
    def of(cls, vectors_UD: NDArray[np.float32]) -> CentredSpace:
        """The space of the indexed users' vectors."""
        unit_UD = unit_rows(vectors_UD)
        centre_D = unit_UD.mean(axis=0, dtype=np.float64).astype(np.float32)
        return cls(_centred(unit_UD, centre_D), centre_D)

    def place(self, queries_BD: NDArray[np.float32]) -> NDArray[np.float32]:
        """float32 [B, D], queries in this space, rows of length 1 (0 for a query without a vector)."""
        return _centred(unit_rows(queries_BD), self.centre_D)


def merge_paths(
    paths: Mapping[str, Neighbours],
    v: int,
    *,
    rule: Rule = "union",
    order: Order = "fused",
    queries_BD: NDArray[np.float32] | None = None,
    vectors_UD: NDArray[np.float32] | None = None,
) -> Neighbours:
    """The ``v`` best of the users that any path proposes.

    Args:
        paths: "text", "collaborative" -> candidates, ranked.
        v: how many to keep.
        rule: whether users of every path come first.
        order: what orders them; "representation" and "fused" need the vectors.
        queries_BD: float [B, D], each query's mean-pooled representation.
        vectors_UD: float32 [U, D], the users' representations, rows of length 1 (``unit_rows``).

    Returns:
        The kept users with the scores that order them: cosine or fused reciprocal ranks, and 4 more for a user
        of every path under "intersection-first".
    """
    voices = {name: float(order == "paths" or (order == "fused" and name == "text")) for name in paths}
    users_BC, fused_BC, proposals_BC = _pooled(list(paths.values()), list(voices.values()))
    scores_BC = fused_BC
    if order != "paths":
        if queries_BD is None or vectors_UD is None:
            raise SettingsError(f"retrieval.rerank: {order!r} needs representations; without them use 'paths'")
        cosine_BC = cosines(unit_rows(queries_BD), vectors_UD, users_BC)
        scores_BC = cosine_BC if order == "representation" else fused_BC + _reciprocal_ranks(cosine_BC, users_BC)
    if rule == "intersection-first":
        scores_BC = scores_BC + np.float32(4) * (proposals_BC == len(paths))
    return top_keys(rank_keys(scores_BC, users_BC), v)


def _pooled(
    paths: Sequence[Neighbours], voices: Sequence[float]
) -> tuple[NDArray[np.int64], NDArray[np.float32], NDArray[np.int64]]:
    """Distinct users of all paths (PAD_USER in between), their summed reciprocal ranks, how many paths have them."""
    users_BC = np.concatenate([path.users_BZ for path in paths], axis=1)
    behind = [voice / (FUSION_CONSTANT + 1 + path.users_BZ.shape[1]) for path, voice in zip(paths, voices, strict=True)]
    gains = [
        voice / (FUSION_CONSTANT + 1 + np.arange(path.users_BZ.shape[1])) - last
        for path, voice, last in zip(paths, voices, behind, strict=True)
    ]
    order_BC = np.argsort(users_BC, axis=1, kind="stable")
    users_BC = np.take_along_axis(users_BC, order_BC, axis=1)
    gains_BC = np.concatenate(gains)[order_BC]
    fused_BC, proposals_BC = gains_BC.copy(), np.ones(users_BC.shape, dtype=np.int64)
    repeated_BC = np.zeros(users_BC.shape, dtype=bool)
    for gap in range(1, len(paths)):  # a user stands at most once in a path
        same = users_BC[:, gap:] == users_BC[:, :-gap]
        fused_BC[:, :-gap] += same * gains_BC[:, gap:]
        proposals_BC[:, :-gap] += same
        repeated_BC[:, gap:] |= same
    return np.where(repeated_BC, PAD_USER, users_BC), (fused_BC + sum(behind)).astype(np.float32), proposals_BC


def _reciprocal_ranks(scores_BC: NDArray[np.float32], users_BC: NDArray[np.int64]) -> NDArray[np.float32]:
    """float32 [B, C], 1 / (60 + rank) of each candidate within its row."""
    keys_BC = rank_keys(scores_BC, users_BC)
    ranks_BC = np.argsort(np.argsort(~keys_BC, axis=1), axis=1)
    return (1 / (FUSION_CONSTANT + 1 + ranks_BC)).astype(np.float32)


def _centred(unit_BD: NDArray[np.float32], centre_D: NDArray[np.float32]) -> NDArray[np.float32]:
    known_B1 = (unit_BD != 0).any(axis=1, keepdims=True)
    return unit_rows(np.where(known_B1, unit_BD - centre_D, 0))
