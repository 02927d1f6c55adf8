"""Real data sets prepare to the figures that the literature prints."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest

from genrec.config import DataSettings
from genrec.data.load import load_catalog, load_interactions
from genrec.data.prepare import prepare

SHARED = Path(__file__).parents[3].parent / "shared" / "data"
shared = pytest.mark.skipif(not SHARED.is_dir(), reason="no ../shared/data beside the project")
COUNTS = ("users", "items", "interactions")


def prepared(tmp_path, **settings):
    metrics = prepare(DataSettings(**settings), tmp_path, use_ray=False)
    return metrics, load_interactions(tmp_path), load_catalog(tmp_path)


@shared
def test_beauty(tmp_path):
    metrics, log, catalog = prepared(tmp_path, reader="research", path=str(SHARED / "amazon-beauty"))
    assert [metrics[name] for name in COUNTS] == [22_363, 12_101, 198_502]
    assert metrics["train_prefixes"] == log.n_train_prefixes == 131_413
    assert catalog.item_ids == [str(i + 1) for i in range(12_101)]  # published codes: key = item id - 1 = index
    with (SHARED / "amazon-beauty" / "sequences.txt").open() as stream:
        for user, line in enumerate(stream):
            raw_user, *raw_items = line.split()
            assert log.user_ids[user] == raw_user
            assert (log.sequence(user) + 1).tolist() == [int(item) for item in raw_items]


@shared
def test_beauty_head_users_are_the_published_ones(tmp_path):
    folder = SHARED / "amazon-beauty"
    _, log, _ = prepared(tmp_path, reader="research", path=str(folder), head_rule="literature")
    published = json.loads((folder / "head_tail_users.json").read_text())
    head_target = log.head_items[log.targets("test")]
    assert np.flatnonzero(head_target).tolist() == sorted(published["head_item"])
    assert np.flatnonzero(~head_target).tolist() == sorted(published["tail_item"])


@shared
def test_beauty_dense_slice(tmp_path):
    metrics, log, _ = prepared(
        tmp_path,
        reader="research",
        path=str(SHARED / "amazon-beauty"),
        min_user_interactions=6,
        min_item_interactions=15,
    )
    assert [metrics[name] for name in COUNTS] == [2_225, 678, 34_550]
    assert np.bincount(log.items).min() >= 15
    assert np.diff(log.offsets).min() >= 6


@shared
def test_scientific(tmp_path):
    metrics, _, catalog = prepared(tmp_path, reader="research", path=str(SHARED / "amazon-scientific"))
    assert [metrics[name] for name in COUNTS] == [8_317, 4_344, 58_492]
    assert catalog.item_ids == [str(i) for i in range(4_344)]
    assert metrics["items_without_metadata"] == 0


@pytest.mark.skipif(importlib.util.find_spec("recbole") is None, reason="the recbole wheel is not installed")
@pytest.mark.parametrize(("fewest", "counts"), [(1, [943, 1_682, 100_000]), (5, [943, 1_349, 99_287])])
def test_ml_100k(fewest, counts, tmp_path):
    metrics, log, catalog = prepared(tmp_path, min_user_interactions=fewest, min_item_interactions=fewest)
    assert [metrics[name] for name in COUNTS] == counts
    assert metrics["items_without_metadata"] == 0
    assert catalog.titles[0] == "Toy Story (1995)"
    ends = log.offsets[1:-1]
    assert (np.delete(np.diff(log.times), ends - 1) >= 0).all()
