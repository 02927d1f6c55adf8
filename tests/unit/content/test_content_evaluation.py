"""Measures against independent ways to compute them, and simulated users."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import linalg

from genrec.content.evaluation_metrics import (
    cosine_at,
    diversity,
    estimate,
    frechet_distance,
    nearest_train,
    precision_recall,
    sign_test,
)
from genrec.content.evaluation_users import fitted_scores, preference_vector, simulate_users
from genrec.encoders.protocol import normalised
from genrec.errors import DataError


def rows(count: int, width: int = 6, seed: int = 0, shift: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(count, width)).astype(np.float32) + np.float32(shift)


def test_frechet_distance_is_that_of_the_matrix_root():
    ours, theirs = rows(40), rows(50, seed=1, shift=0.5) * np.float32(1.3)
    first, second = (np.cov(part.astype(float), rowvar=False) for part in (ours, theirs))
    root = linalg.sqrtm(first @ second).real
    plain = ((ours.mean(0) - theirs.mean(0)) ** 2).sum() + np.trace(first + second - 2 * root)
    assert frechet_distance(ours, theirs) == pytest.approx(plain, rel=1e-4)
    assert frechet_distance(ours, ours) == pytest.approx(0, abs=1e-6)
    few = rows(4, 30)  # fewer pictures than dimensions
    assert frechet_distance(few, few) == pytest.approx(0, abs=1e-6)
    with pytest.raises(DataError, match="two pictures"):
        frechet_distance(ours[:1], theirs)


def test_precision_and_recall_tell_quality_from_variety():
    reference = rows(200, 2)
    assert precision_recall(reference, reference) == (1.0, 1.0)
    precision, recall = precision_recall(reference[:12] * np.float32(0.02), reference)
    assert precision == 1.0
    assert recall < 0.1
    assert precision_recall(reference + np.float32(50), reference) == (0.0, 0.0)


def test_diversity_and_nearest_are_those_of_all_pairs():
    vectors = normalised(rows(9))
    pairs = [float(vectors[i] @ vectors[j]) for i in range(9) for j in range(9) if i != j]
    assert diversity(vectors) == pytest.approx(1 - np.mean(pairs), abs=1e-6)
    assert diversity(vectors[:1]) == 0
    assert nearest_train(vectors, vectors[3:]).tolist()[3:] == pytest.approx([1.0] * 6)
    assert cosine_at(vectors[0], vectors[:1]) == pytest.approx(1)


def test_intervals_hold_the_mean_and_shrink():
    few, many = (np.random.default_rng(1).normal(2, 1, count) for count in (20, 2000))
    narrow, wide = estimate(many), estimate(few)
    assert narrow.low < narrow.value < narrow.high
    assert narrow.high - narrow.low < wide.high - wide.low
    assert narrow.high - narrow.low == pytest.approx(2 * 1.96 / np.sqrt(2000), rel=0.15)
    with pytest.raises(DataError, match="no values"):
        estimate([])
    assert sign_test([1, 1, 1, 1, 1, 1, 1, 1]) == pytest.approx(2 / 256)
    assert sign_test([0, 0]) == 1


def test_users_have_tastes_that_carry_over_to_other_concepts():
    subcategories = [f"s{place % 12}" for place in range(1200)]
    categories = [f"t{place % 12 % 4}" for place in range(1200)]
    concepts = [f"c{place // 12}-{place % 12}" for place in range(1200)]
    users = simulate_users(subcategories, categories, concepts, 12, seed=3)
    again = simulate_users(subcategories, categories, concepts, 12, seed=3)
    assert [user.favourites for user in users] == [user.favourites for user in again]
    assert len(users) == 12
    vectors = np.eye(12, dtype=np.float32)[[place % 12 for place in range(1200)]]
    better = 0
    for user in users:
        (early, liked_early), (late, liked_late) = user.earlier, user.later
        assert not {concepts[row] for row in early} & {concepts[row] for row in late}
        taste = preference_vector(vectors[early[liked_early]], vectors[early[~liked_early]])
        assert np.linalg.norm(taste) == pytest.approx(1, abs=1e-5)
        scores = fitted_scores(vectors, late, liked_late, vectors[:12])
        assert ((scores >= 0) & (scores <= 1)).all()
        favourites = [int(name[1:]) for name in user.favourites]
        better += scores[favourites].mean() > np.delete(scores, favourites).mean()
        better += taste[favourites].mean() > np.delete(taste, favourites).mean()
    assert better >= 22  # of 24


def test_a_taste_without_dislikes_is_the_mean_direction():
    liked = normalised(rows(5))
    assert preference_vector(liked) == pytest.approx(normalised(liked.mean(axis=0)[None])[0], abs=1e-6)
