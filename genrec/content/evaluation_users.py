"""Simulated users over the drawings: tastes, earlier feedback to learn from, later feedback to be judged by.

No public data set of drawings has users, so users are simulated, and every table says so. A user favours a few of the
corpus's subcategories (and, a little, their categories) and answers a random stream of drawings by chance accordingly.
Earlier and later feedback share no concept: a choice is good only if it carries over to things the user has not seen.
What a method may use is the earlier part, through the encoder. What it is judged by is the later part, through the
judge: the liked drawings themselves, and a logistic model fitted on likes and dislikes.

Shape letters: N drawings, D dimension, K liked drawings.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.content.contracts import FloatArray
from genrec.encoders.protocol import normalised

FAVOURITES = 3
LIKES = {"subcategory": 0.8, "category": 0.2, "other": 0.03}
"""Probability of a like for a drawing of a favourite subcategory, of its category only, and of neither."""
SHOWN = 150


@dataclass(frozen=True)
class SimulatedUser:
    """What one user did.

    Attributes:
        favourites: subcategories.
        earlier: rows of drawings shown first, and whether each was liked.
        later: the same of other concepts.
    """

    favourites: tuple[str, ...]
    earlier: tuple[NDArray[np.int64], NDArray[np.bool_]]
    later: tuple[NDArray[np.int64], NDArray[np.bool_]]


def simulate_users(
    subcategories: Sequence[str], categories: Sequence[str], concepts: Sequence[str], count: int, seed: int = 0
) -> list[SimulatedUser]:
    """Users with at least two likes in both parts.

    Args:
        subcategories: of each drawing.
        categories: of each drawing.
        concepts: of each drawing; earlier and later feedback share none.
        count: users.
        seed: of tastes, streams and answers.
    """
    rng = np.random.default_rng(seed)
    names = np.array(sorted(set(concepts)))
    first_half = set(rng.permutation(names)[: len(names) // 2].tolist())
    early_N = np.array([concept in first_half for concept in concepts])
    sub_N, top_N = np.array(subcategories), np.array(categories)
    top_of = dict(zip(subcategories, categories, strict=True))
    pool = sorted(top_of)
    users: list[SimulatedUser] = []
    tries = 0
    while len(users) < count and tries < 50 * count:
        tries += 1
        favourites = tuple(str(name) for name in rng.choice(pool, size=min(FAVOURITES, len(pool)), replace=False))
        tops = {top_of[name] for name in favourites}
        chance_N = np.where(
            np.isin(sub_N, favourites),
            LIKES["subcategory"],
            np.where(np.isin(top_N, list(tops)), LIKES["category"], LIKES["other"]),
        )
        parts = [_feedback(np.flatnonzero(side), chance_N, rng) for side in (early_N, ~early_N)]
        if all(liked.sum() >= 2 and (~liked).sum() >= 2 for _, liked in parts):
            users.append(SimulatedUser(favourites, parts[0], parts[1]))
    return users


def _feedback(
    rows: NDArray[np.int64], chance_N: NDArray[np.float64], rng: np.random.Generator
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    shown = rng.choice(rows, size=min(SHOWN, len(rows)), replace=False)
    return shown, rng.random(len(shown)) < chance_N[shown]


def preference_vector(liked_KD: FloatArray, others_MD: FloatArray | None = None) -> FloatArray:
    """Unit vector: the mean of what was liked, less the mean of what was shown and not liked.

    The difference matters: pictures of one corpus share a direction, which says nothing about a taste.
    """
    mean_D = liked_KD.mean(axis=0)
    if others_MD is not None and len(others_MD):
        mean_D = mean_D - others_MD.mean(axis=0)
    return np.asarray(normalised(mean_D[None])[0])


def fitted_scores(
    vectors_ND: FloatArray, rows: NDArray[np.int64], liked: NDArray[np.bool_], asked_MD: FloatArray
) -> NDArray[np.float64]:
    """``[M]``: probability that a user likes each asked picture, by a logistic model of their feedback."""
    from sklearn.linear_model import LogisticRegression

    model = LogisticRegression(C=10.0, class_weight="balanced", max_iter=500)
    model.fit(vectors_ND[rows], liked)
    return np.asarray(model.predict_proba(asked_MD)[:, 1], dtype=np.float64)
