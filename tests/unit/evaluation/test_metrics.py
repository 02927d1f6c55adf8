"""Metrics against scikit-learn and plain loops; bootstrap intervals against known distributions."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from sklearn.metrics import ndcg_score

from genrec.config import EvaluationSettings
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.metrics import evaluate_frames, gains, paired_difference, write_metrics

SETTINGS = EvaluationSettings(cutoffs=(5, 10), bootstrap_samples=400)


def frame_of_ranks(ranks, *, model="m", seed=None, k=10, segments=None) -> EvalFrame:
    """Lists in which user u's target 1000 stands at ranks[u]; k or more: not listed."""
    ranks = np.asarray(ranks)
    lists = np.tile(np.arange(k), (len(ranks), 1)).astype(np.int64)
    rows = np.flatnonzero(ranks < k)
    lists[rows, ranks[rows]] = 1000
    return EvalFrame(model, np.arange(len(ranks)), lists, np.full(len(ranks), 1000), segments or {}, seed=seed)


@settings(max_examples=40, deadline=None)
@given(st.integers(2, 30), st.integers(1, 20), st.integers(0, 10_000))
def test_ndcg_and_hit_agree_with_scikit_learn_and_loops(n_items, k, draw):
    rng = np.random.default_rng(draw)
    k = min(k, n_items)
    scores, target = rng.permuted(np.tile(np.arange(n_items), (5, 1)), axis=1), rng.integers(n_items, size=5)
    lists = np.argsort(-scores, axis=1)[:, :k]
    frame = EvalFrame("m", np.arange(5), lists, target, {})
    relevance = np.eye(n_items)[target]
    expected = [ndcg_score(relevance[u : u + 1], scores[u : u + 1], k=k) for u in range(5)]
    np.testing.assert_allclose(gains(frame, f"ndcg@{k}"), expected, atol=1e-12)
    for user in range(5):
        ranked = lists[user].tolist()
        found = target[user] in ranked
        assert gains(frame, f"hit@{k}")[user] == gains(frame, f"recall@{k}")[user] == float(found)
        assert gains(frame, f"mrr@{k}")[user] == (1 / (ranked.index(target[user]) + 1) if found else 0)


@given(hnp.arrays(np.int64, st.integers(1, 30), elements=st.integers(0, 12)))
def test_metrics_are_bounded_and_ordered(ranks):
    frame = frame_of_ranks(ranks)
    for k in (1, 5, 10):
        reciprocal, discounted, found = (gains(frame, f"{name}@{k}") for name in ("mrr", "ndcg", "hit"))
        assert (reciprocal >= 0).all()
        assert (reciprocal <= discounted).all()
        assert (discounted <= found).all()
        assert (found <= gains(frame, "hit@10")).all()


def test_rows_cover_segments_metrics_and_cutoffs():
    head = np.array([True, False, True, False])
    frame = frame_of_ranks([0, 1, 7, 10], segments={"head": head, "tail": ~head, "cold": np.zeros(4, dtype=bool)})
    rows = {(r.segment, r.metric): r for r in evaluate_frames([frame], "d", SETTINGS)}
    assert {segment for segment, _ in rows} == {"all", "head", "tail"}
    assert {metric for _, metric in rows} == {f"{m}@{k}" for m in ("hit", "recall", "ndcg", "mrr") for k in (5, 10)}
    assert rows["all", "hit@5"].value == 0.5
    assert rows["head", "ndcg@10"].value == pytest.approx((1 + 1 / math.log2(9)) / 2)
    assert rows["tail", "hit@10"].users == 2
    assert rows["all", "hit@5"].seeds == []


def test_interval_is_that_of_a_binomial_mean():
    ranks = np.where(np.arange(2000) < 400, 0, 10)
    many = SETTINGS.model_copy(update={"bootstrap_samples": 10_000})
    row = next(r for r in evaluate_frames([frame_of_ranks(ranks)], "d", many) if r.metric == "hit@10")
    half = 1.96 * math.sqrt(0.2 * 0.8 / 2000)
    assert row.low == pytest.approx(0.2 - half, abs=0.001)
    assert row.high == pytest.approx(0.2 + half, abs=0.001)


def test_bootstrap_equals_resampling_user_by_user():
    ranks = np.random.default_rng(3).integers(0, 20, size=300)
    row = next(r for r in evaluate_frames([frame_of_ranks(ranks)], "d", SETTINGS) if r.metric == "ndcg@10")
    rng, values = np.random.default_rng(9), gains(frame_of_ranks(ranks), "ndcg@10")
    means = [np.mean([values[rng.integers(300)] for _ in range(300)]) for _ in range(400)]
    assert (row.low, row.high) == pytest.approx(tuple(np.quantile(means, [0.025, 0.975])), abs=0.01)


def test_seeds_are_averaged_and_widen_the_interval():
    rng = np.random.default_rng(0)
    frames = [frame_of_ranks(np.where(rng.random(2000) < p, 0, 10), seed=s) for s, p in enumerate((0.1, 0.2, 0.3))]
    row = next(r for r in evaluate_frames(frames, "d", SETTINGS) if r.metric == "hit@10")
    assert row.value == pytest.approx(np.mean([gains(f, "hit@10").mean() for f in frames]))
    assert row.seeds == [0, 1, 2]
    assert row.high - row.low > 0.1  # users alone would give 0.02


def test_paired_difference_sees_what_unpaired_intervals_hide():
    rng = np.random.default_rng(0)
    base = np.where(rng.random(2000) < 0.2, 0, 10)
    better = base.copy()
    better[np.flatnonzero(base == 10)[:20]] = 0
    a, b = frame_of_ranks(better, model="a"), frame_of_ranks(base, model="b")
    found = paired_difference([a], [b], "hit@10", "all", SETTINGS)
    assert found.difference == pytest.approx(0.01)
    assert 0 < found.low < 0.01 < found.high < 0.016
    assert found.p < 0.02
    assert found.relative == pytest.approx(0.01 / found.value_b)
    assert found.relative_low < found.relative < found.relative_high
    mirrored = paired_difference([b], [a], "hit@10", "all", SETTINGS)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))
    nothing = paired_difference([a], [a], "hit@10", "all", SETTINGS)
    assert (nothing.difference, nothing.low, nothing.high, nothing.p) == (0, 0, 0, 1)


def test_p_is_near_uniform_when_there_is_no_difference():
    rng, values = np.random.default_rng(5), []
    for _ in range(60):
        a, b = (frame_of_ranks(np.where(rng.random(300) < 0.3, 0, 10)) for _ in range(2))
        values.append(paired_difference([a], [b], "hit@10", "all", SETTINGS).p)
    assert np.mean(np.array(values) < 0.05) < 0.15
    assert 0.3 < np.mean(values) < 0.7


def test_relative_lift_over_nothing_is_not_a_number():
    zero = frame_of_ranks([10] * 5)
    assert math.isnan(paired_difference([frame_of_ranks([0] * 5)], [zero], "hit@10", "all", SETTINGS).relative)


def test_frames_of_different_users_are_not_compared():
    with pytest.raises(AssertionError, match="different users"):
        paired_difference([frame_of_ranks([0, 1])], [frame_of_ranks([0, 1, 2])], "hit@10", "all", SETTINGS)


def test_metrics_file_holds_the_promised_fields(tmp_path):
    rows = evaluate_frames([frame_of_ranks([0, 3], seed=7)], "d", SETTINGS)
    write_metrics(tmp_path / "metrics.json", rows)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert len(written) == len(rows)
    assert all(list(r) == ["model", "dataset", "segment", "metric", "value", "low", "high", "seeds"] for r in written)
    assert written[0]["seeds"] == [7]
