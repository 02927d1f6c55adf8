"""The command line over a whole tiny pipeline in one process, and several runs in one table."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml

from genrec.cli import main
from genrec.config import EvaluationSettings
from genrec.evaluation.rank import load_frame
from genrec.stages import STAGES, open_stage
from genrec.stages.compare import compare
from tests.serving import raw_data

pytestmark = pytest.mark.integration

ROOT = Path(__file__).parents[2]
COUNTED = ("popularity", "item-knn", "content-knn", "linear", "user-knn", "item-knn+user-knn")
TINY = {
    "data": {"reader": "table", "min_user_interactions": 3, "min_item_interactions": 2},
    "encoder": {"text": "tfidf-svd", "dimension": 8},
    "tokenizer": {"kind": "residual-kmeans", "level_sizes": [8, 8], "latent": 8},
    "model": {"d_model": 16, "d_ff": 32, "heads": 2, "d_head": 8, "encoder_layers": 1, "decoder_layers": 1},
    "training": {"strategy": "single", "batch_size": 128, "epochs": 2, "tensorboard": False, "validation_users": 50},
    "plugin": {"retrieval": True, "gate": {"steps": 20}},
    "baselines": {"sasrec": {"d_model": 16, "layers": 1, "epochs": 1, "negatives": None}},
    "evaluation": {"bootstrap_samples": 50},
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """A directory with the first run in it."""
    folder = tmp_path_factory.mktemp("cli")
    settings = {**TINY, "run": {"name": "first", "directory": str(folder / "runs")}}
    settings["data"] = {**TINY["data"], "path": str(raw_data(folder / "shop"))}
    (folder / "settings.yaml").write_text(yaml.safe_dump(settings))
    # In a process of its own: only there can be seen that no Ray is loaded.
    script = (
        "import sys; from genrec.cli import main; status = main(sys.argv[1:])\n"
        "sys.exit(status or ('Ray was imported' if 'ray' in sys.modules else 0))"
    )
    result = subprocess.run(
        [sys.executable, "-c", script, "run", "--config", str(folder / "settings.yaml")],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert result.returncode == 0, result.stderr
    (folder / "stdout").write_text(result.stdout)
    (folder / "stderr").write_text(result.stderr)
    return folder


def genrec(folder: Path, *arguments: str) -> int:
    return main([*arguments, "--config", str(folder / "settings.yaml")])


def test_run_prints_table_report_and_bundle(folder):
    out = (folder / "stdout").read_text()
    for word in ("popularity", "item-knn", "sasrec", "tiger", "head", "tail", "report.html"):
        assert word in out
    told = (folder / "stderr").read_text()
    assert [line.split()[0] for line in told.splitlines() if "made in" in line] == list(STAGES)
    rows = json.loads((folder / "runs" / "first" / "metrics.json").read_text())
    assert set(rows[0]) == {"model", "dataset", "segment", "metric", "value", "low", "high", "seeds"}
    assert {row["dataset"] for row in rows} == {"shop"}
    assert (folder / "runs" / "first" / "report.html").read_text().lstrip().startswith("<!")


def test_second_run_makes_nothing(folder, capsys):
    before = {p: p.stat().st_mtime_ns for p in (folder / "runs" / "artifacts").glob("*/[!.]*/*")}
    assert genrec(folder, "run") == 0
    captured = capsys.readouterr()
    assert captured.err.count("up to date") == len(STAGES)
    assert "working" not in captured.err
    assert {p: p.stat().st_mtime_ns for p in (folder / "runs" / "artifacts").glob("*/[!.]*/*")} == before


def test_status_tells_what_would_be_made(folder, capsys):
    assert genrec(folder, "status", "--set", "evaluation.cutoffs=[5,10]") == 0
    lines = [line for line in capsys.readouterr().out.splitlines() if "│" in line]
    states = {line.split("│")[1].strip(): line.split("│")[3].strip() for line in lines}
    assert states == {
        **dict.fromkeys(["prepare", "tokenize", "item-knn", "linear", "content-knn"], "up to date"),
        **dict.fromkeys(["sasrec", "pretrain", "finetune"], "up to date"),
        **dict.fromkeys(["evaluate", "bundle"], "to be made"),
    }


def test_the_resolved_settings_of_a_run_are_the_run(folder, capsys):
    assert main(["status", "--config", str(folder / "runs" / "first" / "settings.yaml")]) == 0
    assert "to be made" not in capsys.readouterr().out


def test_recommend_to_a_user_and_for_a_history(folder, capsys):
    assert genrec(folder, "recommend", "--user", "u3", "-k", "4", "--json") == 0
    answer = json.loads(capsys.readouterr().out)
    assert len(answer["items"]) == 4
    assert {len(answer["bundle_version"]), len(answer["sid_version"])} == {16}
    ids = [item["item_id"] for item in answer["items"]]
    assert genrec(folder, "recommend", "--user", "u3", "-k", "4", "--exclude", ids[0], "--json") == 0
    assert ids[0] not in capsys.readouterr().out
    assert genrec(folder, "recommend", "--history", ids[0], ids[1], "-k", "3") == 0
    assert "Part" in capsys.readouterr().out
    published = folder / "runs" / "bundles" / "default"
    assert main(["recommend", "--user", "u3", "-k", "4", "--json", "--bundle", str(published)]) == 0
    assert json.loads(capsys.readouterr().out) == answer


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--user", "nobody"], "user_id: 'nobody' is not among the 240 known users"),
        (["--history", "x"], "history: item 'x' is not in the catalog"),
        (["--user", "u3", "-k", "0"], "k: 0 is out of range; ask for 1 to 60"),
    ],
)
def test_recommend_explains_what_is_wrong(folder, capsys, arguments, message):
    assert genrec(folder, "recommend", *arguments) == 2
    assert message in capsys.readouterr().err


def test_the_bundle_names_no_path_of_this_machine(folder):
    bundle = (folder / "runs" / "first" / "bundle").resolve()
    for path in bundle.rglob("*"):
        if path.is_file():
            assert str(folder).encode() not in path.read_bytes(), path


@pytest.fixture(scope="module")
def seeds(folder) -> Path:
    for seed in ("1", "2"):
        assert genrec(folder, "evaluate", "--set", f"run.seed={seed}", "--set", f"run.name=seed-{seed}") == 0
    change = ["--set", "tokenizer.kind=random", "--set", "tokenizer.seed=5", "--set", "run.name=random"]
    assert genrec(folder, "evaluate", *change) == 0
    return folder


def hit(rows, model):
    return next(row for row in rows if (row.model, row.segment, row.metric) == (model, "all", "hit@10"))


def test_compare_averages_seeds(seeds):
    runs, names = seeds / "runs", ["first", "seed-1", "seed-2"]
    rows = compare(runs, names, EvaluationSettings(bootstrap_samples=50))
    assert {row.model for row in rows} == {*COUNTED, "sasrec", "tiger", "tiger+neighbours"}
    frames = [load_frame(open_stage(runs, name, "evaluate") / "frames" / "tiger.parquet") for name in names]
    row = hit(rows, "tiger")
    assert row.seeds == [0, 1, 2]
    assert row.value == pytest.approx(np.mean([(frame.ranks < 10).mean() for frame in frames]))
    assert row.low <= row.value <= row.high
    assert hit(rows, "popularity").seeds == []


def test_compare_never_mixes_what_was_made_differently(seeds, capsys):
    rows = compare(seeds / "runs", ["first", "seed-1", "random"], EvaluationSettings(bootstrap_samples=50))
    assert {row.model: row.seeds for row in rows} == {
        **{name: [] for name in COUNTED},
        "sasrec": [0, 1],
        "tiger [kind=residual-kmeans, seed=0]": [0, 1],
        "tiger [kind=random, seed=5]": [0],
        "tiger+neighbours [kind=residual-kmeans, seed=0]": [0, 1],
        "tiger+neighbours [kind=random, seed=5]": [0],
    }
    assert genrec(seeds, "compare", "first", "random", "--json") == 0
    assert {row["model"] for row in json.loads(capsys.readouterr().out)} >= {"tiger [kind=random, seed=5]"}
    assert genrec(seeds, "compare", "first", "seed-1", "seed-2") == 0
    assert "tiger" in capsys.readouterr().out


def test_runs_share_what_they_have_in_common(seeds):
    artifacts = seeds / "runs" / "artifacts"
    counts = {stage: len(list((artifacts / stage).glob("[!.]*"))) for stage in STAGES}
    assert counts == {
        **{"prepare": 1, "tokenize": 2, "item-knn": 1, "linear": 1, "content-knn": 2, "sasrec": 3},
        **{"pretrain": 4, "finetune": 4, "evaluate": 4, "bundle": 1},
    }
