"""Published codes: the file's form, and making them unique."""

import json

import numpy as np
import pytest

from genrec.config import TokenizerSettings
from genrec.errors import DataError, SettingsError
from genrec.tokenizer.fit import Tokenizer, fit_tokenizer
from genrec.tokenizer.published import read_published


def write(path, codes):
    path.write_text(json.dumps({key: [f"<{'abcd'[i]}_{c}>" for i, c in enumerate(row)] for key, row in codes.items()}))
    return path


def test_keys_are_item_numbers_or_raw_ids(tmp_path):
    path = write(tmp_path / "c.json", {"1": [3, 4], "0": [1, 2]})
    assert read_published(path, 2).tolist() == [[1, 2], [3, 4]]
    assert read_published(path, 2, ["1", "0"]).tolist() == [[3, 4], [1, 2]]
    assert read_published(path, 2, ["1", "2"]).tolist() == [[1, 2], [3, 4]]
    named = write(tmp_path / "n.json", {"x": [0, 0], "y": [1, 1], "z": [2, 2]})
    assert read_published(named, 2, ["z", "x"]).tolist() == [[2, 2], [0, 0]]


def test_numbers_may_follow_from_raw_ids_of_a_filtered_catalog(tmp_path):
    path = write(tmp_path / "c.json", {str(key): [key, key] for key in range(5)})
    assert read_published(path, 2, ["5", "2"], 1).tolist() == [[4, 4], [1, 1]]
    with pytest.raises(DataError, match="no codes of item '5'"):
        read_published(path, 1, ["6"], 1)
    with pytest.raises(DataError, match=r"published_first_id: 1 .* 'x'"):
        read_published(path, 1, ["x"], 1)
    with pytest.raises(DataError, match="published_first_id"):
        read_published(path, 2, ["5", "2"])


@pytest.mark.parametrize(
    ("content", "match"),
    [
        ("[1]", "expected an object"),
        ("{", "not JSON"),
        ('{"0": ["<a_1>"]}', "the catalog 2"),
        ('{"0": ["<a_1>"], "1": ["<b_1>"]}', "item '1'"),
        ('{"0": ["<a_1>"], "1": [7]}', "item '1'"),
        ('{"0": ["<a_1>"], "1": []}', "item '1'"),
        ('{"0": ["<a_1>"], "1": ["<a_1>", "<b_0>"]}', "different numbers"),
        ('{"p": ["<a_1>"], "q": ["<a_1>"]}', "no codes of item"),
    ],
)
def test_malformed_files_are_named(tmp_path, content, match):
    path = tmp_path / "c.json"
    path.write_text(content)
    with pytest.raises(DataError, match=match) as caught:
        read_published(path, 2)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("unique", ["collision-level", "reallocate"])
def test_colliding_codes_become_unique_and_new_items_follow_their_neighbours(tmp_path, unique):
    rng = np.random.default_rng(0)
    centres = 5 * rng.normal(size=(4, 6))
    cluster = np.repeat(np.arange(4), 10)
    embeddings = (centres[cluster] + 0.1 * rng.normal(size=(40, 6))).astype(np.float32)
    codes = np.stack([cluster, rng.integers(0, 3, 40)], axis=1)  # 12 leaves for 40 items
    path = write(tmp_path / "c.json", {str(i): row for i, row in enumerate(codes.tolist())})
    settings = TokenizerSettings(kind="published", level_sizes=(8, 16), published=str(path), unique=unique)
    table, metrics = fit_tokenizer(embeddings, settings, tmp_path / "out")
    assert metrics["collisions"] == 40 - len(np.unique(codes, axis=0))
    assert np.array_equal(table.codes_NL[:, 0], cluster)
    if unique == "collision-level":
        assert np.array_equal(table.codes_NL[:, :2], codes)
    grown = Tokenizer.load(tmp_path / "out").assign((centres[[2, 0]]).astype(np.float32))
    assert grown.codes_NL[40:, 0].tolist() == [2, 0]
    with pytest.raises(SettingsError, match="2 levels"):
        fit_tokenizer(embeddings, settings.model_copy(update={"level_sizes": (8, 16, 4)}), tmp_path / "no")
