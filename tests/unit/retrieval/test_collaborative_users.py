"""The collaborative path against brute force, and the merge of paths against plain loops."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.config import RetrievalSettings
from genrec.errors import ArtifactError, SettingsError
from genrec.retrieval.collaborative_path import CollaborativeUsers, unit_rows
from genrec.retrieval.merge import CentredSpace, merge_paths
from genrec.retrieval.neighbours import Neighbours


def vectors(n_users: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    points = rng.normal(size=(n_users, 16)) * rng.uniform(0.1, 9, size=(n_users, 1))
    points[n_users // 2] = points[0]  # a tie
    points[n_users // 3] = 0  # a user of whom nothing is known
    return points.astype(np.float32)


def test_search_equals_brute_force():
    points = vectors(300)
    users = np.arange(300)
    found = CollaborativeUsers.fit(points).search(points, users, 12)
    unit = unit_rows(points).astype(np.float64)
    cosine = (unit @ unit.T).astype(np.float32)
    for user in users:
        others = [u for u in users if u not in (user, 100)] if user != 100 else []
        expected = sorted(others, key=lambda u: (-cosine[user, u], u))[:12]
        mine = [u for u in found.users_BZ[user].tolist() if u >= 0]
        assert len(mine) == len(expected)
        np.testing.assert_allclose(cosine[user, mine], cosine[user, expected], atol=2e-7)
    assert found.users_BZ[0, 0] == 150
    assert not (found.users_BZ == users[:, None]).any()


def test_a_result_does_not_depend_on_the_batch():
    points = vectors(500)
    index, queries = CollaborativeUsers.fit(points), vectors(64, seed=1)
    together = index.search(queries, np.full(64, -1), 10)
    for row in range(64):
        alone = index.search(queries[row : row + 1], np.array([-1]), 10)
        np.testing.assert_array_equal(alone.users_BZ[0], together.users_BZ[row])
        np.testing.assert_array_equal(alone.scores_BZ[0], together.scores_BZ[row])


def test_clusters_find_most_of_the_exact_neighbours():
    rng = np.random.default_rng(3)
    points = (rng.normal(size=(40, 16))[rng.integers(40, size=4000)] + 0.3 * rng.normal(size=(4000, 16))).astype(
        np.float32
    )
    users = np.arange(200)
    exact = CollaborativeUsers.fit(points).search(points[users], users, 20)
    clustered = CollaborativeUsers.fit(points, RetrievalSettings(ivf_from=1000, ivf_probes=16))
    assert type(clustered.index).__name__ == "IndexIVFFlat"
    found = clustered.search(points[users], users, 20)
    share = np.mean([len(set(a) & set(b)) / 20 for a, b in zip(exact.users_BZ, found.users_BZ, strict=True)])
    assert share > 0.9
    assert not (found.users_BZ == users[:, None]).any()


def test_vectors_that_are_no_numbers_are_refused():
    points = vectors(30)
    points[3, 3] = np.nan
    with pytest.raises(ArtifactError, match="NaN or infinity"):
        CollaborativeUsers.fit(points)


@st.composite
def candidate_lists(draw: st.DrawFn) -> list[list[int]]:
    return [draw(st.lists(st.integers(0, 19), unique=True, max_size=6)) for _ in range(4)]


def as_neighbours(lists: list[list[int]], z: int = 6) -> Neighbours:
    users = np.full((len(lists), z), -1, dtype=np.int64)
    for row, found in enumerate(lists):
        users[row, : len(found)] = found
    return Neighbours(users, np.where(users >= 0, 1.0, 0.0).astype(np.float32))


def expected_scores(text: list[int], other: list[int], cosine: np.ndarray, rule: str, order: str) -> dict[int, float]:
    """Score of every candidate, by the formulas of the module's text."""
    candidates = sorted({*text, *other})
    by_cosine = sorted(candidates, key=lambda u: (-cosine[u], u))

    def share(ranked: list[int], user: int) -> float:
        return 1 / (61 + (ranked.index(user) if user in ranked else 6))

    score = {
        "paths": lambda u: share(text, u) + share(other, u),
        "representation": lambda u: float(cosine[u]),
        "fused": lambda u: share(text, u) + share(by_cosine, u),
    }[order]
    both = {u: rule == "intersection-first" and u in text and u in other for u in candidates}
    return {u: score(u) + 4 * both[u] for u in candidates}


@settings(max_examples=60)
@given(
    candidate_lists(),
    candidate_lists(),
    st.sampled_from(["union", "intersection-first"]),
    st.sampled_from(["fused", "representation", "paths"]),
    st.integers(1, 13),
)
def test_merge_matches_plain_loops(text, other, rule, order, v):
    users, queries = unit_rows(np.random.default_rng(5).normal(size=(20, 16))), vectors(4, 6)
    cosine = (unit_rows(queries).astype(np.float64) @ users.astype(np.float64).T).astype(np.float32)
    paths = {"text": as_neighbours(text), "collaborative": as_neighbours(other)}
    found = merge_paths(paths, v, rule=rule, order=order, queries_BD=queries, vectors_UD=users)
    for row in range(4):
        expected = expected_scores(text[row], other[row], cosine[row], rule, order)
        mine = [u for u in found.users_BZ[row].tolist() if u >= 0]
        assert len(set(mine)) == len(mine) == min(v, len(expected))
        scores = found.scores_BZ[row, : len(mine)]
        np.testing.assert_allclose(scores, [expected[u] for u in mine], atol=1e-6)
        np.testing.assert_allclose(scores, sorted(expected.values(), reverse=True)[:v], atol=1e-6)


def test_a_common_part_of_all_vectors_does_not_matter():
    rng = np.random.default_rng(0)
    own, common = rng.normal(size=(200, 16)), 8 * rng.normal(size=16)
    space = CentredSpace.of((own + common).astype(np.float32))
    plain = unit_rows(own) @ unit_rows(own).T
    assert (unit_rows(own + common) @ unit_rows(own + common).T).min() > 0.9  # everybody alike
    assert np.corrcoef((space.vectors_UD @ space.vectors_UD.T).ravel(), plain.ravel())[0, 1] > 0.9
    np.testing.assert_allclose(space.place((own + common).astype(np.float32)), space.vectors_UD, atol=1e-6)
    assert not space.place(np.zeros((1, 16), dtype=np.float32)).any()


def test_an_order_by_representations_needs_them():
    with pytest.raises(SettingsError, match=r"retrieval\.rerank: 'fused' needs representations"):
        merge_paths({"text": as_neighbours([[1]])}, 3, order="fused")
