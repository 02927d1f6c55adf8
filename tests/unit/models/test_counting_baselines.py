"""Popularity, item-kNN and blends against plain loops, and on Amazon Beauty."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.config import EvaluationSettings, ItemKNNSettings
from genrec.data.interactions import Interactions
from genrec.data.windows import padded_histories
from genrec.errors import ArtifactError
from genrec.evaluation.metrics import evaluate_frames
from genrec.evaluation.rank import rank_dense
from genrec.models.dense import Blend
from genrec.models.item_knn import ItemKNN
from genrec.models.popularity import Popularity

BEAUTY = Path(__file__).parents[3] / "../shared/data/amazon-beauty/sequences.txt"


def leave_one_out(sequences: list[list[int]], n_items: int) -> Interactions:
    lengths = np.array([len(s) for s in sequences], dtype=np.int32)
    plain = {
        "items": np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences]),
        "offsets": np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        "train_end": lengths - 2,
        "valid_at": lengths - 2,
        "test_at": lengths - 1,
        "n_items": n_items,
    }
    counts = Interactions(**plain, head_items=np.zeros(n_items, dtype=bool)).train_counts
    head = np.zeros(n_items, dtype=bool)
    head[np.argsort(-counts, kind="stable")[: round(0.2 * n_items)]] = True
    return Interactions(**plain, head_items=head)


def naive_scores(data: Interactions, knn: ItemKNNSettings, history: list[int]) -> np.ndarray:
    """The definition, pair by pair."""
    forward = np.zeros((data.n_items, data.n_items))
    for user in range(data.n_users):
        sequence = data.train_sequence(user)
        for a in range(len(sequence)):
            for b in range(a + 1, min(a + knn.window, len(sequence) - 1) + 1):
                forward[sequence[a], sequence[b]] += 1 / (b - a)
    both = forward + knn.reverse * forward.T
    degree = both.sum(axis=0)
    scores = np.zeros(data.n_items)
    for back, item in enumerate(reversed(history)):
        for other in range(data.n_items):
            if degree[other] > 0:
                scores[other] += knn.decay**back * both[item, other] / degree[other] ** knn.degree_power
    return scores


sequences = st.lists(st.lists(st.integers(0, 7), min_size=3, max_size=12), min_size=1, max_size=6)


@settings(max_examples=40, deadline=None)
@given(sequences, st.integers(1, 6), st.floats(0, 1), st.floats(0, 1), st.floats(0.1, 1), st.integers(0, 1000))
def test_item_knn_is_its_definition(seqs, window, reverse, power, decay, draw):
    data = leave_one_out(seqs, 8)
    knn = ItemKNNSettings(window=window, reverse=reverse, degree_power=power, decay=decay)
    rng = np.random.default_rng(draw)
    histories = [rng.integers(0, 8, size=rng.integers(0, 6)).tolist() for _ in range(4)]
    padded = np.array([h + [-1] * (6 - len(h)) for h in histories])
    expected = [naive_scores(data, knn, h) for h in histories]
    np.testing.assert_allclose(ItemKNN.fit(data, knn).score_histories(padded), expected, rtol=1e-4, atol=1e-5)


def test_targets_of_validation_and_test_leave_no_trace():
    one = leave_one_out([[0, 1, 2, 3, 4], [4, 3, 2, 1, 0]], 6)
    other = leave_one_out([[0, 1, 2, 5, 5], [4, 3, 2, 5, 5]], 6)
    fitted = [ItemKNN.fit(data, ItemKNNSettings()).weights_NN.toarray() for data in (one, other)]
    np.testing.assert_array_equal(*fitted)
    np.testing.assert_array_equal(Popularity.fit(one).counts_N, [1, 1, 2, 1, 1, 0])


def test_padded_histories_are_the_latest_items_before_the_target():
    data = leave_one_out([[0, 1, 2, 3, 4], [5, 6, 7]], 8)
    users = np.array([0, 1])
    np.testing.assert_array_equal(padded_histories(data, users, "test", 3), [[1, 2, 3], [5, 6, -1]])
    np.testing.assert_array_equal(padded_histories(data, users, "valid", None), [[0, 1, 2], [5, -1, -1]])


def test_item_knn_comes_back_from_disk(tmp_path):
    fitted = ItemKNN.fit(leave_one_out([[0, 1, 2, 3, 4, 0, 5]], 6), ItemKNNSettings(decay=0.9))
    fitted.save(tmp_path / "knn.safetensors")
    loaded = ItemKNN.load(tmp_path / "knn.safetensors")
    histories = np.array([[0, 1, -1], [4, 3, 2]])
    np.testing.assert_array_equal(loaded.score_histories(histories), fitted.score_histories(histories))
    assert loaded.decay == 0.9


@pytest.mark.parametrize("content", [None, b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      "])
def test_a_file_that_is_no_item_knn_is_refused(tmp_path, content):
    path = tmp_path / "knn.safetensors"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"knn\.safetensors"):
        ItemKNN.load(path)


def test_blend_is_the_weighted_sum_of_z_scores():
    data = leave_one_out([[0, 1, 2, 3, 4, 0, 5], [2, 3, 1, 1, 0]], 6)
    parts = [ItemKNN.fit(data, ItemKNNSettings()), Popularity.fit(data)]
    histories = np.array([[0, 1], [3, -1]])
    standard = [
        (s - s.mean(1, keepdims=True)) / s.std(1, keepdims=True) for s in (p.score_histories(histories) for p in parts)
    ]
    blended = Blend([(parts[0], 1.0), (parts[1], 0.5)]).score_histories(histories)
    np.testing.assert_allclose(blended, standard[0] + 0.5 * standard[1], atol=1e-5)


@pytest.mark.skipif(not BEAUTY.is_file(), reason="the shared data sets are not beside the project")
@pytest.mark.parametrize(("policy", "knn_hit", "knn_ndcg"), [("exclude", 0.0758, 0.0478), ("keep", 0.0694, 0.0420)])
def test_item_knn_and_popularity_on_beauty(policy, knn_hit, knn_ndcg):
    rows = [[int(item) - 1 for item in line.split()[1:]] for line in BEAUTY.read_text().splitlines()]
    data = leave_one_out(rows, 12101)
    evaluation = EvaluationSettings(seen_items=policy, bootstrap_samples=20)
    values = {}
    for name, scorer in (("knn", ItemKNN.fit(data, ItemKNNSettings())), ("popularity", Popularity.fit(data))):
        frame = rank_dense(scorer, data, "test", evaluation, max_history=20, model=name)
        values |= {(name, r.segment, r.metric): r.value for r in evaluate_frames([frame], "beauty", evaluation)}
    assert values["knn", "all", "hit@10"] == pytest.approx(knn_hit, abs=3e-4)
    assert values["knn", "all", "ndcg@10"] == pytest.approx(knn_ndcg, abs=3e-4)
    if policy == "exclude":
        assert values["knn", "tail", "hit@10"] == pytest.approx(0.0566, abs=3e-4)
        assert values["knn", "tail", "ndcg@10"] == pytest.approx(0.0368, abs=3e-4)
    else:
        assert values["popularity", "all", "hit@10"] == pytest.approx(0.0114, abs=5e-5)
        assert values["popularity", "all", "ndcg@10"] == pytest.approx(0.0053, abs=5e-5)
