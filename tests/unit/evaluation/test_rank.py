"""Full ranking: order, ties, the two seen-item policies, and generated lists."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.config import EvaluationSettings, ItemKNNSettings
from genrec.data.filtering import head_items
from genrec.data.interactions import Interactions
from genrec.errors import ArtifactError
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.rank import load_frame, rank_dense, rank_generative, save_frame, segments_of, top_items
from genrec.evaluation.tuning import ITEM_KNN_GRID, tune
from genrec.models.item_knn import ItemKNN
from genrec.models.popularity import Popularity

EXCLUDE = EvaluationSettings(cutoffs=(3, 5), beams=5, batch_size=2)
KEEP = EXCLUDE.model_copy(update={"seen_items": "keep"})


def made_of(sequences: list[list[int]], n_items: int) -> Interactions:
    lengths = np.array([len(s) for s in sequences], dtype=np.int32)
    head = np.zeros(n_items, dtype=bool)
    head[:2] = True
    return Interactions(
        items=np.concatenate([np.asarray(s, dtype=np.int32) for s in sequences]),
        offsets=np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64),
        train_end=lengths - 2,
        valid_at=lengths - 2,
        test_at=lengths - 1,
        n_items=n_items,
        head_items=head,
    )


def random_data(draw: int, n_users: int = 7, n_items: int = 9) -> Interactions:
    rng = np.random.default_rng(draw)
    return made_of([rng.integers(n_items, size=rng.integers(3, 12)).tolist() for _ in range(n_users)], n_items)


scores = st.lists(
    st.lists(st.sampled_from([-np.inf, -2.5, -0.0, 0.0, 1e-30, 1.0, 3.5, np.inf]), min_size=6, max_size=6),
    min_size=1,
    max_size=4,
)


@given(scores, st.integers(1, 6))
def test_top_items_sorts_by_score_then_index(rows, k):
    matrix = np.array(rows, dtype=np.float32)
    items, values = top_items(matrix, k)
    for row in range(len(rows)):
        expected = sorted(range(6), key=lambda item, row=row: (-matrix[row, item], item))[:k]
        listed = [item for item in expected if matrix[row, item] > -np.inf]
        assert items[row].tolist() == listed + [-1] * (k - len(listed))
        assert values[row].tolist() == matrix[row, expected].tolist()


class FixedScorer:
    """The same scores for everyone, whatever the history; remembers what it was given."""

    def __init__(self, scores_N):
        self.scores_N, self.given = np.asarray(scores_N, dtype=np.float32), []

    def score_histories(self, histories_BT, users_B=None):
        self.given += [h[h >= 0].tolist() for h in histories_BT]
        return np.tile(self.scores_N, (len(histories_BT), 1))


def test_exclude_removes_the_whole_history_even_beyond_the_window():
    data = made_of([[5, 4, 3, 2, 0], [1, 0, 5]], 6)
    scorer = FixedScorer(np.arange(6))
    frame = rank_dense(scorer, data, "test", EXCLUDE, max_history=2, model="fixed")
    assert scorer.given == [[3, 2], [1, 0]]
    assert frame.lists.tolist() == [[1, 0, -1, -1, -1], [5, 4, 3, 2, -1]]
    kept = rank_dense(scorer, data, "test", KEEP, max_history=2, model="fixed")
    assert kept.lists.tolist() == [[5, 4, 3, 2, 1]] * 2
    assert frame.ranks.tolist() == [1, 0]
    assert {name: member.tolist() for name, member in frame.segments.items()} == {
        "head": [True, False],
        "tail": [False, True],
        "cold": [True, False],
        "head-literature": [True, True],  # items 0 and 5 occur twice, all others once
        "tail-literature": [False, False],
    }


@pytest.mark.parametrize("draw", range(5))
def test_the_literatures_segments_are_those_of_its_rule_for_the_whole_data_set(draw):
    data = random_data(draw)
    found = segments_of(data, np.arange(data.n_items))
    by_rule = head_items(np.bincount(data.items, minlength=data.n_items), 2 / data.n_items)
    assert found["head-literature"].tolist() == by_rule.tolist()
    assert found["tail-literature"].tolist() == (~by_rule).tolist()
    assert found["head"].tolist() == data.head_items.tolist()


def test_a_target_that_was_seen_before_is_a_miss_under_exclude():
    data = made_of([[2, 1, 2]], 4)
    assert rank_dense(FixedScorer([0, 1, 9, 2]), data, "test", EXCLUDE, max_history=9, model="f").ranks[0] == 4
    assert rank_dense(FixedScorer([0, 1, 9, 2]), data, "test", KEEP, max_history=9, model="f").ranks[0] == 0


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.sampled_from(["valid", "test"]), st.integers(1, 8))
def test_chunks_and_user_subsets_do_not_change_a_list(draw, split, chunk):
    data = random_data(draw)
    knn = ItemKNN.fit(data, ItemKNNSettings())
    whole = rank_dense(knn, data, split, EXCLUDE, max_history=4, model="knn")
    cut = rank_dense(knn, data, split, EXCLUDE, max_history=4, model="knn", chunk=chunk, users=np.array([1, 4, 6]))
    np.testing.assert_array_equal(cut.lists, whole.lists[[1, 4, 6]])
    for row, user in enumerate(whole.users):
        assert not set(whole.lists[row]) & set(data.history(user, split).tolist())


@dataclass
class Ranked:
    items_BK: torch.Tensor
    scores_BK: torch.Tensor


@pytest.mark.parametrize("evaluation", [EXCLUDE, KEEP])
def test_a_generator_with_the_same_scores_gives_the_same_frame(evaluation):
    data = random_data(1)
    knn = ItemKNN.fit(data, ItemKNNSettings())
    sizes = []

    def generate(backbone, batch, k, *, beams, exclude_BS):
        assert backbone is knn
        assert beams == evaluation.beams
        sizes.append(batch.size)
        values = knn.score_histories(batch.history_BT.numpy(), batch.users_B.numpy())
        for row in range(batch.size):
            if exclude_BS is not None:
                values[row, [item for item in exclude_BS[row].tolist() if item >= 0]] = -np.inf
        return Ranked(*(torch.from_numpy(part) for part in top_items(values, k)))

    dense = rank_dense(knn, data, "test", evaluation, max_history=4, model="knn", seed=3)
    generated = rank_generative(generate, knn, data, "test", evaluation, max_history=4, model="knn", seed=3)
    np.testing.assert_array_equal(generated.lists, dense.lists)
    np.testing.assert_array_equal(generated.scores, dense.scores)
    assert sizes == [2, 2, 2, 1]
    assert generated.seed == 3


@pytest.mark.parametrize("seed", [None, 0, 5])
def test_a_frame_comes_back_from_disk(tmp_path, seed):
    frame = rank_dense(
        Popularity.fit(random_data(2)), random_data(2), "test", EXCLUDE, max_history=4, model="p", seed=seed
    )
    save_frame(frame, tmp_path / "frame.parquet")
    loaded = load_frame(tmp_path / "frame.parquet")
    assert (loaded.model, loaded.seed) == ("p", seed)
    for name in ("users", "lists", "targets", "scores"):
        np.testing.assert_array_equal(getattr(loaded, name), getattr(frame, name))
        assert getattr(loaded, name).dtype == getattr(frame, name).dtype
    assert loaded.segments.keys() == frame.segments.keys()
    for name, member in frame.segments.items():
        np.testing.assert_array_equal(loaded.segments[name], member)


def test_an_empty_frame_comes_back_from_disk(tmp_path):
    empty = EvalFrame("m", np.zeros(0, np.int64), np.zeros((0, 5), np.int64), np.zeros(0, np.int64), {})
    save_frame(empty, tmp_path / "frame.parquet")
    assert load_frame(tmp_path / "frame.parquet").lists.shape == (0, 5)


def test_what_is_no_frame_is_refused(tmp_path):
    (tmp_path / "frame.parquet").write_bytes(b"PAR1 and then nothing")
    for name in ("frame.parquet", "absent.parquet"):
        with pytest.raises(ArtifactError, match=name):
            load_frame(tmp_path / name)


def test_tuning_reads_validation_only_and_never_ends_below_its_start():
    rng = np.random.default_rng(0)
    rows = [(np.arange(8) + rng.integers(30)).tolist() for _ in range(60)]  # the next item is always i + 1
    data = made_of(rows, 40)
    other = made_of([[*row[:-1], 39] for row in rows], 40)  # other test targets
    start = ItemKNNSettings(window=20, reverse=1.0, decay=0.95)

    def tuned(of):
        return tune(start, ITEM_KNN_GRID, partial(ItemKNN.fit, of), of, EXCLUDE, max_history=5)

    best, trials = tuned(data)
    assert tuned(other) == (best, trials)
    by_settings = {trial.settings: trial.ndcg for trial in trials}
    assert by_settings[best] == max(by_settings.values()) > by_settings[start]
