"""The linear item-item model against least squares by numpy, and what it keeps."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from benchmarks.shapes import interactions_of
from genrec.config import LinearSettings
from genrec.data.interactions import Interactions
from genrec.errors import DataError
from genrec.models.item_knn import ItemKNN
from genrec.models.linear import NormalEquations, linear_fit, normal_equations, solve

N, T = 12, 5
ALL = {"neighbours": N, "most_items": N}


@pytest.fixture(scope="module")
def data() -> Interactions:
    """Users of 3 to 12 items; item 11 stands in no training part."""
    rng = np.random.default_rng(3)
    sequences = [rng.integers(0, N - 1, rng.integers(3, 13)) for _ in range(40)]
    sequences[0][-1] = N - 1
    return interactions_of(sequences, N)


def pairs_of(data: Interactions, window: int, decay: float) -> tuple[np.ndarray, np.ndarray]:
    """Inputs and outputs by their definition, a prefix at a time."""
    before, after = [], []
    for user in range(data.n_users):
        sequence = data.train_sequence(user)
        for at in range(1, len(sequence)):
            x, y = np.zeros(N), np.zeros(N)
            for back, item in enumerate(reversed(sequence[max(0, at - T) : at])):
                x[item] += decay**back
            for place, item in enumerate(sequence[at : at + window]):
                y[item] += 1 / (place + 1)
            before.append(x)
            after.append(y)
    return np.array(before), np.array(after)


@pytest.mark.parametrize(
    ("window", "decay", "ridge", "power"), [(1, 1.0, 0.5, 0.0), (3, 0.7, 5.0, 0.5), (20, 0.8, 50.0, 0.25)]
)
def test_weights_are_those_of_least_squares_with_a_penalty(data, window, decay, ridge, power):
    x, y = pairs_of(data, window, decay)
    padded = np.concatenate([x, np.sqrt(ridge) * np.eye(N)]), np.concatenate([y, np.zeros((N, N))])
    expected = np.linalg.lstsq(*padded, rcond=None)[0] / np.maximum(y.sum(axis=0), 1) ** power
    settings = LinearSettings(window=window, history_decay=decay, ridge=ridge, popularity_power=power, decay=0.9, **ALL)
    found = linear_fit(data, T)(settings)
    np.testing.assert_allclose(found.weights_NN.toarray(), np.maximum(expected, 0), rtol=1e-3, atol=1e-6)
    history = np.array([[4, 2, 4, -1]])
    scores = sum(0.9**back * np.maximum(expected[item], 0) for back, item in enumerate([4, 2, 4]))
    np.testing.assert_allclose(found.score_histories(history)[0], scores, rtol=1e-3, atol=1e-6)


def test_what_a_third_item_explains_gets_less_than_by_counting():
    """0 is followed by 1, and 1 by 2; 0 and 2 are together only through 1."""
    sequences = [[0, 1, 2, 3, 3], [1, 2, 3, 3], [0, 1, 3, 3]] * 30
    data = interactions_of(sequences, 4)
    settings = LinearSettings(window=1, history_decay=1.0, ridge=1.0, popularity_power=0, neighbours=4)
    weights = linear_fit(data, T)(settings).weights_NN.toarray()
    assert weights[1, 2] > 0.8  # nearly all that follows 0, 1 or 1
    assert weights[0, 2] < 0.1  # though 2 is taken after 0 as often as not


def test_rare_items_are_silent_and_keep_their_places_in_time(data):
    counts = data.train_counts
    chosen = np.sort(np.argsort(-counts, kind="stable")[:5])
    x, y = pairs_of(data, 3, 0.7)
    expected = np.linalg.solve(
        x[:, chosen].T @ x[:, chosen] + 5 * np.eye(5), x[:, chosen].T @ y[:, chosen]
    )  # the prefixes of all
    settings = LinearSettings(
        window=3, history_decay=0.7, ridge=5.0, popularity_power=0, most_items=5, neighbours=N, decay=1.0
    )
    weights = linear_fit(data, T)(settings).weights_NN.toarray()
    np.testing.assert_allclose(weights[np.ix_(chosen, chosen)], np.maximum(expected, 0), rtol=1e-3, atol=1e-6)
    assert weights.sum() == pytest.approx(weights[np.ix_(chosen, chosen)].sum())


def test_an_item_of_no_training_part_is_in_no_weight(data):
    assert data.train_counts[N - 1] == 0
    weights = linear_fit(data, T)(LinearSettings(**ALL)).weights_NN.toarray()
    assert weights[N - 1].sum() == weights[:, N - 1].sum() == 0


@pytest.mark.parametrize("sequences", [[[0, 1]], [[0, 1, 2]], [[0, 1, 2], [3, 4, 5, 6]]])
def test_hardly_any_training_interactions_are_no_error(sequences):
    data = interactions_of(sequences, 7)
    weights = linear_fit(data, T)(LinearSettings()).weights_NN
    pairs = sum(max(len(sequence) - 3, 0) for sequence in sequences)
    assert weights.nnz == pairs  # 3 is followed by 4 in training, and nothing else by anything


def test_the_largest_weights_are_kept(data):
    fit = linear_fit(data, T)
    all_of, three = (fit(LinearSettings(ridge=1.0, neighbours=kept)).weights_NN.toarray() for kept in (N, 3))
    for full, cut in zip(all_of, three, strict=True):
        assert (cut > 0).sum() == min(3, (full > 0).sum())
        np.testing.assert_array_equal(np.sort(cut)[-3:], np.sort(full)[-3:])


def test_settings_tried_one_after_the_other_are_those_fitted_alone(data):
    """The solution kept between trials is that of the settings asked for."""
    fit = linear_fit(data, T)
    tried = [LinearSettings(ridge=ridge, decay=decay, window=window, **ALL) for ridge, decay, window in
             [(1, 0.5, 3), (1, 0.9, 3), (30, 0.9, 3), (30, 0.9, 7), (1, 0.5, 3)]]  # fmt: skip
    for settings in tried:
        apart, found = linear_fit(data, T)(settings), fit(settings)
        np.testing.assert_array_equal(found.weights_NN.toarray(), apart.weights_NN.toarray())
        assert found.decay == settings.decay


def test_it_comes_back_from_disk(data, tmp_path):
    made = linear_fit(data, T)(LinearSettings(**ALL))
    made.save(tmp_path / "linear.safetensors")
    histories = np.array([[0, 1, -1], [4, 3, 2]])
    found = ItemKNN.load(tmp_path / "linear.safetensors").score_histories(histories)
    np.testing.assert_array_equal(found, made.score_histories(histories))


def test_a_ridge_that_does_not_hold_is_named():
    twins = torch.ones(2, 2)  # two items that are always together
    with pytest.raises(DataError, match=r"baselines\.linear\.ridge: 1e-30 .* is too small"):
        solve(NormalEquations(torch.arange(2), twins, twins, torch.ones(2)), 1e-30)


def test_what_float32_cannot_tell_from_singular_is_solved_in_float64():
    gram, cross = torch.full((2, 2), 2.0**26), torch.eye(2)
    found = solve(NormalEquations(torch.arange(2), gram, cross, torch.ones(2)), 0.5)
    exact = np.linalg.solve(gram.double().numpy() + 0.5 * np.eye(2), cross.numpy())
    np.testing.assert_allclose(found.numpy(), exact, rtol=1e-6)


def test_blocks_of_users_change_nothing(data, monkeypatch):
    whole = normal_equations(data, np.ones(N, bool), T, window=3, decay=0.7)
    for at_once in (1, 7, 40):
        monkeypatch.setattr("genrec.models.linear.POSITIONS_AT_ONCE", at_once)
        parts = normal_equations(data, np.ones(N, bool), T, window=3, decay=0.7)
        for part, all_of in zip(vars(parts).values(), vars(whole).values(), strict=True):
            torch.testing.assert_close(part, all_of)
