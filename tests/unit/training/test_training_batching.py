"""Every training pair exactly once, whatever the number of workers; hardly any padding."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from training_tools import make_interactions

from genrec.errors import DataError
from genrec.models.contracts import PAD_ITEM
from genrec.training.batching import EpochBatches, prefix_rows, window_rows

LENGTHS = st.lists(st.integers(0, 60), min_size=1, max_size=12).filter(lambda sizes: max(sizes) >= 4)


def with_distinct_items(lengths):
    """Items are their own positions, so a pair (history, target) tells where it came from."""
    data = make_interactions(lengths, n_items=max(sum(lengths), 1))
    data.items[:] = np.arange(len(data.items))
    return data


def pairs_of(batch):
    """(user, visible history, target) of every target in a batch."""
    found = []
    for row in range(batch.size):
        history = batch.history_BT[row]
        for p in range(batch.targets_BP.shape[1]):
            target = int(batch.targets_BP[row, p])
            if target != PAD_ITEM:
                seen = history[: int(batch.visible_BP[row, p])].tolist()
                assert PAD_ITEM not in seen
                found.append((int(batch.users_B[row]), tuple(seen), target))
    return found


def expected_targets(data):
    return Counter(int(item) for user in range(data.n_users) for item in data.train_sequence(user)[1:])


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 40), st.booleans(), st.integers(1, 5), st.integers(0, 3))
def test_every_pair_is_trained_once_by_any_number_of_workers(lengths, H, batch_size, windows, world, epoch):
    data = with_distinct_items(lengths)
    rows = window_rows(data, H) if windows else prefix_rows(data, H)
    epochs = EpochBatches(data, rows, batch_size, seed=7)
    single = [pairs_of(part.batch) for part in epochs.batches(epoch)]
    assert len(single) == epochs.steps_per_epoch
    assert Counter(target for pairs in single for _, _, target in pairs) == expected_targets(data)
    workers = [list(epochs.batches(epoch, rank, world)) for rank in range(world)]
    for step, pairs in enumerate(single):
        parts = [worker[step] for worker in workers]
        together = [pair for part in parts if part.share > 0 for pair in pairs_of(part.batch)]
        assert sorted(together) == sorted(pairs)
        assert sum(part.share for part in parts) == pytest.approx(world)
        for part in parts:
            if part.share:
                assert part.share == pytest.approx(world * len(pairs_of(part.batch)) / len(pairs))
            assert part.batch.size >= 1


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.booleans())
def test_histories_are_what_stood_before_the_target(lengths, H, windows):
    data = with_distinct_items(lengths)
    rows = window_rows(data, H) if windows else prefix_rows(data, H)
    epochs = EpochBatches(data, rows, 8, seed=1)
    for part in epochs.batches(0):
        for user, seen, target in pairs_of(part.batch):
            begin = int(data.offsets[user])
            position = target - begin
            assert seen == tuple(range(target - len(seen), target))
            full = min(position, H)
            if windows:
                assert len(seen) == position if position <= H else len(seen) >= (H + 1) // 2
                assert len(seen) <= H
            else:
                assert len(seen) == full


def test_start_step_skips_exactly_the_steps_done():
    data = with_distinct_items([9, 14, 30])
    epochs = EpochBatches(data, prefix_rows(data, 6), 7, seed=1)
    whole = [pairs_of(part.batch) for part in epochs.batches(2)]
    assert [pairs_of(part.batch) for part in epochs.batches(2, start_step=3)] == whole[3:]


def test_epochs_differ_and_repeat_by_seed():
    data = with_distinct_items([40, 40, 40])

    def order(seed, epoch):
        epochs = EpochBatches(data, prefix_rows(data, 6), 7, seed)
        return [pairs_of(part.batch) for part in epochs.batches(epoch)]

    assert order(1, 0) == order(1, 0)
    assert order(1, 0) != order(1, 1)
    assert order(1, 0) != order(2, 0)


def test_hardly_any_padding():
    lengths = list(np.random.default_rng(0).geometric(0.12, 2000) + 3)
    data = make_interactions(lengths)
    epochs = EpochBatches(data, prefix_rows(data, 20), 256, seed=0)
    cells = pads = 0
    for part in epochs.batches(0):
        cells += part.batch.history_BT.numel()
        pads += int((part.batch.history_BT == PAD_ITEM).sum())
    assert pads / cells < 0.04


def test_no_pair_is_an_error():
    data = make_interactions([1, 1, 3])
    with pytest.raises(DataError, match="no \\(history, next item\\) pair"):
        EpochBatches(data, prefix_rows(data, 5), 4, seed=0)


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(1, 12), st.integers(1, 40), st.booleans(), st.integers(0, 3))
def test_small_integers_give_the_order_that_the_definition_gives(lengths, H, batch_size, windows, epoch):
    """Shuffle, sort stably by length and number of targets, cut evenly: here in 64-bit arithmetic."""
    data = with_distinct_items(lengths)
    rows = window_rows(data, H) if windows else prefix_rows(data, H)
    epochs = EpochBatches(data, rows, batch_size, seed=3)
    order, bounds = epochs.epoch(epoch)
    length, count = rows.length.astype(np.int64), rows.count.astype(np.int64)
    rng = np.random.default_rng([3, epoch])
    shuffled = rng.permutation(len(rows))
    expected = shuffled[np.lexsort((count[shuffled], length[shuffled]))]
    cuts = np.arange(1, epochs.steps_per_epoch) * count.sum() // epochs.steps_per_epoch
    inner = np.searchsorted(np.cumsum(count[expected]), cuts, side="right")
    ends = np.concatenate([[0], inner, [len(rows)]])
    assert np.array_equal(order, expected)
    assert np.array_equal(bounds, np.stack([ends[:-1], ends[1:]], 1)[rng.permutation(epochs.steps_per_epoch)])


def test_rows_of_many_users_take_six_bytes_each(monkeypatch):
    """Built in pieces of users, a row costs a 32-bit begin and a 16-bit length; the number of targets costs nothing."""
    data = make_interactions([2, 0, 9, 31, 1, 14] * 1000)
    whole = prefix_rows(data, 20)
    monkeypatch.setattr("genrec.training.batching.USERS_AT_ONCE", 77)
    rows = prefix_rows(data, 20)
    assert np.array_equal(rows.begin, whole.begin)
    assert np.array_equal(rows.length, whole.length)
    assert len(rows) == data.n_train_prefixes
    assert (rows.begin.itemsize, rows.length.itemsize, rows.count.strides) == (4, 2, (0,))
