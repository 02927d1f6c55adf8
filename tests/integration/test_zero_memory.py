"""What a worker holds falls as ZeRO promises: measured on the tensors of two workers, without Ray."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from training_tools import TigerFactory

from genrec.training.curves import read_curves
from genrec.training.loop import MEMORY_FILE

pytestmark = pytest.mark.integration
TESTS = Path(__file__).parents[1]
STATES = 2
"""Moments of AdamW, each as large as the parameters."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("zero")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (TESTS, TESTS.parent))), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(TESTS / "zero_worker.py")]
    workers = [
        subprocess.Popen(
            [*command, str(rank), "2", str(folder)], env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        )
        for rank in (0, 1)
    ]
    try:
        for worker in workers:
            output, _ = worker.communicate(timeout=800)
            assert worker.returncode == 0, output.decode()[-4000:]
    finally:
        for worker in workers:
            worker.kill()
    return folder


@pytest.mark.parametrize(
    ("name", "parameters", "gradients", "states"),
    [
        ("ddp", 1, (1, 1), 1),
        ("zero-1", 1, (1, 1), 0.5),
        ("zero-2", 1, (0.5, 0.85), 0.5),
        ("zero-3", 0.5, (0.5, 0.85), 0.5),
    ],
)
def test_what_a_worker_holds(runs, name, parameters, gradients, states):
    """As shares of what one process holds; gradients at their most, with the bucket that is on its way."""
    whole = 4 * sum(parameter.numel() for parameter in TigerFactory()().model.parameters())
    workers = json.loads((runs / name / MEMORY_FILE).read_text())
    assert len(workers) == 2
    padding = 0.03 * whole + 256
    for held in workers:
        assert held["parameters"] == pytest.approx(parameters * whole, abs=padding)
        assert held["states"] == pytest.approx(states * STATES * whole, abs=2 * padding)
        assert gradients[0] * whole - padding <= held["gradients"] <= gradients[1] * whole + padding
        # ZeRO updates a float32 copy of a worker's part of the weights; stage 3 keeps one beside its part, too.
        copies = 0.5 * whole if name.startswith("zero-") else 0
        assert held["copies"] == pytest.approx(copies, abs=padding)


def test_all_train_alike(runs):
    curves = [
        [row["loss"] for row in read_curves(runs / name) if "loss" in row] for name in ("ddp", "zero-1", "zero-2")
    ]
    curves.append([row["loss"] for row in read_curves(runs / "zero-3") if "loss" in row])
    for curve in curves[1:]:
        assert curve == pytest.approx(curves[0], abs=1e-4)
