"""Placement: capacities hold, old IDs stay, movers take the nearest free code."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.errors import SettingsError
from genrec.tokenizer.trie import row_keys
from genrec.tokenizer.unique import _Leaves, place, prefix_groups, ranks, with_collision_code


def distance_table(n_items, sizes, seed):
    rng = np.random.default_rng(seed)
    tables = [rng.random((n_items, size)).astype(np.float32) for size in sizes]
    return lambda rows, codes, level: tables[level][rows]


@st.composite
def problems(draw):
    sizes = tuple(draw(st.lists(st.integers(2, 5), min_size=2, max_size=3)))
    capacity = draw(st.integers(1, 3))
    room = int(np.prod(sizes)) * capacity  # up to a full tree, the hardest case
    n_items = draw(st.integers(1, min(room, 30)))
    seed = draw(st.integers(0, 10**6))
    spread = draw(st.sampled_from([1, 2, 5]))
    rng = np.random.default_rng(seed)
    codes = np.stack([rng.integers(0, min(size, spread), n_items) for size in sizes], axis=1).astype(np.int32)
    return codes, sizes, capacity, distance_table(n_items, sizes, seed)


@given(problems())
@settings(max_examples=200, deadline=None)
def test_no_leaf_holds_more_than_its_capacity_and_nobody_moves_without_need(problem):
    codes, sizes, capacity, distances = problem
    placed = place(codes, sizes, capacity, distances)
    crowd = np.unique(placed, axis=0, return_counts=True)[1]
    assert crowd.max() <= capacity
    assert (placed < np.asarray(sizes)).all()
    wanted = prefix_groups(codes, codes.shape[1])
    alone = np.bincount(wanted)[wanted] <= capacity
    assert np.array_equal(placed[alone], codes[alone])
    assert np.array_equal(placed, place(codes, sizes, capacity, distances))


@given(problems())
@settings(max_examples=100, deadline=None)
def test_new_items_leave_old_ones_alone(problem):
    codes, sizes, capacity, distances = problem
    n_old = len(codes) // 2
    if not n_old:
        return
    old = place(codes[:n_old], sizes, capacity, distances)
    both = place(np.concatenate([old, codes[n_old:]]), sizes, capacity, distances, n_old=n_old)
    assert np.array_equal(both[:n_old], old)
    assert np.unique(both, axis=0, return_counts=True)[1].max() <= capacity


@given(st.integers(1, 8), st.integers(0, 10**6))
@settings(max_examples=100, deadline=None)
def test_one_crowded_leaf_is_served_nearest_first(n_items, seed):
    """By hand: in rounds, each code with room takes the nearest of those who ask for it."""
    sizes = (1, 8)
    distances = distance_table(n_items, sizes, seed)
    codes = np.zeros((n_items, 2), dtype=np.int32)
    table = distances(np.arange(n_items), codes, 1)
    expected, waiting, turn = {}, list(range(n_items)), dict.fromkeys(range(n_items), 0)
    order = {i: np.argsort(table[i], kind="stable") for i in range(n_items)}
    if n_items == 1:
        expected, waiting = {0: 0}, []  # alone: it stays where it is
    while waiting:
        asks = {}
        for i in waiting:
            asks.setdefault(int(order[i][turn[i]]), []).append(i)
        for code, askers in asks.items():
            if code not in expected.values():
                winner = min(askers, key=lambda i: (table[i, code], i))
                expected[winner] = code
                waiting.remove(winner)
        for i in waiting:
            turn[i] += 1
    placed = place(codes, sizes, 1, distances)
    assert placed[:, 1].tolist() == [expected[i] for i in range(n_items)]


def test_a_full_node_sends_items_to_the_next_nearest_parent():
    codes = np.zeros((4, 2), dtype=np.int32)
    placed = place(codes, (3, 2), 1, distance_table(4, (3, 2), 0))
    assert len(np.unique(placed, axis=0)) == 4
    assert (placed[:, 0] == 0).sum() == 2


def test_too_small_a_tree_is_a_settings_error():
    with pytest.raises(SettingsError, match=r"tokenizer\.level_sizes"):
        place(np.zeros((5, 2), dtype=np.int32), (2, 2), 1, distance_table(5, (2, 2), 0))


@given(st.lists(st.integers(0, 3), min_size=1, max_size=30), st.integers(0, 29))
@settings(max_examples=100, deadline=None)
def test_collision_codes_count_up_and_go_on_for_new_items(leaves, n_old):
    codes = np.asarray(leaves, dtype=np.int32)[:, None]
    n_old = min(n_old, len(codes))
    old = with_collision_code(codes[:n_old], 0, np.empty(0, np.int64)) if n_old else np.empty((0, 2), np.int32)
    both = with_collision_code(codes, n_old, old[:, -1])
    assert np.array_equal(both[:n_old], old)
    for leaf in set(leaves):
        assert both[codes[:, 0] == leaf, 1].tolist() == list(range(leaves.count(leaf)))
    assert np.array_equal(ranks(codes[:, 0].astype(np.int64)), both[:, 1])


@given(problems(), st.integers(1, 4))
@settings(max_examples=100, deadline=None)
def test_leaves_count_the_items_below_each_prefix(problem, pieces):
    codes, sizes, _, _ = problem
    settled = np.array_split(codes, pieces)
    leaves = _Leaves(settled[0])
    for part in settled[1:]:
        leaves.add(part)
    prefixes = np.unique(codes[:, :-1], axis=0)
    asked = np.column_stack([prefixes, np.full(len(prefixes), sizes[-1] - 1)]).astype(np.int32)
    expected = [
        int((codes == [*prefix, last]).all(axis=1).sum()) for prefix in prefixes.tolist() for last in range(sizes[-1])
    ]
    assert leaves.taken(asked, sizes[-1]).tolist() == expected


@given(st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=3, max_size=3), min_size=1, max_size=20))
def test_keys_sort_as_rows_do(rows):
    codes = np.asarray(rows, dtype=np.int32)
    assert codes[np.argsort(row_keys(codes), kind="stable")].tolist() == sorted(rows)
