"""`python -m genrec grid` over real stages: a tiny data set, three arms, two seeds."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import yaml

from genrec.cli import main
from tests.serving import raw_data

pytestmark = pytest.mark.integration


@pytest.fixture(scope="module")
def config(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("grid")
    tree = {
        "run": {"directory": str(folder / "runs")},
        "data": {"reader": "table", "path": str(raw_data(folder / "raw"))},
        "encoder": {"text": "tfidf-svd", "dimension": 8},
        "tokenizer": {"kind": "residual-kmeans", "level_sizes": [8, 8]},
        "model": {"d_model": 16, "d_ff": 32, "heads": 2, "d_head": 8, "encoder_layers": 1, "decoder_layers": 1},
        "training": {"strategy": "single", "batch_size": 64, "tensorboard": False, "validation_users": 60},
        "baselines": {"sasrec": {"d_model": 16, "layers": 1, "epochs": 2, "negatives": None}},
        "evaluation": {"bootstrap_samples": 50, "exposure": True},
        "grids": {
            "tiny": {
                "overrides": {"training": {"epochs": 6, "patience": 2}},
                "seeds": [0, 1],
                "control": "bare",
                "arms": {
                    "bare": {},
                    "votes": {"overrides": {"plugin": {"retrieval": True}}},
                    "language": {"overrides": {"plugin": {"language": True}}},
                },
            }
        },
    }
    path = folder / "settings.yaml"
    path.write_text(yaml.safe_dump(tree, sort_keys=False))
    return path


def grid(config: Path, *more: str) -> int:
    return main(["grid", "tiny", "--config", str(config), *more])


def test_a_grid_from_dry_run_to_tables(config, capsys):
    assert grid(config, "--dry-run") == 0
    assert (
        "to be made: 1 × prepare, 1 × tokenize, 1 × item-knn, 1 × linear, 2 × sasrec, 1 × content-knn, 4 × pretrain"
        in capsys.readouterr().out
    )
    assert not (config.parent / "runs").exists()

    assert grid(config, "--max-minutes", "0") == 0
    assert "0 of 6 cells are done." in capsys.readouterr().out

    assert grid(config, "--seeds", "0") == 0
    told = capsys.readouterr()
    assert "tiny, cell 3 of 3: language, seed 0" in told.err
    assert "3 of 6 cells are done." in told.out

    assert grid(config) == 0
    assert "tiny, cell 1 of 3: bare, seed 1" in capsys.readouterr().err
    report = json.loads((config.parent / "runs" / "tiny" / "grid.json").read_text())
    assert {cell["state"] for cell in report["cells"]} == {"done"}
    counted = ["popularity", "item-knn", "content-knn", "linear", "user-knn", "item-knn+user-knn"]
    assert report["baselines"] == [*counted, "sasrec"]
    for cell in report["cells"]:
        assert cell["training"]["stopped"] in ("patience", "epochs")
        assert 0 < cell["training"]["best_step"] <= cell["training"]["steps"]
    seeds = {row["model"]: row["seeds"] for row in report["rows"]}
    deterministic = report["baselines"][:-1]
    assert list(seeds) == [*report["baselines"], "bare", "votes", "language"]
    assert all(found == ([] if model in deterministic else [0, 1]) for model, found in seeds.items())
    measured = {(row["model"], row["metric"]): row["value"] for row in report["exposure_rows"]}
    assert {arm for arm, _ in measured} == {"bare", "votes", "language"}
    assert measured["votes", "exposure-gap"] == measured["bare", "exposure-gap"], (
        "votes are mixed in behind the generator"
    )
    assert {d["model"] for d in report["exposure"]} == {"votes", "language"}
    matched = {(entry["arm"], entry["segment"]): entry for entry in report["matched"]}
    assert {arm for arm, _ in matched} == {"votes", "language"}
    for point in matched["votes", "all"]["points"]:
        assert point["value"] == point["reference"], "votes are added after the very training of the bare host"

    # Each arm's row is that of its cells' own runs.
    for arm, model in (("bare", "tiger"), ("votes", "tiger+neighbours"), ("language", "tiger")):
        own = [
            row["value"]
            for seed in (0, 1)
            for row in json.loads((config.parent / "runs" / f"tiny.{arm}.{seed}" / "metrics.json").read_text())
            if (row["model"], row["segment"], row["metric"]) == (model, "all", "ndcg@10")
        ]
        (mean,) = [
            row["value"]
            for row in report["rows"]
            if (row["model"], row["segment"], row["metric"]) == (arm, "all", "ndcg@10")
        ]
        assert mean == pytest.approx(sum(own) / 2)


def test_an_unchanged_grid_makes_nothing(config, capsys):
    artifacts = config.parent / "runs" / "artifacts"
    before = {path: path.stat().st_mtime_ns for path in artifacts.rglob("manifest.json")}
    assert before, "the grid was not run"
    assert grid(config) == 0
    assert "cell" not in capsys.readouterr().err
    assert {path: path.stat().st_mtime_ns for path in artifacts.rglob("manifest.json")} == before


def test_a_grid_without_data_keeps_no_other_from_being_listed(config, capsys):
    tree = yaml.safe_load(config.read_text())
    absent = {**tree["grids"]["tiny"], "overrides": {"data": {"path": str(config.with_name("absent"))}}}
    tree["grids"] = {"absent": absent, **tree["grids"]}
    other = config.with_name("absent.yaml")
    other.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert main(["grid", "all", "--dry-run", "--config", str(other)]) == 2
    told = capsys.readouterr()
    assert "failed, all others done; the same command tries again:\n  grid absent: " in told.err
    assert "tiny.bare.0" in told.out
    assert main(["grid", "absent", "--dry-run", "--config", str(other)]) == 2
    assert "genrec grid: " in capsys.readouterr().err


def test_a_failing_arm_is_told_at_the_end_and_by_the_exit_code(config, capsys):
    tree = yaml.safe_load(config.read_text())
    tree["grids"]["tiny"]["arms"] = {
        "broken": {"overrides": {"tokenizer": {"kind": "published", "published": str(config)}}},
        **tree["grids"]["tiny"]["arms"],
    }
    other = config.with_name("other.yaml")
    other.write_text(yaml.safe_dump(tree, sort_keys=False))
    assert grid(other, "--seeds", "0") == 2
    told = capsys.readouterr()
    assert "failed, all others done; the same command tries again:\n  tiny.broken.0: " in told.err
    report = json.loads((config.parent / "runs" / "tiny" / "grid.json").read_text())
    assert {cell["arm"] for cell in report["cells"] if cell["state"] == "done"} == {"bare", "votes", "language"}
