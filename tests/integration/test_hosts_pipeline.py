"""The whole chain with the other hosts and the plug-in attached: no stage knows which host it works with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file

from genrec.artifacts import read_manifest
from genrec.bundle import load_bundle
from genrec.config import Settings
from genrec.data.load import load_interactions
from genrec.decoding import generate_ensemble
from genrec.models import Batch
from genrec.recommender import Recommender
from genrec.stages import Pipeline
from genrec.stages.training import HostFactory
from genrec.tokenizer.fit import Tokenizer
from genrec.tokenizer.joint import JointTable
from genrec.tokenizer.spaces import item_space
from tests.serving import raw_data

pytestmark = pytest.mark.integration

TINY: dict[str, Any] = {
    "data": {"reader": "table", "min_user_interactions": 3, "min_item_interactions": 2},
    "encoder": {"text": "tfidf-svd", "dimension": 8},
    "model": {"d_model": 16, "d_ff": 32, "heads": 2, "d_head": 8, "encoder_layers": 1, "decoder_layers": 2},
    "training": {"strategy": "single", "batch_size": 64, "epochs": 2, "tensorboard": False, "validation_users": 50},
    "plugin": {"language": True, "substitution": {"p1": 0.5, "warmup_epochs": 0}, "retrieval": True},
    "baselines": {"sasrec": {"d_model": 16, "layers": 1, "epochs": 3, "negatives": None}},
    "evaluation": {"bootstrap_samples": 50},
    "bundle": {"floor": "none"},
}  # fmt: skip
SMALL_IDS = {"level_sizes": [8, 8], "hidden": [16], "latent": 8, "epochs": 10}
HOSTS = {
    "letter": {"model": {"backbone": "letter"}, "tokenizer": {"kind": "letter", "clusters": 3}},
    "decoder-only": {"model": {"backbone": "decoder-only", "encoder_attention": "causal"}, "tokenizer": {}},
    "mql4grec": {
        "model": {"backbone": "mql4grec"},
        "tokenizer": {"tables": {"taste": {**SMALL_IDS, "level_sizes": [6, 6, 6], "embeddings": "collaborative"}}},
    },
}


@pytest.mark.parametrize("host", HOSTS)
def test_the_chain_runs_with_every_host(host: str, tmp_path: Path):
    own = HOSTS[host]
    tree = {**TINY, "run": {"name": "tiny", "directory": str(tmp_path / "runs")}}
    tree["data"] = {**TINY["data"], "path": str(raw_data(tmp_path))}
    tree["model"], tree["tokenizer"] = {**TINY["model"], **own["model"]}, {**SMALL_IDS, **own["tokenizer"]}
    pipeline = Pipeline(Settings.model_validate(tree))
    bundle = load_bundle(pipeline.ensure("bundle"))
    rows = json.loads((pipeline.ensure("evaluate") / "metrics.json").read_text())
    assert host in {row["model"] for row in rows}
    assert type(bundle.backbone()).__name__.lower() == host.replace("-", "")
    tokenized = pipeline.ensure("tokenize")
    assert ("sasrec" in read_manifest(tokenized).inputs) == (host in ("letter", "mql4grec"))
    assert Tokenizer.load(tokenized).table.n_items == load_interactions(pipeline.ensure("prepare")).n_items


def test_code_embeddings_begin_at_what_each_table_quantized(tmp_path: Path):
    tree = {**TINY, "run": {"name": "tiny", "directory": str(tmp_path / "runs")}, "plugin": {}}
    tree["data"] = {**TINY["data"], "path": str(raw_data(tmp_path))}
    tree["model"] = {**TINY["model"], **HOSTS["mql4grec"]["model"], "code_embeddings": "centroids"}
    tree["tokenizer"] = {**SMALL_IDS, **HOSTS["mql4grec"]["tokenizer"]}
    pipeline = Pipeline(Settings.model_validate(tree))
    tokenized = pipeline.ensure("tokenize")
    host = HostFactory(pipeline.settings, pipeline.ensure("prepare"), tokenized)().model
    weights = host.token_embedding.weight.detach().numpy()
    vectors = load_file(tokenized / "collaborative.safetensors")["vectors"]
    text = load_file(tokenized / "embeddings.safetensors")["embeddings"]
    for table, rows in zip(host.sid_table.members, (text, item_space("collaborative", text, vectors)), strict=True):
        rows, first_N = rows - rows.mean(0), table.tokens_NL[:, 0]
        tokens = np.unique(first_N)
        means = np.stack([rows[first_N == token].mean(0) for token in tokens])
        begun = weights[tokens][:, : min(16, rows.shape[1])]
        alike = np.corrcoef(np.ravel(begun @ begun.T), np.ravel(means @ means.T))[0, 1]
        assert alike > 0.99, table.name


def test_published_codes_of_two_tables_are_bundled_and_recommended_from(tmp_path: Path):
    raw = raw_data(tmp_path)
    names = [line.split(",")[0] for line in (raw / "items.csv").read_text(encoding="utf-8").splitlines()[1:]]
    tables: dict[str, dict[str, Any]] = {}
    for table, shift in (("text", 0), ("image", 7)):
        codes = {name: [f"<a_{(i + shift) % 8}>", f"<b_{(i + shift) // 8}>"] for i, name in enumerate(names)}
        path = tmp_path / f"{table}.json"
        path.write_text(json.dumps(codes), encoding="utf-8")
        tables[table] = {"kind": "published", "published": str(path), "level_sizes": [8, 9], "unique": "reallocate"}
    tree = {**TINY, "run": {"name": "tiny", "directory": str(tmp_path / "runs")}, "plugin": {}}
    tree["data"], tree["model"] = {**TINY["data"], "path": str(raw)}, {**TINY["model"], "backbone": "mql4grec"}
    tree["tokenizer"] = {**tables["text"], "tables": {"image": tables["image"]}}
    bundle = load_bundle(Pipeline(Settings.model_validate(tree)).ensure("bundle"))
    assert str(tmp_path) not in (bundle.path / "settings.yaml").read_text(encoding="utf-8")
    joint = bundle.sid_table
    assert isinstance(joint, JointTable)
    assert [(table.name, table.level_sizes) for table in joint.members] == [("text", (8, 9)), ("image", (8, 9))]
    recommender = Recommender(bundle)
    (answer,) = recommender.recommend(["u3"], 5)
    history = recommender.history_of("u3").astype(np.int64)
    batch, seen = torch.from_numpy(history[None, -20:]), torch.from_numpy(history[None])
    expected = generate_ensemble(recommender.backbone, Batch(batch), 5, beams=20, exclude_BS=seen)
    assert [bundle.catalog.index[entry.item_id] for entry in answer] == expected.items_BK[0].tolist()


def test_items_nobody_consumed_have_no_collaborative_vector(tmp_path: Path):
    from genrec.stages.stage import Context
    from genrec.stages.steps import collaborative_vectors

    tree = {**TINY, "run": {"name": "tiny", "directory": str(tmp_path / "runs")}}
    raw = raw_data(tmp_path)
    with (raw / "interactions.csv").open("a", encoding="utf-8") as log:
        log.writelines(f"u{user},novelty,9000000\n" for user in range(4))  # everybody's last one: the test target
    with (raw / "items.csv").open("a", encoding="utf-8") as items:
        items.write("novelty,Novelty,a new one\n")
    tree["data"] = {**TINY["data"], "path": str(raw)}
    pipeline = Pipeline(Settings.model_validate({**tree, "tokenizer": {**SMALL_IDS, "kind": "letter"}}))
    inputs = {name: pipeline.ensure(name) for name in ("prepare", "sasrec")}
    context = Context(pipeline.settings, tmp_path, tmp_path, inputs, {}, tmp_path)
    vectors = collaborative_vectors(context)
    counts = load_interactions(inputs["prepare"]).train_counts
    assert (counts == 0).sum() == 1
    assert np.array_equal(np.isnan(vectors).any(axis=1), counts == 0)
    without = Context(pipeline.settings, tmp_path, tmp_path, {"prepare": inputs["prepare"]}, {}, tmp_path)
    assert collaborative_vectors(without) is None
