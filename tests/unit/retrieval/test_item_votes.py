"""Votes against plain loops; precision of retrieved users against counting by hand."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.config import ItemKNNSettings, RetrievalSettings
from genrec.models.item_knn import ItemKNN
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.documents import known_histories, training_histories
from genrec.retrieval.neighbours import Neighbours
from genrec.retrieval.quality import retrieval_precision, vote_quality
from genrec.retrieval.votes import NeighbourVotes, SparseItems, scorer_votes

SETTINGS = RetrievalSettings(vote_score_power=1.5, vote_recency=0.8, vote_popularity_power=-0.5)


@pytest.fixture(scope="module")
def found(tastes):
    data, texts = tastes
    users = np.arange(0, data.n_users, 3)
    histories = known_histories(data, users, data.test_at[users], 20)
    neighbours = Bm25Users.fit(data, texts, SETTINGS).search(histories, users, 10)
    return data, users, histories, neighbours


@pytest.mark.parametrize("exclude", [True, False])
def test_neighbour_votes_match_plain_loops(found, exclude: bool):
    data, users, histories, neighbours = found
    votes = NeighbourVotes.fit(data, SETTINGS).vote(neighbours, 8, histories if exclude else None)
    for row in range(len(users)):
        score = np.zeros(data.n_items)
        kept = neighbours.scores_BZ[row].astype(float)
        for user, strength in zip(neighbours.users_BZ[row], kept / kept.max(), strict=True):
            sequence = data.train_sequence(user)[::-1].tolist()
            for item in set(sequence):
                popularity = max(data.train_counts[item], 1) ** -0.5
                score[item] += strength**1.5 * 0.8 ** sequence.index(item) * popularity
        if exclude:
            score[histories[row][histories[row] >= 0]] = 0
        best = np.sort(score)[::-1][:8]
        named = votes.items_BM[row][votes.items_BM[row] >= 0]
        np.testing.assert_allclose(score[named], best[: len(named)], rtol=1e-5)
        np.testing.assert_allclose(votes.weights_BM[row], best / best.sum(), rtol=1e-4, atol=1e-7)
        if exclude:
            assert not np.isin(named, histories[row]).any()


def test_item_knn_votes_are_its_best_items(found):
    data, users, histories, _ = found
    knn = ItemKNN.fit(data, ItemKNNSettings())
    votes = scorer_votes(knn, histories, users, 5, n_items=data.n_items, seen_BT=histories)
    scores = knn.score_histories(histories)
    for row in range(len(users)):
        scores[row][histories[row][histories[row] >= 0]] = 0
        best = np.sort(scores[row])[::-1][:5]
        np.testing.assert_allclose(votes.weights_BM[row], best / best.sum(), rtol=1e-5)
        np.testing.assert_array_equal(scores[row][votes.items_BM[row]], best)


def test_a_row_without_neighbours_or_unseen_items_votes_for_nothing(tastes):
    data, _ = tastes
    votes = NeighbourVotes.fit(data, SETTINGS)
    nobody = votes.vote(Neighbours.none(2, 4), 3)
    assert (nobody.items_BM == -1).all()
    assert (nobody.weights_BM == 0).all()
    one = Neighbours(np.array([[5]]), np.array([[2.0]], dtype=np.float32))
    seen_all = votes.vote(one, 3, training_histories(data, np.array([5]), 100))
    assert (seen_all.items_BM == -1).all()


def test_precision_and_chance_match_counting(found):
    data, users, _, neighbours = found
    targets = data.targets("test")[users].astype(np.int64)
    has = [set(data.train_sequence(user).tolist()) for user in range(data.n_users)]
    right = [
        [int(t in has[u]) if u >= 0 else 0 for u in row[:4]]
        for row, t in zip(neighbours.users_BZ, targets, strict=True)
    ]
    chance = [
        np.mean([t in has[u] for u in range(data.n_users) if u != user]) for user, t in zip(users, targets, strict=True)
    ]
    measured = retrieval_precision(neighbours, users, targets, data, 4)
    assert measured["all"].precision == pytest.approx(np.mean(right))
    assert measured["all"].chance == pytest.approx(np.mean(chance))
    tail = ~data.head_items[targets]
    assert measured["tail"].precision == pytest.approx(np.mean(np.array(right)[tail]))
    assert measured["tail"].queries + measured["head"].queries == len(users)


def test_random_users_are_as_good_as_chance(found):
    data, users, _, _ = found
    rng = np.random.default_rng(0)
    everyone = np.stack([rng.permutation(np.delete(np.arange(data.n_users), user)) for user in users])
    targets = data.targets("test")[users].astype(np.int64)
    found_all = Neighbours(everyone, np.ones(everyone.shape, dtype=np.float32))
    assert retrieval_precision(found_all, users, targets, data, everyone.shape[1])["all"].lift == pytest.approx(1.0)


def test_vote_quality_counts_named_targets():
    votes = SparseItems(
        np.array([[4, 2, -1], [1, 3, 5], [-1, -1, -1]]), np.array([[0.7, 0.3, 0], [0.5, 0.3, 0.2], [0, 0, 0]])
    )
    quality = vote_quality(votes, np.array([2, 9, 1]))
    assert quality.coverage == pytest.approx(1 / 3)
    assert quality.hit_10 == pytest.approx(1 / 3)
    assert quality.ndcg_10 == pytest.approx(1 / np.log2(3) / 3)
    assert quality.mass == pytest.approx(0.1)
