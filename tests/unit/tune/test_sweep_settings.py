"""Spaces: what is refused before anything starts, and what a sound one comes to."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genrec.errors import SettingsError
from tests.sweeping import ROOT, SPACE, changed, write_settings
from tune.__main__ import main
from tune.settings import load_sweeps
from tune.sweep import Sweep

P1, P2 = "plugin.substitution.p1", "plugin.substitution.p2"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("sweeps")


def sweep_of(folder, given=(), /, **changes):
    return Sweep("small", write_settings(folder, {"small": changed(**changes)}), given)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"trails": 3}, r"sweeps\.small\.trails: unknown key; did you mean 'trials'\?"),
        (
            {"space": {"plugin.substitution.p3": {"low": 0, "high": 1}}},
            r"space\.plugin\.substitution\.p3: unknown settings",
        ),
        ({"space": {P1: {"low": 0.0, "high": 1.5}}}, rf"space\.{P1}: 1\.5 is refused: .*less than or equal to 1"),
        ({"space": {P1: {"values": [0.1, 1.5]}}}, rf"space\.{P1}: 1\.5 is refused"),
        ({"space": {P1: {"low": 0.5, "high": 0.5}}}, rf"space\.{P1}\.low: the range from 0\.5 to 0\.5 is empty"),
        ({"space": {P1: {"low": 0.5}}}, rf"space\.{P1}\.low: the range from 0\.5 to None is empty"),
        ({"space": {P1: {"values": []}}}, rf"space\.{P1}\.values: \[\] is empty or names one twice"),
        ({"space": {P1: {"low": 0.0, "high": 1.0, "log": True}}}, r"a logarithmic range begins above 0, got 0\.0"),
        ({"space": {P1: {"low": 0.0, "high": 1.0, "values": [0.5]}}}, r"give either values or low and high"),
        ({"space": {P1: {"low": 0, "hihg": 1}}}, rf"space\.{P1}\.hihg: unknown key; did you mean 'high'\?"),
        ({"space": {}}, r"sweeps\.small\.space: .*at least 1"),
        ({"search": "grid"}, r"a grid needs values, got a range"),
        ({"control": {"plugin.substitution.p": 0}}, r"control\.plugin\.substitution\.p: unknown settings key"),
        (
            {"space": {"run.seed": {"values": [1, 2]}}},
            r"space\.run\.seed: trials that differ in run cannot be compared",
        ),
        (
            {"space": {"retrieval.neighbours": {"low": 5, "high": 30}}},
            r"changes nothing of what pretrain makes \(stage: fin",
        ),
        ({"space": {"training.log_every": {"low": 5, "high": 30}}}, r"changes nothing of what pretrain makes"),
        ({"stage": "finetune"}, r"small\.stage: 'finetune' measures the host with its neighbours; set"),
        ({"objective": {"maximise": ["tail/ndcg@7"]}}, r"objective\.maximise\.0: Input should be"),
        ({"overrides": {"training": {"epoch": 3}}}, r"training\.epoch: unknown key; did you mean 'epochs'\?"),
        ({"preset": "none-such"}, r"preset 'none-such' is not in the file"),
    ],
)
def test_bad_spaces_are_refused_by_key_value_and_mend(folder, changes, message):
    with pytest.raises(SettingsError, match=message):
        sweep_of(folder, **changes)


def test_values_that_do_not_go_together_are_refused_in_a_grid(folder):
    space = {"plugin.language": {"values": [True, False]}, P1: {"values": [0.0, 0.5]}}
    with pytest.raises(SettingsError, match=r"plugin\.substitution\.p1: 0\.5 needs the language view"):
        sweep_of(folder, search="grid", space=space, overrides={"plugin": {"substitution": {"p1": 0.0}}})


def test_a_set_of_what_is_swept_is_refused(folder):
    with pytest.raises(SettingsError, match=rf"--set '{P1}=1': the sweep varies {P1} itself"):
        sweep_of(folder, [f"{P1}=1"])


@pytest.mark.parametrize("name", ["report", "list", "a b", ""])
def test_names_that_the_command_line_could_not_tell(folder, name):
    with pytest.raises(SettingsError, match="cannot name a sweep"):
        load_sweeps(write_settings(folder, {name: changed()}))


def test_mistakes_are_one_message_and_exit_code_two(folder, capsys):
    path = write_settings(folder)
    for arguments, told in (
        (["smal"], "sweeps.smal: no such sweep in the settings file; did you mean 'small'?"),
        (["report", "small"], "small: no such sweep was run; `python -m tune small` runs it"),
    ):
        assert main([*arguments, "--config", str(path)]) == 2
        captured = capsys.readouterr()
        assert told in captured.err
        assert "Traceback" not in captured.err


def test_resources_that_no_node_has_are_refused_before_any_work(folder):
    """In a process of its own: a Ray of one CPU is asked for trials of four."""
    path = write_settings(folder / "big", ray={"num_cpus": 1}, training={"cpus_per_worker": 4.0})
    command = [sys.executable, "-m", "tune", "small", "--config", str(path)]
    result = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.returncode == 2
    assert "training.workers: 1 workers of 4 CPU each do not fit the cluster" in result.stderr
    assert not (folder / "big" / "runs" / "artifacts").exists()
    assert not list((folder / "big" / "runs" / "sweeps" / "small" / "trials").iterdir())


def test_trials_are_known_by_the_artifact_that_they_make(folder):
    sweep = sweep_of(folder)
    control, defaults = sweep.references([0])
    assert sweep.point("search", {P1: 0.0}, 0).key == control.key != defaults.key
    assert sweep.point("search", {P1: 0.5}, 0).key == defaults.key != sweep.point("search", {P1: 0.5}, 1).key
    assert control.settings.plugin.substitution.p1 == 0
    assert control.settings.training.checkpoint_every == 1
    assert sweep.shared == ["prepare", "tokenize"]


def test_a_sweep_of_the_retrieval_shares_the_training(folder):
    overrides = {"plugin": {"retrieval": True, "gate": {"steps": 10}}}
    space = {"retrieval.neighbours": {"low": 5, "high": 30}, "retrieval.candidates": {"values": [30, 60]}}
    sweep = sweep_of(folder, stage="finetune", overrides=overrides, space=space, control={"retrieval.neighbours": 7})
    assert sweep.shared == ["prepare", "tokenize", "item-knn", "linear", "sasrec", "content-knn", "pretrain"]


def test_a_grid_has_every_combination_with_every_seed(folder):
    space = {P1: {"values": [0.0, 0.5]}, "plugin.substitution.top_k": {"values": [1, 2, 3]}}
    points = sweep_of(folder, search="grid", space=space, seeds=[3, 4]).grid()
    assert len({point.key for point in points}) == len(points) == 12
    assert [point.seed for point in points] == [3] * 6 + [4] * 6
    assert {(p.settings.plugin.substitution.p1, p.settings.plugin.substitution.top_k) for p in points} == {
        (p1, k) for p1 in (0.0, 0.5) for k in (1, 2, 3)
    }


def test_what_trials_are_compared_by_is_the_identity_of_a_sweep(folder):
    same = sweep_of(folder).identity()
    assert sweep_of(folder, trials=50, concurrency=1, retries=0).identity() == same
    assert sweep_of(folder, ["training.log_every=3"]).identity() == same
    wider = {**SPACE, P1: {"low": 0.0, "high": 0.9}}
    others = [sweep_of(folder, ["training.epochs=5"]), sweep_of(folder, space=wider), sweep_of(folder, seeds=[1])]
    assert same not in {other.identity() for other in others}


def test_every_sweep_of_the_settings_file_that_we_ship_is_sound():
    path = ROOT / "ray_config.yaml"
    sweeps = load_sweeps(path)
    assert {"substitution-rate", "plugin-weights"} <= set(sweeps)
    presets = yaml.safe_load(path.read_text())["presets"]
    for name, definition in sweeps.items():
        data = presets[definition.preset].get("data", {}).get("path")
        if data is not None and not (ROOT / data).exists():
            pytest.skip(f"{data} is not here")
        sweep = Sweep(name, path, [] if data is None else [f"data.path={(ROOT / data).resolve()}"])
        assert sweep.epochs > sweep.base.plugin.substitution.warmup_epochs, "substitution would never begin"
        assert Path(sweep.base.run.directory) / "sweeps" / name == sweep.directory
