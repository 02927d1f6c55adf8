"""BM25 user-kNN: who votes, for what, and who never does."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.shapes import interactions_of
from genrec.config import RetrievalSettings
from genrec.errors import DataError
from genrec.retrieval.user_knn import UserKNN

TEXTS = ["red lipstick", "red nail polish", "hair brush", "hair dryer", "sun cream", "red blush", "rare thing", "soap"]
SETTINGS = RetrievalSettings(vote_recency=1.0, vote_score_power=1.0)
OTHERS = [[4, 4, 7, 6, 7]] * 9  # a word in half of the documents weighs nothing to BM25
DATA = interactions_of([[0, 1, 5, 6, 7], [2, 3, 4, 7, 6], [1, 5, 4, 6, 7], [2, 4, 3, 7, 6], *OTHERS], len(TEXTS))


def test_scores_are_the_neighbours_votes():
    knn = UserKNN.fit(DATA, TEXTS, SETTINGS, neighbours=3)
    histories, users = np.array([[0, 1, -1], [3, 2, 4]]), np.array([-1, 1])
    found = knn.users.search(histories, users, 3)
    expected = np.zeros((2, DATA.n_items))
    for row in range(2):
        for user, score in zip(found.users_BZ[row], found.scores_BZ[row], strict=True):
            for item in set(DATA.train_sequence(user).tolist()) if user >= 0 else ():
                expected[row, item] += score / found.scores_BZ[row].max() / np.sqrt(DATA.train_counts[item])
    np.testing.assert_allclose(knn.score_histories(histories, users), expected, rtol=1e-5)
    assert expected.any(axis=1).all()


def test_the_user_asked_about_has_no_vote_and_targets_get_none():
    lonely = interactions_of([[0, 1, 5, 6, 7], [2, 3, 4, 7, 6], *OTHERS], len(TEXTS))
    knn = UserKNN.fit(lonely, TEXTS, SETTINGS)
    history = np.array([[0, 1, 5]])
    assert knn.score_histories(history)[0, [0, 1, 5]].all()
    assert not knn.score_histories(history, np.array([0])).any()
    assert not knn.score_histories(np.array([[0, 5, -1]]))[0, [6, 2]].any()


def test_texts_must_fit_the_catalog():
    with pytest.raises(DataError, match="7 item texts for 8 items"):
        UserKNN.fit(DATA, TEXTS[:7], SETTINGS)
