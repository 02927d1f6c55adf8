"""The text path against bm25s and rank_bm25 themselves, and what an index may know."""

from __future__ import annotations

from dataclasses import replace

import bm25s
import numpy as np
import pytest
from rank_bm25 import BM25Okapi
from sklearn.feature_extraction.text import CountVectorizer

from genrec.config import RetrievalSettings
from genrec.data.interactions import Interactions
from genrec.errors import DataError
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.documents import WORD, known_histories, latest_items, training_histories, training_matrix
from genrec.retrieval.neighbours import merge_top

SETTINGS = RetrievalSettings()
WORDS = CountVectorizer(token_pattern=WORD).build_analyzer()


def words_of(texts: list[str], history: np.ndarray) -> list[str]:
    return [word for item in history if item >= 0 for word in WORDS(texts[item])]


def test_queries(data: Interactions, count: int) -> tuple[np.ndarray, np.ndarray]:
    users = np.sort(np.random.default_rng(1).choice(data.n_users, count, replace=False))
    return users, known_histories(data, users, data.test_at[users], SETTINGS.max_history)


test_queries.__test__ = False


def ranked(scores: np.ndarray, user: int, z: int) -> list[int]:
    scores = scores.astype(np.float32)
    order = sorted(np.flatnonzero(scores > 0).tolist(), key=lambda u: (-scores[u], u))
    return [u for u in order if u != user][:z]


def libraries(data: Interactions, texts: list[str]) -> tuple[bm25s.BM25, BM25Okapi]:
    documents = [words_of(texts, row) for row in training_histories(data, np.arange(data.n_users), 20)]
    fast = bm25s.BM25(method="robertson", k1=SETTINGS.bm25_k1, b=SETTINGS.bm25_b, dtype="float64")
    fast.index(documents, show_progress=False)
    return fast, BM25Okapi(documents, k1=SETTINGS.bm25_k1, b=SETTINGS.bm25_b, epsilon=0.0)


def check_against_libraries(data: Interactions, texts: list[str], users: np.ndarray, histories: np.ndarray, z: int):
    found = Bm25Users.fit(data, texts, SETTINGS).search(histories, users, z)
    fast, reference = libraries(data, texts)
    for row, user in enumerate(users):
        query = words_of(texts, histories[row])
        known = [word for word in query if word in fast.vocab_dict]
        mine = [u for u in found.users_BZ[row].tolist() if u >= 0]
        np.testing.assert_allclose(
            found.scores_BZ[row, : len(mine)], reference.get_scores(query)[mine] / (SETTINGS.bm25_k1 + 1), rtol=1e-6
        )
        assert mine == ranked(np.round(fast.get_scores(known), 10), user, z)
        assert mine == ranked(np.round(reference.get_scores(query) / (SETTINGS.bm25_k1 + 1), 10), user, z)


def test_ranking_is_that_of_bm25s_and_rank_bm25(tastes):
    data, texts = tastes
    check_against_libraries(data, texts, *test_queries(data, 40), z=30)


def test_ranking_is_that_of_bm25s_and_rank_bm25_on_beauty(beauty):
    data, texts = beauty
    users, histories = test_queries(data, 8)
    check_against_libraries(data, texts, users, histories, z=50)


def test_engines_give_one_answer(tastes):
    data, texts = tastes
    users, histories = test_queries(data, 40)
    fast = Bm25Users.fit(data, texts, SETTINGS)
    slow = Bm25Users.fit(data, texts, SETTINGS.model_copy(update={"bm25_engine": "rank-bm25"}))
    np.testing.assert_array_equal(
        fast.search(histories, users, 20).users_BZ, slow.search(histories, users, 20).users_BZ
    )
    np.testing.assert_array_equal(
        slow.shard(30, 70).search(histories, users, 20).users_BZ,
        fast.shard(30, 70).search(histories, users, 20).users_BZ,
    )


@pytest.mark.parametrize("step", [1, 17, 119, 120, 500])
def test_shards_equal_the_whole_index(tastes, step: int):
    data, texts = tastes
    users, histories = test_queries(data, 40)
    whole = Bm25Users.fit(data, texts, SETTINGS)
    parts = [whole.shard(begin, begin + step).search(histories, users, 20) for begin in range(0, data.n_users, step)]
    merged, expected = merge_top(parts, 20), whole.search(histories, users, 20)
    np.testing.assert_array_equal(merged.users_BZ, expected.users_BZ)
    np.testing.assert_array_equal(merged.scores_BZ, expected.scores_BZ)


def test_the_user_is_never_among_the_retrieved(tastes):
    data, texts = tastes
    users = np.arange(data.n_users)
    own = training_histories(data, users, 20)
    index = Bm25Users.fit(data, texts, SETTINGS)
    assert not (index.search(own, users, data.n_users).users_BZ == users[:, None]).any()
    stranger = index.search(own, np.full(len(users), -1), data.n_users)  # the same texts sent along
    # Found as anybody else would be; two documents hold only words of more than half of all, which weigh nothing.
    assert (stranger.users_BZ == users[:, None]).any(axis=1).mean() > 0.95


def test_documents_hold_training_items_only(tastes):
    data, texts = tastes
    rng = np.random.default_rng(0)
    users, histories = test_queries(data, 40)
    later = data.items.copy()
    for user in range(data.n_users):
        later[data.offsets[user] + data.train_end[user] : data.offsets[user + 1]] = rng.integers(60, size=2)
    changed = replace(data, items=later)
    assert (changed.items != data.items).any()
    before = Bm25Users.fit(data, texts, SETTINGS).search(histories, users, 20)
    after = Bm25Users.fit(changed, texts, SETTINGS).search(histories, users, 20)
    np.testing.assert_array_equal(before.users_BZ, after.users_BZ)
    np.testing.assert_array_equal(training_matrix(data).toarray(), training_matrix(changed).toarray())


def test_histories_and_weights_match_plain_loops(tastes):
    data, _ = tastes
    users = np.arange(data.n_users)
    positions = data.test_at.astype(np.int64) // 2
    found = known_histories(data, users, positions, 5)
    for user in users:
        expected = data.sequence(user)[: positions[user]][-5:].tolist()
        assert [item for item in found[user].tolist() if item >= 0] == expected
    everything = known_histories(data, users, data.test_at, 100)
    np.testing.assert_array_equal(latest_items(everything, 5), known_histories(data, users, data.test_at, 5))
    weights = training_matrix(data, recency=0.5).toarray()
    for user in users:
        sequence = data.train_sequence(user).tolist()
        for item in range(data.n_items):
            back = sequence[::-1].index(item) if item in sequence else None
            assert weights[user, item] == (0 if back is None else np.float32(0.5**back))


def test_a_history_of_no_known_word_finds_nobody(tastes):
    data, texts = tastes
    index = Bm25Users.fit(data, texts, SETTINGS)
    found = index.search(np.full((2, 3), -1), np.array([-1, 4]), 5)
    assert (found.users_BZ == -1).all()
    assert (found.scores_BZ == 0).all()


def test_user_mistakes_are_named(tastes):
    data, texts = tastes
    with pytest.raises(DataError, match="59 item texts for 60 items"):
        Bm25Users.fit(data, texts[:-1], SETTINGS)
    with pytest.raises(DataError, match="hold no words"):
        Bm25Users.fit(data, ["!"] * 60, SETTINGS)
