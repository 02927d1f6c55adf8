"""The one order of retrieved users: by score, then by index, whatever the shards."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from genrec.retrieval.neighbours import PAD_USER, Neighbours, merge_top, rank_keys, top_keys, top_positive

FEW_SCORES = hnp.arrays(
    np.float32,
    st.tuples(st.integers(1, 4), st.integers(1, 30)),
    elements=st.sampled_from([np.float32(x) for x in (-2.5, -1e-30, -0.0, 0.0, 1e-30, 0.5, 0.5000001, 3.0)]),
)


def sorted_users(scores: np.ndarray, z: int, *, positive: bool) -> list[list[int]]:
    order = [sorted(range(len(row)), key=lambda u, row=row: (-float(row[u]), u)) for row in scores]
    return [[u for u in users if not positive or scores[b][u] > 0][:z] for b, users in enumerate(order)]


def unpadded(found: Neighbours) -> list[list[int]]:
    return [[int(user) for user in row if user != PAD_USER] for row in found.users_BZ]


@given(FEW_SCORES, st.integers(1, 35))
def test_keys_sort_as_scores_and_then_users(scores: np.ndarray, z: int):
    found = top_keys(rank_keys(scores, np.arange(scores.shape[1])[None, :]), z)
    assert unpadded(found) == sorted_users(scores, z, positive=False)
    for row, users in enumerate(unpadded(found)):
        assert found.scores_BZ[row, : len(users)].tolist() == scores[row, users].tolist()
    assert found.users_BZ.shape == (len(scores), z)


@given(FEW_SCORES, st.integers(1, 35))
def test_top_positive_leaves_zero_and_less_out(scores: np.ndarray, z: int):
    assert unpadded(top_positive(scores, z)) == sorted_users(scores, z, positive=True)


@given(FEW_SCORES, st.integers(1, 35), st.data())
def test_shards_merge_to_the_whole(scores: np.ndarray, z: int, data: st.DataObject):
    width = scores.shape[1]
    cuts = sorted(data.draw(st.lists(st.integers(0, width), max_size=4)))
    bounds = list(zip([0, *cuts], [*cuts, width], strict=True))
    parts = [top_positive(scores[:, begin:end], z, first=begin) for begin, end in bounds if end > begin]
    merged, whole = merge_top(parts, z), top_positive(scores, z)
    np.testing.assert_array_equal(merged.users_BZ, whole.users_BZ)
    np.testing.assert_array_equal(merged.scores_BZ, whole.scores_BZ)
