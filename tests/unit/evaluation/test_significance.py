"""Differences between seeded models: against scipy, against loops over the same draws, against exact enumeration."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from scipy import stats

from genrec.config import EvaluationSettings
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.matched import MatchedSteps, joined, matched_steps, validation_curve
from genrec.evaluation.metrics import gains, user_weights
from genrec.evaluation.significance import Bootstrap

SETTINGS = EvaluationSettings(cutoffs=(5, 10), bootstrap_samples=4000)
METRICS = ("hit@10", "ndcg@10")


def frame(ranks, *, model="m", seed=None) -> EvalFrame:
    """Lists in which user u's target 1000 stands at ranks[u]; 10 or more: not listed. Every third user is tail."""
    ranks = np.asarray(ranks)
    lists = np.tile(np.arange(10), (len(ranks), 1)).astype(np.int64)
    rows = np.flatnonzero(ranks < 10)
    lists[rows, ranks[rows]] = 1000
    tail = np.arange(len(ranks)) % 3 == 0
    nobody = np.zeros(len(ranks), dtype=bool)
    segments = {"tail": tail, "head": ~tail, "cold": nobody}
    return EvalFrame(model, np.arange(len(ranks)), lists, np.full(len(ranks), 1000), segments, seed=seed)


def models(n_users=300, seeds=(0, 1, 2), draw=0) -> dict[str, list[EvalFrame]]:
    rng = np.random.default_rng(draw)
    taste = rng.integers(0, 14, n_users)
    noisy = lambda shift: np.clip(taste + rng.integers(-3, 4, n_users) + shift, 0, 14)  # noqa: E731
    return {
        "counts": [frame(noisy(1))],
        "bare": [frame(noisy(1), seed=seed) for seed in seeds],
        "whole": [frame(noisy(seed - 1), seed=seed) for seed in seeds],
    }


def metric_of(runs, model, metric="ndcg@10", member=slice(None)):
    return np.stack([gains(run, metric)[member] for run in runs[model]])


def test_interval_over_users_agrees_with_scipys_paired_bootstrap():
    runs = models()
    found = Bootstrap(runs, METRICS, SETTINGS).difference("whole", "bare", "all", "ndcg@10")
    per_user = (metric_of(runs, "whole") - metric_of(runs, "bare")).mean(axis=0)
    expected = stats.bootstrap((per_user,), np.mean, n_resamples=4000, method="percentile", rng=7)
    assert found.difference == pytest.approx(per_user.mean(), abs=1e-12)
    spread = expected.standard_error
    np.testing.assert_allclose(found.by_users, expected.confidence_interval, atol=0.12 * spread)


def test_means_and_relative_difference_are_those_of_the_segment():
    runs = models()
    bootstrap = Bootstrap(runs, METRICS, SETTINGS)
    tail = np.arange(300) % 3 == 0
    for metric in METRICS:
        found = bootstrap.difference("whole", "bare", "tail", metric)
        ours, theirs = metric_of(runs, "whole", metric, tail).mean(), metric_of(runs, "bare", metric, tail).mean()
        assert (found.value, found.reference) == pytest.approx((ours, theirs))
        assert found.relative == pytest.approx((ours - theirs) / theirs)
        assert found.relative_by_seeds[0] < found.relative < found.relative_by_seeds[1]
        assert (found.users, found.seeds) == (100, [0, 1, 2])
    assert bootstrap.segments == ["all", "tail", "head"], "nobody is cold"


def test_interval_over_seeds_and_users_is_a_loop_over_the_same_draws():
    runs, samples = models(n_users=60), 200
    settings = SETTINGS.model_copy(update={"bootstrap_samples": samples})
    found = Bootstrap(runs, METRICS, settings).difference("whole", "bare", "all", "ndcg@10")
    differences = metric_of(runs, "whole") - metric_of(runs, "bare")
    counts = np.random.default_rng([1, 3]).multinomial(3, [1 / 3] * 3, samples)
    weights = np.concatenate(list(user_weights(60, samples)))
    means = []
    for sample in range(samples):
        drawn_seeds = np.repeat(np.arange(3), counts[sample])
        drawn_users = np.repeat(np.arange(60), weights[sample].astype(int))
        means.append(np.mean([differences[seed][drawn_users].mean() for seed in drawn_seeds]))
    np.testing.assert_allclose(found.by_seeds, np.quantile(means, [0.025, 0.975]), atol=1e-12)


def test_interval_over_seeds_and_users_agrees_with_all_possible_draws():
    """2 seeds and 4 users: all 2^2 * 4^4 draws, users crossed with seeds."""
    ranks = {"bare": [[3, 9, 12, 0], [1, 12, 12, 5]], "whole": [[0, 2, 12, 1], [1, 3, 4, 9]]}
    runs = {model: [frame(r, seed=s) for s, r in enumerate(both)] for model, both in ranks.items()}
    settings = SETTINGS.model_copy(update={"bootstrap_samples": 40_000})
    found = Bootstrap(runs, METRICS, settings).difference("whole", "bare", "all", "ndcg@10")
    differences = metric_of(runs, "whole") - metric_of(runs, "bare")
    exact = [
        differences[np.ix_(seeds, users)].mean()
        for seeds in itertools.product(range(2), repeat=2)
        for users in itertools.product(range(4), repeat=4)
    ]
    np.testing.assert_allclose(found.by_seeds, np.quantile(exact, [0.025, 0.975]), atol=0.02 * np.ptp(exact))
    assert found.by_seeds != found.by_users


def test_seeds_that_disagree_widen_only_the_second_interval():
    rng = np.random.default_rng(1)
    bare = rng.integers(0, 14, 2000)
    runs = {
        "bare": [frame(bare, seed=seed) for seed in range(3)],
        "whole": [frame(np.clip(bare + shift, 0, 14), seed=seed) for seed, shift in enumerate((-4, 0, 4))],
    }
    found = Bootstrap(runs, METRICS, SETTINGS).difference("whole", "bare", "all", "ndcg@10")
    assert np.diff(found.by_seeds) > 3 * np.diff(found.by_users)


def test_one_seed_and_models_without_seeds():
    runs = models(seeds=(4,))
    bootstrap = Bootstrap(runs, METRICS, SETTINGS)
    one = bootstrap.difference("whole", "bare", "all", "hit@10")
    assert one.by_users == one.by_seeds
    against_counts = Bootstrap(models(), METRICS, SETTINGS).difference("whole", "counts", "all", "hit@10")
    assert against_counts.seeds == [0, 1, 2]
    reversed_ = Bootstrap(models(), METRICS, SETTINGS).difference("counts", "whole", "all", "hit@10")
    assert reversed_.by_seeds == pytest.approx((-against_counts.by_seeds[1], -against_counts.by_seeds[0]))
    assert bootstrap.row("counts", "toy", "all", "hit@10").seeds == []


def test_only_seeds_that_both_have_are_compared():
    runs = {"bare": models()["bare"][:2], "whole": models()["whole"][1:]}
    bootstrap = Bootstrap(runs, METRICS, SETTINGS)
    found = bootstrap.difference("whole", "bare", "all", "ndcg@10")
    assert found.seeds == [1]
    assert found.value == pytest.approx(gains(runs["whole"][0], "ndcg@10").mean())
    apart = Bootstrap({"bare": runs["bare"][:1], "whole": runs["whole"]}, METRICS, SETTINGS)
    assert not apart.comparable("whole", "bare")
    assert not apart.comparable("whole", "absent")


def test_a_reference_of_zero_has_no_relative_difference():
    runs = {"zero": [frame(np.full(30, 12))], "some": [frame(np.full(30, 2), seed=0)]}
    found = Bootstrap(runs, METRICS, SETTINGS).difference("some", "zero", "tail", "ndcg@10")
    assert (found.relative, found.relative_by_seeds) == (None, None)


def test_other_users_are_refused():
    with pytest.raises(AssertionError, match="different users"):
        Bootstrap({"a": [frame([1, 2])], "b": [frame([1, 2, 3])]}, METRICS, SETTINGS)


def test_matched_steps_compare_at_the_largest_step_that_both_reached():
    short, long = {10: 0.1, 20: 0.4, 30: 0.3}, {10: 0.2, 20: 0.25, 30: 0.3, 40: 0.9}
    assert matched_steps(short, long) == MatchedSteps(30, 0.3, 0.3, 0.4, 0.3)
    assert matched_steps(long, short) == MatchedSteps(30, 0.3, 0.3, 0.3, 0.4)
    # Validations at other steps: each one's last before.
    assert matched_steps({8: 0.1, 16: 0.2, 24: 0.3}, {10: 0.5, 20: 0.6}) == MatchedSteps(20, 0.2, 0.6, 0.2, 0.6)
    assert matched_steps({30: 0.1}, {10: 0.5, 20: 0.6}) is None
    assert matched_steps({}, short) is None


def test_curves_of_several_trainings_follow_one_another():
    rows = [
        {"step": 10, "loss": 3.0},
        {"step": 12, "validation/ndcg@10": 0.2, "epoch": 1},
        {"step": 6, "validation/ndcg@10": 0.1, "validation/tail/ndcg@10": 0.05},
    ]
    assert validation_curve(rows, "ndcg@10") == {6: 0.1, 12: 0.2}
    assert validation_curve(rows, "tail/ndcg@10") == {6: 0.05}
    assert joined([{6: 0.1, 12: 0.2}, {3: 0.3}]) == {6: 0.1, 12: 0.2, 15: 0.3}
    assert joined([{6: 0.1}, {}]) == {6: 0.1}
