"""Quantizers: what they promise about codes, and that equal seeds give equal bits."""

import numpy as np
import pytest
import torch

from genrec.config import TokenizerSettings
from genrec.errors import ArtifactError, DataError, SettingsError
from genrec.tokenizer.fit import Tokenizer, fit_tokenizer, make_quantizer
from genrec.tokenizer.quantizer import CHUNK
from genrec.tokenizer.residual_kmeans import ResidualKMeans, principal_axes
from genrec.tokenizer.rqvae import RQVAE, balanced

KINDS = ("rq-vae", "residual-kmeans", "random")


def small(kind, **changes):
    values = {"kind": kind, "level_sizes": (8, 8, 8), "hidden": (32, 16), "latent": 8, "epochs": 6, "batch_size": 64}
    return TokenizerSettings(**{**values, **changes})


@pytest.fixture(scope="module")
def clustered():
    """400 rows of length 1 around 20 centres, 24 dimensions."""
    rng = np.random.default_rng(3)
    rows = rng.normal(size=(20, 24))[rng.integers(0, 20, 400)] + 0.3 * rng.normal(size=(400, 24))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("unique", ["collision-level", "reallocate"])
def test_equal_seeds_give_equal_bits_and_other_seeds_do_not(kind, unique, clustered, tmp_path):
    first, _ = fit_tokenizer(clustered, small(kind, unique=unique), tmp_path / "a")
    again, _ = fit_tokenizer(clustered, small(kind, unique=unique), tmp_path / "b")
    other, _ = fit_tokenizer(clustered, small(kind, unique=unique, seed=1), tmp_path / "c")
    assert first.version == again.version != other.version
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes()


@pytest.mark.parametrize("kind", KINDS)
def test_a_loaded_quantizer_is_the_saved_one(kind, clustered, tmp_path):
    quantizer = make_quantizer(small(kind))
    quantizer.fit(clustered)
    quantizer.save(tmp_path)
    loaded = type(quantizer).load(tmp_path)
    codes = quantizer.encode(clustered)
    assert np.array_equal(loaded.encode(clustered), codes)
    assert np.array_equal(loaded.decode(codes), quantizer.decode(codes))
    for level in range(3):
        distances = loaded.distances(clustered, codes, level)
        assert np.array_equal(distances.argmin(1), codes[:, level])
    with pytest.raises(ArtifactError, match="quantizer"):
        (ResidualKMeans if kind != "residual-kmeans" else RQVAE).load(tmp_path)


def test_codes_do_not_depend_on_the_chunks(clustered):
    quantizer = make_quantizer(small("residual-kmeans"))
    quantizer.fit(clustered)
    many = np.tile(clustered, (CHUNK // len(clustered) + 2, 1))
    codes = quantizer.encode(many)
    assert np.array_equal(codes[: len(clustered)], quantizer.encode(clustered))
    assert np.array_equal(codes[-len(clustered) :], codes[: len(clustered)])


def test_residual_kmeans_with_one_level_is_kmeans_on_principal_components(clustered):
    from sklearn.decomposition import PCA

    centred = torch.from_numpy(clustered - clustered.mean(0))
    ours = principal_axes(centred, 5).numpy()
    theirs = PCA(5, svd_solver="full").fit(clustered).components_
    assert np.allclose(np.abs((ours * theirs).sum(1)), 1, atol=1e-4)
    quantizer = ResidualKMeans((20,), latent=24)
    quantizer.fit(clustered)
    codes = quantizer.encode(clustered)
    for code in np.unique(codes):  # a centroid is the mean of its items, after the last iteration
        rows = clustered[codes[:, 0] == code]
        assert np.linalg.norm(quantizer.decode(np.array([[code]]))[0] - rows.mean(0)) < 0.1
    error = ((clustered - quantizer.decode(codes)) ** 2).sum() / ((clustered - clustered.mean(0)) ** 2).sum()
    assert error < 0.5


def test_fewer_items_than_codes_still_get_ids(tmp_path, clustered):
    for kind in KINDS:
        table, metrics = fit_tokenizer(clustered[:5], small(kind), tmp_path / kind)
        assert table.n_items == 5
        assert np.isfinite(metrics["reconstruction_error"])


def test_rqvae_learns_more_than_the_mean_and_uses_its_codes(clustered):
    quantizer = RQVAE((16, 16), hidden=(32,), latent=8, epochs=30, batch_size=64)
    log = quantizer.fit(clustered)
    assert log["reconstruction_loss"] < 0.6
    codes = quantizer.encode(clustered)
    assert all(len(np.unique(codes[:, level])) >= 12 for level in range(2))


def test_dead_codes_move_onto_residuals(clustered):
    """One centroid far from everything at the start of an epoch is in use after the next."""
    quantizer = RQVAE((8, 8), hidden=(16,), latent=4, epochs=2, batch_size=400)
    quantizer.fit(clustered)
    quantizer.codebooks = [torch.nn.Parameter(book.clone()) for book in quantizer.codebooks]
    with torch.no_grad():
        quantizer.codebooks[0][3] = 100.0
    optimizer = torch.optim.Adam([*quantizer._weights(), *quantizer.codebooks], lr=1e-4)
    rng = torch.Generator().manual_seed(0)
    assert quantizer._epoch(clustered, optimizer, rng)[-1] >= 1
    assert quantizer.codebooks[0][3].abs().max() < 50
    quantizer.codebooks = [book.detach() for book in quantizer.codebooks]
    assert (quantizer.encode(clustered)[:, 0] == 3).any()


def test_sinkhorn_uses_all_codes_alike():
    distances = torch.rand(256, 8, generator=torch.Generator().manual_seed(0)) + torch.arange(8) / 4
    nearest = torch.bincount(distances.argmin(1), minlength=8)
    even = torch.bincount(balanced(distances).argmax(1), minlength=8)
    assert even.float().std() < nearest.float().std() / 2
    assert torch.allclose(balanced(distances).sum(1), torch.ones(256), atol=1e-5)


def test_held_out_items_do_not_change_the_others(clustered, tmp_path):
    settings = small("residual-kmeans", unique="reallocate")
    held = np.arange(0, 400, 20)
    kept = np.setdiff1d(np.arange(400), held)
    alone, _ = fit_tokenizer(clustered[kept], settings, tmp_path / "a")
    table, metrics = fit_tokenizer(clustered, settings, tmp_path / "b", exclude_NM=held)
    assert np.array_equal(table.codes_NL[kept], alone.codes_NL)
    assert metrics["held_out"] == 20
    mask = np.zeros(400, dtype=bool)
    mask[held] = True
    assert fit_tokenizer(clustered, settings, tmp_path / "c", exclude_NM=mask)[0].version == table.version
    later = Tokenizer.load(tmp_path / "a").assign(clustered[held])
    assert np.array_equal(later.codes_NL[380:], table.codes_NL[held])


@pytest.mark.parametrize("unique", ["collision-level", "reallocate"])
@pytest.mark.parametrize("kind", KINDS)
def test_new_items_extend_the_table_again_and_again(kind, unique, clustered, tmp_path):
    table, _ = fit_tokenizer(clustered[:100], small(kind, unique=unique), tmp_path)
    tokenizer = Tokenizer.load(tmp_path)
    assert tokenizer.table.version == table.version
    grown = tokenizer.assign(clustered[100:200])
    # The very same items once more collide with every old one, and still find room.
    grown = tokenizer.assign(clustered[:100], grown)
    assert grown.n_items == 300
    assert np.array_equal(grown.codes_NL[:100], table.codes_NL)
    assert grown.level_sizes == table.level_sizes
    assert tokenizer.assign(clustered[:0]) is tokenizer.table


def test_mistakes_are_named(clustered, tmp_path):
    broken = clustered.copy()
    broken[7, 3] = np.nan
    with pytest.raises(DataError, match="item 7"):
        fit_tokenizer(broken, small("random"), tmp_path)
    with pytest.raises(DataError, match="no item is left"):
        fit_tokenizer(clustered, small("random"), tmp_path, exclude_NM=np.ones(400, dtype=bool))
    with pytest.raises(SettingsError, match=r"tokenizer\.level_sizes"):
        fit_tokenizer(clustered, small("random", level_sizes=(4, 4), unique="reallocate"), tmp_path)
    with pytest.raises(ArtifactError, match="Run `tokenize`"):
        Tokenizer.load(tmp_path / "nowhere")
    fit_tokenizer(clustered, small("random"), tmp_path / "t")
    fit_tokenizer(clustered, small("random", seed=5), tmp_path / "u")
    (tmp_path / "u" / "sid_text.safetensors").replace(tmp_path / "t" / "sid_text.safetensors")
    with pytest.raises(ArtifactError, match="made with semantic IDs"):
        Tokenizer.load(tmp_path / "t")
