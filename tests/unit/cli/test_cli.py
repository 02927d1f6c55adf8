"""The command line without a pipeline: help, settings, status, and how mistakes are told."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from genrec.cli import STAGE_VERBS, main
from genrec.config import RaySettings, load_settings
from genrec.errors import SettingsError
from genrec.stages.ray_session import connect

ROOT = Path(__file__).parents[3]
VERBS = ["config", "status", *STAGE_VERBS, "run", "recommend", "compare", "grid"]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def genrec(*arguments: str) -> subprocess.CompletedProcess[str]:
    """The command in a process of its own, as people run it."""
    command = [sys.executable, "-m", "genrec", *arguments]
    return subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)


@pytest.mark.parametrize("verb", VERBS)
def test_every_verb_explains_itself(verb, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([verb, "--help"])
    assert stopped.value.code == 0
    assert "--set a.b=c" in capsys.readouterr().out


def test_help_config_and_errors_load_no_heavy_library():
    script = (
        "import sys; from genrec.cli import main\n"
        "main(['config', '--config', 'ray_config.yaml']); main(['compare', 'x'])\n"
        "sys.exit(str([m for m in ('torch', 'ray', 'sklearn', 'faiss') if m in sys.modules]))"
    )
    result = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT, check=False)
    assert result.stderr.splitlines()[-1] == "[]"


def test_config_prints_the_resolved_tree(capsys):
    assert main(["config", "--set", "training.epochs=3", "--strategy", "single"]) == 0
    tree = yaml.safe_load(capsys.readouterr().out)
    assert (tree["training"]["epochs"], tree["training"]["strategy"]) == (3, "single")


def test_strategy_single_means_one_worker_whatever_the_preset_says(capsys, tmp_path):
    (tmp_path / "s.yaml").write_text("presets: {big: {training: {workers: 4}}}")
    assert main(["config", "--config", "s.yaml", "--preset", "big", "--strategy", "single"]) == 0
    assert yaml.safe_load(capsys.readouterr().out)["training"]["workers"] == 1


def test_config_of_every_preset_reads_back(capsys, tmp_path):
    path = ROOT / "ray_config.yaml"
    for preset in yaml.safe_load(path.read_text())["presets"]:
        assert main(["config", "--config", str(path), "--preset", preset]) == 0
        (tmp_path / "resolved.yaml").write_text(capsys.readouterr().out)
        assert load_settings(tmp_path / "resolved.yaml") == load_settings(path, preset=preset)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["config", "--set", "training.epoch=3"], "genrec config: training.epoch: unknown key; did you mean 'epochs'?"),
        (["config", "--config", "absent.yaml"], "genrec config: --config absent.yaml: No such file or directory"),
        (["config", "--preset", "huge"], "genrec config: preset 'huge' is not in the file; it has: none"),
        (["grid", "x"], "genrec grid: grid 'x' is not in the file; it has: none"),
        (["grid", "x", "--preset", "demo"], "--preset demo: a grid names its own; change it in grids.NAME.preset"),
        (["compare", "nowhere"], "no such run; `python -m genrec run` makes one"),
        (["recommend", "--user", "1", "--bundle", "nowhere"], "nowhere: no bundle there. Make one"),
        (["prepare", "--set", "data.reader=research", "--set", "data.path=nowhere"], "nowhere"),
        (["prepare", "--set", "run.name=artifacts"], "run.name: 'artifacts' is a folder that genrec uses itself"),
        (["run", "--strategy", "single", "--set", "training.workers=2"], "training.workers: strategy 'single' is one"),
    ],
)
def test_mistakes_are_one_message_and_exit_code_two(arguments, message, capsys):
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert message in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


@pytest.mark.parametrize("address", ["127.0.0.1:1", "ray://127.0.0.1:1", "127.0.0.1:99999999"])
def test_a_cluster_that_does_not_answer_is_told_at_once(address):
    with pytest.raises(SettingsError, match=f"ray.address: no cluster at '{address}' .*null starts one"):
        connect(RaySettings(address=address))


def test_verbose_adds_the_traceback():
    result = genrec("config", "--config", "absent.yaml", "--verbose")
    assert result.returncode == 2
    assert "Traceback" in result.stderr
    assert result.stderr.splitlines()[-1].startswith("genrec config: --config absent.yaml")


@pytest.mark.parametrize(
    "arguments", [[], ["dance"], ["recommend"], ["recommend", "--user", "1", "--history", "2"], ["compare"]]
)
def test_wrong_usage_is_explained(arguments, capsys):
    with pytest.raises(SystemExit) as stopped:
        main(arguments)
    assert stopped.value.code == 2
    assert "usage: genrec" in capsys.readouterr().err
