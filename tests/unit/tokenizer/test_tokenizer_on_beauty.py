"""Amazon Beauty's real titles: used codes, unique IDs, meaning of prefixes, places of new items."""

import json
from pathlib import Path

import numpy as np
import pytest

from genrec.config import EncoderSettings, TokenizerSettings
from genrec.encoders import encode_catalog
from genrec.tokenizer.fit import Tokenizer, fit_tokenizer

BEAUTY = Path(__file__).parents[3] / "../shared/data/amazon-beauty"
pytestmark = pytest.mark.skipif(not BEAUTY.is_dir(), reason="shared/data/amazon-beauty is not beside the checkout")


@pytest.fixture(scope="module")
def embeddings(tmp_path_factory):
    rows = [json.loads(line) for line in (BEAUTY / "items.jsonl").open(encoding="utf-8")]
    texts = [
        f"{row['title'] or ''} {row['brand'] or ''} {' '.join(row['categories'][0]) if row['categories'] else ''}"
        for row in rows
    ]
    return encode_catalog(texts, EncoderSettings(text="tfidf-svd", dimension=64), tmp_path_factory.mktemp("cache"))


@pytest.fixture(scope="module")
def held_out():
    return np.sort(np.random.default_rng(5).choice(12_101, 605, replace=False))


@pytest.mark.parametrize(
    ("kind", "unique"),
    [("residual-kmeans", "collision-level"), ("residual-kmeans", "reallocate"), ("rq-vae", "reallocate")],
)
def test_ids_of_real_titles_mean_something(embeddings, held_out, kind, unique, tmp_path):
    settings = TokenizerSettings(kind=kind, unique=unique, hidden=(64,), epochs=8)
    table, metrics = fit_tokenizer(embeddings, settings, tmp_path, exclude_NM=held_out)
    assert table.n_items == 12_101
    assert min(metrics["perplexity"]) >= 100
    similarity = [entry["similarity"] for entry in metrics["similarity_by_depth"]]
    assert similarity == sorted(similarity)
    assert similarity[1] > similarity[0] + 0.1
    kept = np.setdiff1d(np.arange(12_101), held_out)
    nearest = np.argsort(-(embeddings[held_out] @ embeddings[kept].T), axis=1)[:, :10]
    first = table.codes_NL[:, 0]
    near = (first[kept][nearest] == first[held_out][:, None]).any(axis=1).mean()
    strangers = np.random.default_rng(0).choice(kept, nearest.shape)
    chance = (first[strangers] == first[held_out][:, None]).any(axis=1).mean()
    assert near > 0.7
    assert near > 10 * chance
    grown = Tokenizer.load(tmp_path).assign(embeddings[held_out])
    assert np.array_equal(grown.codes_NL[:12_101], table.codes_NL)


@pytest.mark.parametrize("unique", ["collision-level", "reallocate"])
def test_published_beauty_codes_become_unique(embeddings, unique, tmp_path):
    path = BEAUTY / "semantic_ids" / "tiger.json"
    settings = TokenizerSettings(kind="published", level_sizes=(256,) * 4, published=str(path), unique=unique)
    table, metrics = fit_tokenizer(embeddings, settings, tmp_path)
    assert metrics["collisions"] == 12_101 - 12_087
    if unique == "collision-level":
        assert metrics["moved"] == 0
        assert table.n_levels == 5
    else:
        assert 14 <= metrics["moved"] <= 28
