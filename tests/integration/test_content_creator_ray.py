"""The creator's loop under Ray Train: two workers train one network, and its files load like any others."""

from __future__ import annotations

import io
import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import ray
from PIL import Image

from genrec.config import TrainingSettings
from genrec.content.creator.network import NetworkShape
from genrec.content.creator.ray_train import train_on_ray
from genrec.content.creator.run import train_alone
from genrec.content.creator.train import TrainOptions, load_weights
from genrec.errors import SettingsError

pytestmark = pytest.mark.integration
SHAPE = NetworkShape(components=4, width=32, layers=2, heads=2, hidden=32)


@pytest.fixture(scope="module", autouse=True)
def cluster():
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200_000_000, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    rows = []
    for place, (name, colour) in enumerate((("apple", "red"), ("leaf", "green"), ("sea", "blue"), ("sun", "orange"))):
        buffer = io.BytesIO()
        image = Image.new("RGB", (32, 32), "white")
        image.paste(colour, (8, 8, 24 - place, 24))
        image.save(buffer, "PNG")
        rows.append(
            {"concept": str(place), "name": name, "keywords": ["thing"], "category": "Objects", "subcategory": "tool",
             "style": "flat", "split": "train", "colour": colour, "hue": 0.3, "unseen_colours": ["pink"],
             "png": buffer.getvalue()}
        )  # fmt: skip
    path = tmp_path_factory.mktemp("corpus") / "corpus.parquet"
    pq.write_table(pa.Table.from_pylist(rows), path)
    return path.parent


def test_two_workers_train_one_network_that_loads_and_is_credited(corpus, tmp_path):
    options = TrainOptions(steps=50, batch=8, warmup=2, shape=SHAPE)
    out = train_on_ray(corpus, tmp_path / "two", options, 2, TrainingSettings(cpus_per_worker=1))
    _, latents, config = load_weights(out)
    alone = train_alone(corpus, tmp_path / "one", options)
    _, same, _ = load_weights(alone)
    assert config["training"]["step"] == 50
    assert (latents.basis - same.basis).abs().max() < 1e-5
    losses = [json.loads((folder / "log.jsonl").read_text().splitlines()[-1])["loss"] for folder in (out, alone)]
    assert losses[0] == pytest.approx(losses[1], rel=0.25)
    assert "Twemoji" in (out / "ATTRIBUTION.md").read_text()


def test_workers_that_the_cluster_can_never_hold_are_refused(corpus, tmp_path):
    with pytest.raises(SettingsError, match=r"training\.workers: 9 workers"):
        train_on_ray(corpus, tmp_path, TrainOptions(steps=1, shape=SHAPE), 9, TrainingSettings(cpus_per_worker=1))
