"""`python -m genrec content train instructor`, as a process: tiny sizes give calibrated heads that decide."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from genrec.cli import main
from genrec.config import InstructorSettings
from genrec.content.contracts import ACTIONS, Instruction
from genrec.content.instructor import CatalogView, load_instructor
from genrec.content.instructor.heads import Heads

pytestmark = pytest.mark.integration


def _train(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "genrec", "content", "train", "instructor", "--out", str(out), *more]
    return subprocess.run(
        command, check=False, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"}
    )


def test_the_command_trains_heads_that_decide(tmp_path):
    out = tmp_path / "heads"
    ran = _train(out, "--instructions", "150", "--wishes", "150", "--epochs", "1", "--readers", "2", "--seed", "3")
    assert ran.returncode == 0, ran.stderr
    assert "intent_accuracy" in ran.stdout
    told = json.loads((out / "config.json").read_text(encoding="utf-8"))
    assert told["training"]["plan"]["instructions"] == 150
    assert told["training"]["plan"]["seed"] == 3
    heads = Heads.load(out)
    assert heads.config.readers == 2
    for name, value in told["training"]["calibration"].items():
        assert getattr(heads.config, name) == value
    instructor = load_instructor(InstructorSettings(weights=str(out)))
    view = CatalogView.build(["Alien (1979)", "Fargo (1996)"], ["Alien Horror", "Fargo Crime"], instructor.encoder)
    decision = instructor.decide(Instruction("the second one as a woodcut", shown=(0, 1)), view)
    assert decision.action in ACTIONS
    assert sum(decision.probabilities.values()) == pytest.approx(1)


@pytest.mark.parametrize("option", ["--instructions", "--wishes", "--epochs", "--readers"])
def test_sizes_that_cannot_be_trained_are_refused(tmp_path, capsys, option):
    out = tmp_path / "heads"
    assert main(["content", "train", "instructor", "--out", str(out), option, "0"]) == 2
    assert f"{option} 0: give at least" in capsys.readouterr().err
    assert not out.exists()
