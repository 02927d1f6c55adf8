"""Vectorised windows against loops."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.filtering import cold_items
from genrec.data.interactions import Interactions
from genrec.data.splits import leave_one_out
from genrec.data.windows import PAD_ITEM, padded_histories, seen_items
from genrec.models import contracts

N = 9


def interactions_of(sequences):
    offsets = np.cumsum([0, *map(len, sequences)]).astype(np.int64)
    split = leave_one_out(np.diff(offsets))
    items = np.concatenate(sequences).astype(np.int32)
    return Interactions(items, offsets, split.train_end, split.valid_at, split.test_at, N, np.zeros(N, bool), None, ())


@settings(deadline=None)
@given(
    st.lists(st.lists(st.integers(0, N - 1), min_size=1, max_size=9), min_size=1, max_size=8),
    st.none() | st.integers(1, 12),
    st.sampled_from(["train", "valid", "test", "all"]),
    st.data(),
)
def test_histories_and_seen_items(sequences, width, split, data):
    log = interactions_of(sequences)
    users = data.draw(st.lists(st.integers(0, len(sequences) - 1), max_size=6))
    padded = padded_histories(log, users, split, width)
    seen = seen_items(log, users, split)
    longest = 1
    assert padded.dtype == np.int64
    assert len(seen) == len(users)
    for row, user in enumerate(users):
        past = {
            "train": log.train_sequence(user).tolist(),
            "all": sequences[user],
            "valid": log.history(user, "valid").tolist(),
            "test": log.history(user, "test").tolist(),
        }[split]
        assert seen[row].tolist() == past
        last = past if width is None else past[-width:]
        longest = max(longest, len(last))
        assert padded[row].tolist() == last + [PAD_ITEM] * (padded.shape[1] - len(last))
    assert padded.shape == (len(users), longest)


def test_padding_is_the_models_padding():
    assert PAD_ITEM == contracts.PAD_ITEM


def test_cold_items_have_no_training_interaction():
    log = interactions_of([[0, 1, 2, 3], [4, 4]])
    assert np.flatnonzero(cold_items(log)).tolist() == [2, 3, 5, 6, 7, 8]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, N - 1), max_size=9), min_size=1, max_size=8), st.data())
def test_train_counts_are_those_of_the_training_sequences(sequences, data):
    lengths = [len(row) for row in sequences]
    ends = np.array([data.draw(st.integers(0, length)) for length in lengths], dtype=np.int32)
    none = np.full(len(lengths), -1, dtype=np.int32)
    items = np.concatenate([np.empty(0), *sequences]).astype(np.int32)
    offsets = np.cumsum([0, *lengths]).astype(np.int64)
    log = Interactions(items, offsets, ends, none, none, N, np.zeros(N, bool))
    expected = np.zeros(N, dtype=int)
    for user in range(len(lengths)):
        np.add.at(expected, log.train_sequence(user), 1)
    assert log.train_counts.tolist() == expected.tolist()
