"""The whole chain with its storage on an S3 URI, against a server on the loopback; what one made others read."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from genrec.artifacts import MANIFEST
from genrec.bundle import load_bundle, local_bundle
from genrec.config import Settings
from genrec.errors import ArtifactError
from genrec.recommender import Recommender, RecommendRequest
from genrec.stages import Pipeline, open_stage
from genrec.stages.compare import compare
from tests.object_store import object_store
from tests.serving import MODEL, raw_data

pytestmark = pytest.mark.integration
BUCKET = "shop"
URI = f"s3://{BUCKET}/deep/runs"


@pytest.fixture(scope="module")
def objects():
    """Client of a fresh bucket; processes find the server by the environment, as they would find any other."""
    with object_store(BUCKET) as client:
        yield client


@pytest.fixture(scope="module")
def raw(tmp_path_factory) -> Path:
    return raw_data(tmp_path_factory.mktemp("raw"))


def pipeline(raw: Path, mirror: Path, **training: object) -> Pipeline:
    tree = {
        "run": {"directory": URI, "name": "tiny", "mirror": str(mirror)},
        "data": {"reader": "table", "path": str(raw)},
        "encoder": {"text": "tfidf-svd", "dimension": 8},
        "tokenizer": {"kind": "residual-kmeans", "level_sizes": [8, 8]},
        "model": MODEL,
        "plugin": {"retrieval": True},
        "training": {"strategy": "single", "epochs": 2, "batch_size": 64, "tensorboard": False, **training},
        "baselines": {"sasrec": {"d_model": 16, "epochs": 1, "negatives": None}},
        "evaluation": {"bootstrap_samples": 20},
        "bundle": {"floor": "none"},
    }
    return Pipeline(Settings.model_validate(tree))


def keys(objects) -> list[str]:
    pages = objects.get_paginator("list_objects_v2").paginate(Bucket=BUCKET)
    found = [entry["Key"] for page in pages for entry in page.get("Contents", ())]
    return [key for key in found if not key.endswith("/")]  # pyarrow leaves a mark where the last file of a folder was


def test_all_stages_on_s3(objects, raw, tmp_path, monkeypatch):
    here = pipeline(raw, tmp_path / "a")
    for stage in here.plans:
        here.ensure(stage)
    stored = keys(objects)
    assert not [key for key in stored if "/uploads/" in key], "checkpoints go with the commit of their stage"
    for stage, plan in here.plans.items():
        assert f"deep/runs/artifacts/{stage}/{plan.key}/{MANIFEST}" in stored
    assert {"deep/runs/tiny/run.json", "deep/runs/tiny/report.html", "deep/runs/tiny/metrics.json"} <= set(stored)

    there = pipeline(raw, tmp_path / "b")
    assert all(there.status().values())
    bundle = there.ensure("bundle")
    assert bundle != here.ensure("bundle")
    fetched = sorted(path.name for path in there.store.root.iterdir())
    assert fetched == ["bundle"], "another machine fetches what it reads, and makes nothing"

    rows = compare(URI, ["tiny"], here.settings.evaluation, str(tmp_path / "c"))
    assert {"item-knn", "sasrec", "tiger"} <= {row.model for row in rows}

    monkeypatch.setenv("HOME", str(tmp_path / "home"))  # where replicas have their mirror
    served = local_bundle(f"{URI}/tiny/bundle")
    assert served.is_relative_to(tmp_path / "home")
    request = RecommendRequest("u3", None, 5, ())
    answers = [Recommender.load(path).recommend_batch([request])[0] for path in (served, bundle)]
    assert answers[0] == answers[1]
    assert len(answers[0]) == 5
    version = load_bundle(served).version
    assert version == load_bundle(local_bundle(f"{URI}/artifacts/bundle/{here.plans['bundle'].key}")).version


def test_another_machine_goes_on_from_the_checkpoints_of_one_that_died(objects, raw, tmp_path, monkeypatch):
    """The first dies after an epoch, its disk with it; the checkpoints are on S3, and go once the stage is finished."""
    import genrec.training.loop as loop

    checkpoint, seen = loop._Run._checkpoint, []

    def dies_after_two(run):
        checkpoint(run)
        run.store.wait(copies=True)
        seen.append(run.progress.step)
        if len(seen) == 2:
            raise KeyboardInterrupt

    dying = pipeline(raw, tmp_path / "a", epochs=3)
    dying.ensure("tokenize")
    with monkeypatch.context() as patch:
        patch.setattr(loop._Run, "_checkpoint", dies_after_two)
        with pytest.raises(KeyboardInterrupt):
            dying.ensure("pretrain")
    assert [key for key in keys(objects) if "/uploads/pretrain/" in key]
    next_one = pipeline(raw, tmp_path / "b", epochs=3)
    begun = []
    resume = loop._Run._resume
    monkeypatch.setattr(loop._Run, "_resume", lambda run: (resume(run), begun.append(run.progress.step)))
    next_one.ensure("pretrain")
    assert begun == [seen[1]]
    assert next_one.manifest("pretrain").metrics["steps"] == 3 * seen[0]
    assert not [key for key in keys(objects) if "/uploads/pretrain/" in key]


def test_what_is_not_there_is_told_with_its_uri(objects, tmp_path):
    with pytest.raises(ArtifactError, match=rf"{URI}/nobody/run\.json: no such run"):
        open_stage(URI, "nobody", "bundle", str(tmp_path))
    with pytest.raises(ArtifactError, match="s3://no-such-bucket/"):
        Pipeline(Settings(run={"directory": "s3://no-such-bucket/x", "mirror": str(tmp_path)})).store.place.send(
            Path(__file__), "file"
        )
    assert json.loads(open_stage_record(tmp_path))["name"] == "tiny"


def open_stage_record(tmp_path: Path) -> bytes:
    from genrec.artifacts import store_at

    raw = store_at(URI, str(tmp_path)).record("tiny/run.json")
    assert raw is not None
    return raw
