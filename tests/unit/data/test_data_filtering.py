"""The pure core against plain-Python definitions."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.data.filtering import Log, by_user_and_time, head_items, k_core, relabelled, without_repetitions
from genrec.data.splits import leave_one_out, temporal
from genrec.errors import DataError

events = st.lists(st.tuples(st.integers(0, 6), st.integers(0, 6), st.integers(0, 4)), min_size=1, max_size=80)


def log_of(rows):
    user, item, time = (np.array(column) for column in zip(*rows, strict=True))
    return Log(user.astype(np.int32), item.astype(np.int32), time.astype(np.int64), np.ones(len(rows), bool))


def rows_of(log):
    return list(zip(log.user.tolist(), log.item.tolist(), log.time.tolist(), strict=True))


def naive_core(pairs, min_user, min_item):
    while True:
        users, items = Counter(u for u, _ in pairs), Counter(i for _, i in pairs)
        kept = [(u, i) for u, i in pairs if users[u] >= min_user and items[i] >= min_item]
        if kept == pairs:
            return kept
        pairs = kept


@settings(deadline=None)
@given(events, st.integers(1, 4), st.integers(1, 4))
def test_k_core_is_the_naive_fixpoint(rows, min_user, min_item):
    log = log_of(rows)
    keep, rounds = k_core(log.user, log.item, min_user, min_item)
    kept = log.take(keep)
    assert [(u, i) for u, i, _ in rows_of(kept)] == naive_core([(u, i) for u, i, _ in rows], min_user, min_item)
    if keep.any():
        assert np.bincount(kept.user)[kept.user].min() >= min_user
        assert np.bincount(kept.item)[kept.item].min() >= min_item
    assert (rounds == 0) == keep.all()


@settings(deadline=None)
@given(events)
def test_order_is_stable_and_repetitions_go(rows):
    ordered = by_user_and_time(log_of(rows), keep_order=False)
    assert rows_of(ordered) == sorted(rows, key=lambda row: (row[0], row[2]))  # Python's sort is stable
    seen = set()
    expected = [row for row in rows_of(ordered) if not (row in seen or seen.add(row))]
    assert rows_of(without_repetitions(ordered)) == expected


@settings(deadline=None)
@given(events)
def test_given_order_is_kept(rows):
    ordered = by_user_and_time(log_of(rows), keep_order=True)
    assert rows_of(ordered) == sorted(rows, key=lambda row: row[0])


@settings(deadline=None)
@given(st.lists(st.integers(0, 20), min_size=1, max_size=30))
def test_relabelled_keeps_order_without_gaps(codes):
    new, old = relabelled(np.array(codes, np.int32))
    assert old[new].tolist() == codes
    assert old.tolist() == sorted(set(codes))


@settings(deadline=None)
@given(st.lists(st.integers(0, 5), min_size=1, max_size=50), st.floats(0.01, 0.99))
def test_head_items_are_the_most_frequent(counts, share):
    head = head_items(np.array(counts), share)
    assert head.sum() <= share * len(counts) + 1e-9
    best = sorted(range(len(counts)), key=lambda item: (-counts[item], item))[: int(share * len(counts) + 1e-9)]
    assert set(np.flatnonzero(head)) == {item for item in best if counts[item]}


def test_head_size_is_not_lost_to_rounding():
    assert head_items(np.ones(100, np.int64), 0.29).sum() == 29


def test_leave_one_out_needs_three():
    split = leave_one_out(np.array([1, 2, 3, 5]))
    assert split.train_end.tolist() == [1, 2, 1, 3]
    assert split.valid_at.tolist() == [-1, -1, 1, 3]
    assert split.test_at.tolist() == [-1, -1, 2, 4]


@settings(deadline=None)
@given(st.lists(st.lists(st.integers(0, 1000), min_size=1, max_size=8), min_size=5, max_size=20))
def test_temporal_never_looks_ahead(sequences):
    sequences = [sorted(own) for own in sequences]
    times = np.concatenate(sequences).astype(np.int64)
    offsets = np.cumsum([0, *map(len, sequences)])
    try:
        split = temporal(times, offsets, 0.2, 0.2)
    except DataError:
        # Refused only when borders coincide: some time must then hold a large share of all.
        assert np.unique(times, return_counts=True)[1].max() >= 0.2 * len(times) - 1
        return
    valid_from, test_from = split.times
    for own, end, valid, test in zip(sequences, split.train_end, split.valid_at, split.test_at, strict=True):
        assert all(t < valid_from for t in own[:end])
        assert all(t >= valid_from for t in own[end:])
        if valid >= 0:
            assert valid == end > 0
            assert valid_from <= own[valid] < test_from
        else:
            assert end == 0 or not any(valid_from <= t < test_from for t in own)
        if test >= 0:
            assert test > 0
            assert own[test] >= test_from > own[test - 1]
        else:
            assert all(t < test_from for t in own) or own[0] >= test_from


def test_temporal_refuses_equal_times():
    with pytest.raises(DataError, match="must differ"):
        temporal(np.full(10, 7), np.array([0, 5, 10]), 0.1, 0.1)
