"""DDP and DeepSpeed on two Ray workers train as one process does; a killed worker costs nothing but time."""

from __future__ import annotations

import json
import os
import signal
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from training_tools import BagFactory

from genrec.config import DeepSpeedSettings, TrainingSettings
from genrec.errors import SettingsError
from genrec.training.checkpoint import restore_weights
from genrec.training.loop import fit
from genrec.training.ray_train import fit_on_ray
from genrec.training.strategies import SingleStrategy

pytestmark = pytest.mark.integration
STEPS = 20


@pytest.fixture(scope="module", autouse=True)
def cluster():
    environment = {"env_vars": {"PYTHONPATH": str(Path(__file__).parents[1]), "OMP_NUM_THREADS": "1"}}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=200_000_000,
        log_to_driver=False,
        runtime_env=environment,
    )
    yield
    ray.shutdown()


def settings_for(strategy, **changes):
    values = {"strategy": strategy, "workers": 1 if strategy == "single" else 2, "batch_size": 16, "epochs": 9}
    limits = {"max_steps": STEPS, "log_every": 1, "tensorboard": False, "learning_rate": 1e-2, "weight_decay": 0.1}
    return TrainingSettings(**{**values, **limits, "clip_norm": 0.5, **changes})


def losses(result):
    return torch.tensor([row["loss"] for row in result.history if "loss" in row])


@pytest.fixture(scope="module")
def single(tmp_path_factory):
    results = {}
    for windows in (False, True):
        directory = tmp_path_factory.mktemp("single")
        task = BagFactory(windows=windows)()
        results[windows] = fit(task, settings_for("single"), 5, directory, SingleStrategy(torch.device("cpu")))
    return results


def test_two_ddp_workers_train_like_one_process(tmp_path, single):
    result = fit_on_ray(BagFactory(windows=True), settings_for("ddp"), 5, tmp_path)
    compare(result, single[True])


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_deepspeed_workers_train_like_one_process(tmp_path, single, stage):
    zero = DeepSpeedSettings(zero_stage=stage, persistence_elements=0)
    settings = settings_for("deepspeed", deepspeed=zero, checkpoint_steps=7)
    result = fit_on_ray(BagFactory(), settings, 5, tmp_path)
    compare(result, single[False])


def test_a_worker_killed_by_sigkill_costs_nothing_but_time(tmp_path, single):
    log = tmp_path / "seen"
    factory = BagFactory(slow=0.05, log=str(log))
    killed = []

    def kill_at_step_11():
        path = Path(f"{log}-1")
        while not killed:
            for line in path.read_text().splitlines() if path.is_file() else []:
                step, pid, *_ = json.loads(line)
                if step == 11:
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    return
            time.sleep(0.01)

    watcher = threading.Thread(target=kill_at_step_11, daemon=True)
    watcher.start()
    settings = settings_for("ddp", checkpoint_steps=4, max_failures=2)
    result = fit_on_ray(factory, settings, 5, tmp_path / "run")
    watcher.join(timeout=10)
    assert len(killed) == 1
    compare(result, single[False])
    rows = {rank: [json.loads(line) for line in Path(f"{log}-{rank}").read_text().splitlines()] for rank in (0, 1)}
    assert len({pid for _, pid, *_ in rows[1]}) == 2
    first, second = (
        [step for step, pid, *_ in rows[1] if (pid == killed[0]) == was_killed] for was_killed in (True, False)
    )
    assert first == list(range(first[-1] + 1))
    assert second == list(range(8, STEPS))  # the last complete checkpoint was that after eight steps
    expected = list(batches_of(BagFactory()()))[:STEPS]
    for step in range(STEPS):
        seen = sorted(
            (user, *targets)
            for rank in (0, 1)
            for user, targets in zip(*[r for r in rows[rank] if r[0] == step][-1][2:], strict=True)
        )
        assert seen == expected[step]


def batches_of(task):
    """(user, target) of every row of each step of the single-process run."""
    for epoch in range(9):
        for part in task.batches(epoch, 0, 1):
            users, targets = part.batch.users_B.tolist(), part.batch.targets_BP.tolist()
            yield sorted((user, *row) for user, row in zip(users, targets, strict=True))


def test_ddp_checkpoints_go_on_with_another_number_of_workers(tmp_path, single):
    half = settings_for("single", max_steps=STEPS, checkpoint_steps=10)
    task = BagFactory()()
    with pytest.raises(InterruptedError):
        fit(task, half, 5, tmp_path, SingleStrategy(torch.device("cpu")), reporter=interrupt)
    result = fit_on_ray(BagFactory(), settings_for("ddp"), 5, tmp_path)
    compare(result, single[False])


def interrupt(metrics):
    raise InterruptedError


def test_a_request_that_can_never_be_met_is_one_clear_line(tmp_path):
    with pytest.raises(
        SettingsError, match=r"training\.workers: 3 workers of 1 CPU each do not fit the cluster"
    ) as error:
        fit_on_ray(BagFactory(), settings_for("ddp", workers=3), 5, tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ray").exists()


def compare(result, reference):
    assert result.steps == STEPS
    assert len(losses(result)) == STEPS
    difference = (losses(result) - losses(reference)).abs().max()
    assert difference < 1e-4, difference
    assert losses(reference)[-1] < losses(reference)[0] - 0.1
    assert result.best_metric == pytest.approx(reference.best_metric, abs=2e-3)
    model = BagFactory()().model
    restore_weights(model, result.weights)
    theirs = BagFactory()().model
    restore_weights(theirs, reference.weights)
    if result.best_step == reference.best_step:
        for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours, other, atol=1e-3, rtol=1e-2)
