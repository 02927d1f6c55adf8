"""Measures of pictures that were chosen or made, in the space of a judge that chose none of them.

*Cosine@K*: mean cosine of a picture with K items that the user liked later. *PS@K*: the preference score of a user
model that was fitted on that later feedback (both after the GeneRec benchmark's use of these names). *Fréchet
distance* of two sets (Heusel et al. 2017) and *precision and recall* of a set against a reference (Kynkäänniemi et
al. 2019), both on the judge's vectors, so that they compare with no table made on Inception features. *Diversity*:
one less the mean cosine of pairs. *Nearest training picture*: the highest cosine with any picture that was trained
on; copies are near 1.

Shape letters: N pictures, M reference pictures, D dimension, U users, S bootstrap samples.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.content.contracts import FloatArray
from genrec.errors import DataError

Numbers = NDArray[np.float64]


@dataclass(frozen=True)
class Estimate:
    """A mean and its percentile interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.value:.4f} [{self.low:.4f}, {self.high:.4f}]"


def estimate(
    values_U: Sequence[float] | Numbers | FloatArray, *, samples: int = 1000, confidence: float = 0.95
) -> Estimate:
    """Mean over users (or pictures) with a bootstrap interval over them.

    Raises:
        DataError: no values.
    """
    values = np.asarray(values_U, dtype=np.float64)
    if not len(values):
        raise DataError("no values to average; evaluate at least one user")
    rng = np.random.default_rng(0)
    weights_SU = rng.multinomial(len(values), np.full(len(values), 1 / len(values)), samples) / len(values)
    low, high = np.quantile(weights_SU @ values, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Estimate(float(values.mean()), float(low), float(high))


def sign_test(differences: Sequence[float] | Numbers) -> float:
    """Two-sided p of a paired sign test that differences are as often above as below zero; ties are left out."""
    from scipy.stats import binomtest

    values = np.asarray(differences, dtype=np.float64)
    above, below = int((values > 0).sum()), int((values < 0).sum())
    return 1.0 if above + below == 0 else float(binomtest(above, above + below).pvalue)


def cosine_at(picture_D: FloatArray, liked_KD: FloatArray) -> float:
    """Mean cosine of a picture with liked items; all of unit length."""
    return float((liked_KD @ picture_D).mean())


def frechet_distance(ours_ND: FloatArray, theirs_MD: FloatArray) -> float:
    """Squared Fréchet distance of two Gaussians fitted to the sets.

    Raises:
        DataError: fewer than two pictures in a set.
    """
    if min(len(ours_ND), len(theirs_MD)) < 2:
        raise DataError("the Fréchet distance needs at least two pictures of each set")
    ours, theirs = ours_ND.astype(np.float64), theirs_MD.astype(np.float64)
    first, second = np.cov(ours, rowvar=False), np.cov(theirs, rowvar=False)
    values, basis = np.linalg.eigh(first)
    root = (basis * np.sqrt(np.clip(values, 0, None))) @ basis.T
    # tr (AB)^(1/2) = tr (A^(1/2) B A^(1/2))^(1/2), whose argument is symmetric: no complex roots.
    cross = np.sqrt(np.clip(np.linalg.eigvalsh(root @ second @ root), 0, None)).sum()
    apart = ((ours.mean(axis=0) - theirs.mean(axis=0)) ** 2).sum()
    return float(max(0.0, apart + np.trace(first) + np.trace(second) - 2 * cross))


def precision_recall(ours_ND: FloatArray, reference_MD: FloatArray, neighbours: int = 3) -> tuple[float, float]:
    """Share of ours within the reference's neighbourhoods, and share of the reference within ours.

    Raises:
        DataError: a set is no larger than ``neighbours``.
    """
    if min(len(ours_ND), len(reference_MD)) <= neighbours:
        raise DataError(f"precision and recall need more than {neighbours} pictures of each set")
    across_NM = _distances(ours_ND, reference_MD)
    reach_M, reach_N = _reach(reference_MD, neighbours), _reach(ours_ND, neighbours)
    precision = (across_NM <= reach_M[None, :]).any(axis=1).mean()
    recall = (across_NM <= reach_N[:, None]).any(axis=0).mean()
    return float(precision), float(recall)


def _reach(rows_ND: FloatArray, neighbours: int) -> Numbers:
    """``[N]``: distance to the k-th neighbour, itself not counted."""
    return np.sort(_distances(rows_ND, rows_ND), axis=1)[:, neighbours]


def _distances(left_ND: FloatArray, right_MD: FloatArray) -> Numbers:
    from scipy.spatial.distance import cdist

    return np.asarray(cdist(left_ND, right_MD))


def diversity(rows_ND: FloatArray) -> float:
    """One less the mean cosine of all pairs; 0 for fewer than two pictures."""
    count = len(rows_ND)
    if count < 2:
        return 0.0
    total = np.square(rows_ND.astype(np.float64).sum(axis=0)).sum() - np.square(rows_ND.astype(np.float64)).sum()
    return float(1 - total / (count * (count - 1)))


def nearest_train(rows_ND: FloatArray, train_MD: FloatArray) -> Numbers:
    """``[N]``: highest cosine with a training picture."""
    return np.asarray((rows_ND @ train_MD.T).max(axis=1), dtype=np.float64)
