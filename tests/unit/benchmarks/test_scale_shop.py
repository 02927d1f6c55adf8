"""The synthetic shop: as large as asked for after the 5-core, words and lengths of real titles."""

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq

from benchmarks import scale_data
from benchmarks.scale import GROWING, ORDER
from benchmarks.scale_data import LONGEST, SHORTEST, USERS_AN_ITEM, originals, write_shop
from benchmarks.scale_phases import PHASES
from genrec.config import DataSettings
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare


def prepared(tmp_path, n_items):
    written = write_shop(tmp_path / "raw", n_items)
    out = tmp_path / "prepared"
    out.mkdir()
    metrics = prepare(DataSettings(reader="table", path=str(tmp_path / "raw")), out, use_ray=False)
    return written, metrics, out


def test_every_item_and_user_survives_the_core(tmp_path):
    written, metrics, out = prepared(tmp_path, 700)
    for name in ("items", "users", "interactions"):
        assert metrics[name] == written[name], name
    assert (metrics["items"], metrics["users"]) == (700, 700 * USERS_AN_ITEM)
    assert (metrics["core_rounds"], metrics["repetitions_dropped"], metrics["items_without_metadata"]) == (0, 0, 0)
    data = load_interactions(out)
    lengths = np.diff(data.offsets)
    assert (lengths.min(), lengths.max()) == (SHORTEST, LONGEST)
    counts = np.bincount(data.items, minlength=700)
    assert counts.min() >= 5
    assert counts.max() > 5 * np.median(counts)  # popularity is skewed


def test_titles_have_the_words_and_lengths_of_the_originals(tmp_path):
    _, _, out = prepared(tmp_path, 700)
    real = originals()
    known = {word for title in real.titles for word in title}
    titles = [title.split() for title in load_catalog(out).titles]
    assert {word for title in titles for word in title} <= known
    lengths, real_lengths = [len(title) for title in titles], [len(title) for title in real.titles]
    assert abs(np.mean(lengths) - np.mean(real_lengths)) < 0.15 * np.mean(real_lengths)
    assert len({tuple(title) for title in titles}) > 600


def test_words_are_invented_without_the_data_sets_and_shops_repeat_by_seed(tmp_path, monkeypatch):
    for name in ("BEAUTY", "SCIENTIFIC"):
        monkeypatch.setattr(scale_data, name, Path(tmp_path / "absent"))
    assert write_shop(tmp_path / "a", 50)["words"] == "invented words"
    write_shop(tmp_path / "b", 50)
    write_shop(tmp_path / "c", 50, seed=1)
    for name in ("log.parquet", "items.parquet"):
        a, b, c = (pq.read_table(tmp_path / folder / name) for folder in "abc")
        assert a.equals(b)
        assert not a.equals(c)


def test_the_driver_knows_every_phase():
    assert set(ORDER) == set(PHASES) - {"write"}
    assert set(ORDER) - set(GROWING) == {"train", "minilm"}
