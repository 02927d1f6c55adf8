"""LETTER's tokenizer: the two losses, balanced clusters, and codes that follow the collaborative vectors."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.config import TokenizerSettings
from genrec.errors import DataError
from genrec.tokenizer.fit import Tokenizer, fit_tokenizer, make_quantizer
from genrec.tokenizer.letter import alignment_loss, balanced_clusters, diversity_loss
from genrec.tokenizer.rqvae import RQVAE


def small(**changes):
    values = {"kind": "letter", "level_sizes": (8, 8, 8), "hidden": (32, 16), "latent": 8, "epochs": 20}
    return TokenizerSettings(**{**values, "batch_size": 64, "clusters": 3, **changes})


@pytest.fixture(scope="module")
def world():
    """Texts that tell their topic loudly and their group quietly; collaborative vectors that are the groups."""
    rng = np.random.default_rng(5)
    group, topic = rng.integers(0, 4, 320), rng.integers(0, 6, 320)
    texts = 3 * np.eye(16)[topic] + np.eye(16)[6 + group] + 0.2 * rng.normal(size=(320, 16))
    together = rng.normal(size=(4, 12))[group] * 3 + 0.3 * rng.normal(size=(320, 12))
    return texts.astype(np.float32), together.astype(np.float32), group


def purity(codes_N, group) -> float:
    """Share of items whose group is the commonest of their first code."""
    return sum(np.bincount(group[codes_N == code]).max() for code in np.unique(codes_N)) / len(group)


def test_codes_follow_the_collaborative_vectors(world):
    texts, together, group = world
    found = {}
    for weight in (0.0, 1.0):
        quantizer = make_quantizer(small(alignment=weight, epochs=150, learning_rate=3e-3))
        quantizer.fit(texts, together)
        found[weight] = purity(quantizer.encode(texts)[:, 0], group)
    assert found[1.0] > found[0.0] + 0.05, found


def test_without_its_losses_it_is_the_rqvae(world):
    texts, together, _ = world
    bare = RQVAE((8, 8, 8), hidden=(32, 16), latent=8, epochs=20, batch_size=64)
    bare.fit(texts)
    off = make_quantizer(small(alignment=0.0, diversity=0.0))
    off.fit(texts, together)
    assert np.array_equal(off.encode(texts), bare.encode(texts))
    on = make_quantizer(small(alignment=0.0, diversity=1.0))
    on.fit(texts, together)
    assert not np.allclose(on.codebooks[0], bare.codebooks[0])


def test_items_without_a_collaborative_vector_are_left_out_and_still_get_ids(world, tmp_path):
    texts, together, _ = world
    cold = together.copy()
    cold[::3] = np.nan
    table, metrics = fit_tokenizer(texts, small(), tmp_path, collaborative_NC=cold)
    assert np.isfinite(metrics["reconstruction_loss"])
    assert len(np.unique(table.codes_NL, axis=0)) == len(texts)
    quantized, targets = torch.randn(6, 4), torch.randn(6, 4)
    targets[2] = torch.nan
    rest = [0, 1, 3, 4, 5]
    assert torch.equal(alignment_loss(quantized, targets), alignment_loss(quantized[rest], targets[rest]))
    assert alignment_loss(quantized, torch.full((6, 4), torch.nan)) == 0
    nobody = make_quantizer(small(epochs=5))
    nobody.fit(texts, np.full_like(together, np.nan))
    assert np.isfinite(nobody.decode(nobody.encode(texts))).all()


def test_alignment_is_smallest_for_the_right_pairs():
    targets = torch.eye(5) * 4
    assert alignment_loss(targets, targets) < alignment_loss(targets.flip(0), targets)
    expected = -(targets @ targets.T).log_softmax(dim=1).diagonal().mean()
    torch.testing.assert_close(alignment_loss(targets, targets), expected)


def test_diversity_pulls_a_code_towards_its_cluster_and_away_from_the_others():
    book = torch.tensor([[1.0, 0.0], [0.9, 0.1], [-1.0, 0.0], [-0.9, 0.3]], requires_grad=True)
    rng = torch.Generator().manual_seed(0)
    loss = diversity_loss(book, torch.tensor([0]), torch.tensor([0, 0, 1, 1]), rng)
    similarity = (book[0] @ book.T)[1:]
    torch.testing.assert_close(loss, -similarity.log_softmax(0)[0])
    loss.backward()
    assert book.grad[1, 0] < 0 < book.grad[2, 0]  # a step down brings code 1 nearer and code 2 further away
    alone = diversity_loss(book, torch.tensor([0]), torch.tensor([0, 1, 1, 1]), rng)
    assert alone == 0


@given(n_rows=st.integers(1, 40), count=st.integers(1, 9), seed=st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_clusters_are_of_equal_size(n_rows, count, seed):
    rows = torch.randn(n_rows, 3, generator=torch.Generator().manual_seed(seed))
    clusters = balanced_clusters(rows, count, seed)
    sizes = torch.bincount(clusters, minlength=min(count, n_rows))
    assert sizes.sum() == n_rows
    assert sizes.max() - sizes.min() <= 1


def test_clusters_find_equal_groups():
    rng = torch.Generator().manual_seed(1)
    group = torch.arange(60) % 4
    rows = torch.eye(4)[group] * 10 + torch.randn(60, 4, generator=rng)
    found = balanced_clusters(rows, 4, 0)
    assert all(len(found[group == g].unique()) == 1 for g in range(4))


def test_equal_seeds_give_equal_bits_and_what_is_saved_is_loaded(world, tmp_path):
    texts, together, _ = world
    first, _ = fit_tokenizer(texts[:-5], small(), tmp_path / "a", collaborative_NC=together[:-5])
    again, _ = fit_tokenizer(texts[:-5], small(), tmp_path / "b", collaborative_NC=together[:-5])
    assert first.version == again.version
    loaded = Tokenizer.load(tmp_path / "a")
    assert loaded.quantizer.kind == "letter"
    longer = loaded.assign(texts[-5:])
    assert np.array_equal(longer.codes_NL[:-5], first.codes_NL)


def test_vectors_of_another_catalog_are_refused(world):
    texts, together, _ = world
    with pytest.raises(DataError, match="319 collaborative vectors for 320 items"):
        make_quantizer(small()).fit(texts, together[:-1])
