"""The whole chain with a decoder that attends to retrieved users: every arm, alone and with votes, here and on Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import ray
import torch

from genrec.artifacts import read_manifest
from genrec.bundle import load_bundle
from genrec.config import Settings
from genrec.evaluation.rank import load_frame
from genrec.genplugin.memory import MemoryReader, encoder_parameters
from genrec.recommender import Recommender
from genrec.stages import Pipeline
from genrec.training.curves import read_curves
from tests.serving import raw_data

pytestmark = pytest.mark.integration

TINY: dict[str, Any] = {
    "encoder": {"text": "tfidf-svd", "dimension": 8},
    "tokenizer": {"kind": "residual-kmeans", "level_sizes": [8, 8]},
    "model": {"d_model": 16, "d_ff": 32, "heads": 2, "d_head": 8, "encoder_layers": 1, "decoder_layers": 1},
    "training": {"strategy": "single", "epochs": 3, "batch_size": 64, "tensorboard": False, "validation_users": 50},
    "baselines": {"sasrec": {"d_model": 16, "layers": 1, "epochs": 2, "negatives": None}},
    "evaluation": {"bootstrap_samples": 20, "exposure": True},
    "bundle": {"floor": "none"},
    "ray": {"num_cpus": 2, "object_store_mib": 200},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Runs that share data, codes, host and caches."""
    path = tmp_path_factory.mktemp("memory")
    raw_data(path / "raw")
    return path


def pipeline(folder: Path, name: str, *, retrieval: bool = False, **memory: object) -> Pipeline:
    tree = {**TINY, "run": {"name": name, "directory": str(folder / "runs")}}
    tree["data"] = {"reader": "table", "path": str(folder / "raw")}
    tree["plugin"] = {"retrieval": retrieval, "memory": {"finetune": True, "epochs": 2, "patience": None, **memory}}
    return Pipeline(Settings.model_validate(tree))


@pytest.mark.parametrize(
    ("neighbours", "entry"), [("real", "prepend"), ("real", "gated"), ("shuffled", "prepend"), ("none", "gated")]
)
def test_every_arm_goes_through_the_chain(folder, neighbours, entry):
    """Trained for equal steps, evaluated, bundled; what is recommended is what was evaluated."""
    run = pipeline(folder, f"{neighbours}-{entry}", neighbours=neighbours, entry=entry)
    bundle, evaluated, tuned = run.ensure("bundle"), run.ensure("evaluate"), run.ensure("finetune")
    steps = read_manifest(tuned).metrics["memory"]["steps"]
    assert steps == max(row["step"] for row in read_curves(tuned))
    assert steps == 2 * max(row["step"] for row in read_curves(run.ensure("pretrain"))) / 3, "equal steps in every arm"
    names = {row["model"] for row in json.loads((evaluated / "metrics.json").read_text())}
    assert {"tiger", "tiger+memory"} <= names
    measured = json.loads((evaluated / "exposure.json").read_text())
    assert [entry["model"] for entry in measured] == ["tiger", "tiger+memory"]
    assert "Exposure bias" in (evaluated / "report.html").read_text(encoding="utf-8")
    loaded = load_bundle(bundle)
    assert isinstance(loaded.backbone(), MemoryReader) == (entry == "gated" and neighbours != "none")
    matches_the_frame(bundle, evaluated / "frames" / "tiger+memory.parquet")
    pretrained = load_weights(run.ensure("pretrain"))
    tuned_weights = load_weights(tuned)
    frozen = encoder_parameters(build(run, tuned))
    assert all(torch.equal(pretrained[name], tuned_weights[name]) for name in frozen)
    assert any(not torch.equal(pretrained[name], value) for name, value in tuned_weights.items())


def test_memory_and_votes_together(folder):
    run = pipeline(folder, "both", retrieval=True)
    bundle, evaluated = run.ensure("bundle"), run.ensure("evaluate")
    names = {row["model"] for row in json.loads((evaluated / "metrics.json").read_text())}
    assert {"tiger", "tiger+memory", "tiger+memory+neighbours"} <= names
    matches_the_frame(bundle, evaluated / "frames" / "tiger+memory+neighbours.parquet")
    recommender = Recommender.load(bundle)
    assert recommender.augmented.gate is not None
    assert recommender.augmented.memory is not None


def test_off_leaves_keys_and_rows_as_they_were(folder):
    """Nothing but `finetune` and what reads it depends on the memory; off, there is no row of it."""
    off, on = pipeline(folder, "off", finetune=False), pipeline(folder, "on")
    same = {name for name in off.plans if off.plans[name].key == on.plans[name].key}
    assert same == {"prepare", "tokenize", "item-knn", "linear", "content-knn", "sasrec", "pretrain"}
    names = {row["model"] for row in json.loads((off.ensure("evaluate") / "metrics.json").read_text())}
    assert "tiger+memory" not in names
    assert sorted(path.name for path in off.ensure("finetune").iterdir()) == ["gate.json", "manifest.json"]


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """The stages start Ray themselves; it goes with the module."""
    yield
    ray.shutdown()


def test_on_ray_workers_fine_tune_on_a_cache_of_ray_data(folder, cluster, monkeypatch):
    monkeypatch.setitem(TINY, "training", {**TINY["training"], "strategy": "ddp", "workers": 2})
    run = pipeline(folder, "on-ray")
    tuned = run.ensure("finetune")
    assert read_manifest(tuned).metrics["memory"]["steps"] > 0
    assert (tuned / "user_vectors.safetensors").is_file()
    caches = list((folder / "runs" / "cache" / "neighbours").glob("*/cache.json"))
    assert caches


def matches_the_frame(bundle: Path, frame: Path) -> None:
    """The recommender asks for the test moment what the evaluation asked."""
    recommender, evaluated = Recommender.load(bundle), load_frame(frame)
    data, catalog = recommender.bundle.interactions, recommender.bundle.catalog
    for row in (0, 50, 100):
        user = int(evaluated.users[row])
        known = data.sequence(user)[: data.test_at[user]]
        from genrec.recommender import RecommendRequest

        request = RecommendRequest(data.user_ids[user], tuple(catalog.item_ids[item] for item in known), 10)
        (answer,) = recommender.recommend_batch([request])
        listed = [catalog.index[entry.item_id] for entry in answer]
        np.testing.assert_array_equal(listed, evaluated.lists[row][: len(listed)])
        np.testing.assert_allclose([e.score for e in answer], evaluated.scores[row][: len(listed)], atol=1e-4)


def load_weights(directory: Path) -> dict[str, torch.Tensor]:
    from safetensors.torch import load_file

    return load_file(directory / "weights.safetensors")


def build(run: Pipeline, directory: Path) -> torch.nn.Module:
    from genrec.models import build_backbone
    from genrec.tokenizer.sid_table import SidTable

    return build_backbone(run.settings.model, SidTable.load(run.ensure("tokenize")))
