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
from deepspeed.utils.zero_to_fp32 import get_fp32_state_dict_from_zero_checkpoint
from safetensors.torch import load_file
from training_tools import BagFactory, TigerFactory

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
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    ray.init(
        address="local",
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
    """The same runs on one process."""
    results = {}
    for factory in (BagFactory(), TigerFactory(), TigerFactory(windows=True)):
        directory = tmp_path_factory.mktemp("single")
        strategy = SingleStrategy(torch.device("cpu"))
        results[factory] = fit(factory(), settings_for("single"), 5, directory, strategy)
    return results


def ray_fit(factory, settings, directory):
    return fit_on_ray(factory, settings, 5, directory, sid_version=factory().sid_version)


def test_two_ddp_workers_train_like_one_process(tmp_path, single):
    factory = TigerFactory(windows=True)
    compare(ray_fit(factory, settings_for("ddp"), tmp_path), single[factory], factory)


@pytest.mark.parametrize("stage", [1, 2, 3])
def test_two_deepspeed_workers_train_like_one_process(tmp_path, single, stage):
    """Losses, exported weights, and how much of the optimizer's states and the parameters a worker holds."""
    zero = DeepSpeedSettings(zero_stage=stage, persistence_elements=0)
    factory = TigerFactory()
    settings = settings_for("deepspeed", deepspeed=zero, checkpoint_steps=10)
    result = ray_fit(factory, settings, tmp_path)
    compare(result, single[factory], factory)
    last = tmp_path / "checkpoints" / f"step-{STEPS:08d}"
    exported = load_file(last / "weights.safetensors")
    model = factory().model
    restore_weights(model, last / "weights.safetensors")
    assert all(torch.equal(value, exported[name]) for name, value in model.state_dict().items())
    whole = get_fp32_state_dict_from_zero_checkpoint(str(last / "resume"), tag="zero")  # DeepSpeed's own reader
    for name, value in model.named_parameters():
        assert torch.equal(whole[f"model.{name}"], value), name
    elements = sum(value.numel() for value in model.parameters())
    padded = 0.05 * elements + 64
    for shard in sorted((last / "resume" / "zero").glob("*zero_pp_rank_?_mp_rank_00_optim_states.pt")):
        held = torch.load(shard, weights_only=False)["optimizer_state_dict"]
        assert elements / 2 - padded <= count_elements(held, "exp_avg") <= elements / 2 + padded, shard.name


def count_elements(tree, key):
    """Elements of all tensors that stand under ``key`` anywhere in nested state."""
    if isinstance(tree, dict):
        own = sum(value.numel() for name, value in tree.items() if name == key and torch.is_tensor(value))
        return own + sum(count_elements(value, key) for value in tree.values())
    return sum(count_elements(value, key) for value in tree) if isinstance(tree, list | tuple) else 0


def test_a_worker_killed_by_sigkill_costs_nothing_but_time(tmp_path, single):
    """ZeRO-3 goes on with its shards; DDP's turn is in test_training_node_loss.py."""
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
    zero = DeepSpeedSettings(zero_stage=3, persistence_elements=0)
    settings = settings_for("deepspeed", deepspeed=zero, checkpoint_steps=4, max_failures=2)
    result = ray_fit(factory, settings, tmp_path / "run")
    watcher.join(timeout=10)
    assert len(killed) == 1
    compare(result, single[BagFactory()], BagFactory())
    rows = {rank: [json.loads(line) for line in Path(f"{log}-{rank}").read_text().splitlines()] for rank in (0, 1)}
    assert len({pid for _, pid, *_ in rows[1]}) == 2
    first, second = (
        [step for step, pid, *_ in rows[1] if (pid == killed[0]) == was_killed] for was_killed in (True, False)
    )
    assert first == list(range(first[-1] + 1))
    assert second[0] in (4, 8)  # after eight steps, or four if that commit was not through yet
    assert second == list(range(second[0], STEPS))
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
    result = ray_fit(BagFactory(), settings_for("ddp"), tmp_path)
    compare(result, single[BagFactory()], BagFactory())
    assert ray_fit(BagFactory(), settings_for("ddp"), tmp_path) == result  # finished: nothing is started


def interrupt(metrics):
    raise InterruptedError


def test_a_request_that_can_never_be_met_is_one_clear_line(tmp_path):
    with pytest.raises(
        SettingsError, match=r"training\.workers: 3 workers of 1 CPU each do not fit the cluster"
    ) as error:
        ray_fit(BagFactory(), settings_for("ddp", workers=3), tmp_path)
    assert "\n" not in str(error.value)
    assert not (tmp_path / "ray").exists()


def test_the_cpus_of_the_jobs_own_process_are_no_workers(tmp_path, monkeypatch):
    """Ray counts them, and would wait for workers that never find room."""
    monkeypatch.setenv("GENREC_JOB_CPUS", "0.5")
    for minimum in (None, 1):
        with pytest.raises(SettingsError, match=r"room for 1 \(1 nodes: 1\.5 CPU, less 0\.5 CPU of this job's own"):
            ray_fit(BagFactory(), settings_for("ddp", workers_min=minimum), tmp_path)


def compare(result, reference, factory):
    assert result.steps == STEPS
    assert len(losses(result)) == STEPS
    difference = (losses(result) - losses(reference)).abs().max()
    assert difference < 1e-4, difference
    assert losses(reference)[-1] < losses(reference)[0] - 0.1
    assert result.best_metric == pytest.approx(reference.best_metric, abs=2e-3)
    model = factory().model
    restore_weights(model, result.weights)
    theirs = factory().model
    restore_weights(theirs, reference.weights)
    if result.best_step == reference.best_step:
        for ours, other in zip(model.parameters(), theirs.parameters(), strict=True):
            torch.testing.assert_close(ours, other, atol=1e-3, rtol=1e-2)
