"""Content item-kNN against its definition, and what it does not need: that anybody took an item."""

from __future__ import annotations

import numpy as np
import pytest

from genrec.config import ContentKNNSettings, RetrievalSettings
from genrec.models.item_knn import ItemKNN
from genrec.retrieval.content_knn import by_content, nearest_items

N, E = 60, 12


@pytest.fixture(scope="module")
def embeddings() -> np.ndarray:
    return np.random.default_rng(0).normal(size=(N, E)).astype(np.float32) * 3  # of any length


def scored(embeddings: np.ndarray, history: list[int], settings: ContentKNNSettings) -> np.ndarray:
    unit = embeddings / np.linalg.norm(embeddings, axis=1, keepdims=True)
    total = np.zeros(N)
    for back, item in enumerate(reversed(history)):
        cosines = unit @ unit[item]
        cosines[item] = -1
        kept = np.argsort(-cosines)[: settings.neighbours]
        weights = np.zeros(N)
        weights[kept] = np.maximum(cosines[kept], 0) ** settings.power
        total += settings.decay**back * weights
    return total


@pytest.mark.parametrize(("neighbours", "power", "decay"), [(5, 1.0, 1.0), (20, 4.0, 0.5), (N, 2.0, 0.7)])
def test_scores_are_their_definition(embeddings, neighbours, power, decay):
    settings = ContentKNNSettings(neighbours=neighbours, power=power, decay=decay)
    found = by_content(nearest_items(embeddings, neighbours, RetrievalSettings()), settings)
    histories = [[3], [7, 1, 7], [50, 2, 9, 30]]
    padded = np.array([history + [-1] * (5 - len(history)) for history in histories])
    expected = [scored(embeddings, history, settings) for history in histories]
    np.testing.assert_allclose(found.score_histories(padded), expected, rtol=1e-4, atol=1e-6)


def test_weights_may_be_tried_without_another_search(embeddings):
    nearest = nearest_items(embeddings, 10, RetrievalSettings())
    before = nearest.data.copy()
    one, other = (by_content(nearest, ContentKNNSettings(power=power)) for power in (1.0, 8.0))
    np.testing.assert_array_equal(nearest.data, before)
    np.testing.assert_allclose(one.weights_NN.data**8, other.weights_NN.data, rtol=1e-5)


def test_an_item_is_no_neighbour_of_itself_and_opposites_are_none(embeddings):
    both = np.concatenate([embeddings, -embeddings])
    nearest = nearest_items(both, 2 * N, RetrievalSettings())
    assert nearest.diagonal().max() == 0
    assert nearest.data.min() > 0
    assert nearest[np.arange(N), np.arange(N, 2 * N)].max() == 0


def test_items_without_a_text_vector_are_reached_from_nowhere(embeddings):
    some = embeddings.copy()
    some[4] = 0
    nearest = nearest_items(some, 10, RetrievalSettings())
    assert nearest[4].nnz == nearest[:, 4].nnz == 0


def test_searching_clusters_finds_nearly_the_same(embeddings):
    exact, clustered = (nearest_items(embeddings, 5, RetrievalSettings(ivf_from=at)) for at in (10**6, 1))
    assert (exact.astype(bool).multiply(clustered.astype(bool))).nnz >= 0.9 * exact.nnz


def test_it_comes_back_from_disk(embeddings, tmp_path):
    made = by_content(nearest_items(embeddings, 5, RetrievalSettings()), ContentKNNSettings())
    made.save(tmp_path / "content.safetensors")
    histories = np.array([[0, 1, -1], [4, 3, 2]])
    found = ItemKNN.load(tmp_path / "content.safetensors").score_histories(histories)
    np.testing.assert_array_equal(found, made.score_histories(histories))
