"""A node of a two-node cluster dies in mid-run and comes back: DDP goes on alone, then with both, and ends the same."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from training_tools import BagFactory

from genrec.config import TrainingSettings
from genrec.training.attempts import read_attempts
from genrec.training.loop import fit
from genrec.training.ray_train import fit_on_ray
from genrec.training.strategies import SingleStrategy

pytestmark = pytest.mark.integration
STEPS, KILL_AT, ALONE_AT, GATE = 40, 11, 14, 24
PATIENCE_S = 240.0
NODE = {"num_cpus": 1, "object_store_memory": 100_000_000}
QUICK = {"health_check_initial_delay_ms": 1000, "health_check_period_ms": 500, "health_check_failure_threshold": 3}
"""How soon a killed node is missed; Ray's own defaults take a quarter of a minute."""


@pytest.fixture
def cluster(monkeypatch):
    monkeypatch.setenv("RAY_TRAIN_WORKER_GROUP_START_TIMEOUT_S", "5")  # what is asked of a node that is gone
    cluster = Cluster(
        initialize_head=True, head_node_args={**NODE, "include_dashboard": False, "_system_config": QUICK}
    )
    second = cluster.add_node(**NODE)
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=environment)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def settings_for(**changes):
    values = {"strategy": "ddp", "workers": 2, "workers_min": 1, "batch_size": 16, "epochs": 40, "max_steps": STEPS}
    rest = {"log_every": 1, "tensorboard": False, "learning_rate": 1e-2, "checkpoint_steps": 4, "max_failures": 2}
    return TrainingSettings(**{**values, **rest, "resize_check_s": 2, **changes})


def test_a_killed_node_is_survived_and_taken_back(cluster, tmp_path):
    cluster, second = cluster
    log, gate, run = tmp_path / "seen", tmp_path / "gate", tmp_path / "run"
    factory = BagFactory(slow=0.05, log=str(log), gate=(GATE, str(gate)))
    with ThreadPoolExecutor(1) as pool:  # nodes are started by the main thread alone
        training = pool.submit(fit_on_ray, factory, settings_for(), 5, run, sid_version="0123456789abcdef")

        def wait_for(true: Callable[[], object]) -> None:
            deadline = time.monotonic() + PATIENCE_S
            while not true():
                assert time.monotonic() < deadline, "it never came"
                assert not training.done(), training.result()
                time.sleep(0.05)

        wait_for(lambda: any(step >= KILL_AT for step, *_ in rows(log, 1)))
        cluster.remove_node(second, allow_graceful=False)
        wait_for(lambda: len(read_attempts(run)) == 2 and rows(log, 0)[-1][0] >= ALONE_AT)
        cluster.add_node(**NODE)
        wait_for(lambda: len(read_attempts(run)) == 3)
        gate.touch()
        result = training.result()
    both, alone, again = read_attempts(run)
    assert [len(attempt.nodes) for attempt in (both, alone, again)] == [2, 1, 2]
    assert len(set(both.nodes) & set(again.nodes)) == 1, "one node stayed, the other is new"
    assert alone.step in {8, 12}, "a checkpoint each four steps, the killed one at or after step 11"
    assert alone.step + alone.lost >= KILL_AT - 1
    assert again.step <= GATE
    single = settings_for(strategy="single", workers=1, workers_min=None)
    reference = fit(BagFactory()(), single, 5, tmp_path / "single", SingleStrategy(torch.device("cpu")))
    ours, theirs = (torch.tensor([row["loss"] for row in one.history if "loss" in row]) for one in (result, reference))
    assert result.steps == reference.steps == STEPS
    assert (ours - theirs).abs().max() < 1e-4
    task = BagFactory()()
    whole = [len(part.batch.users_B) for epoch in range(40) for part in task.batches(epoch, 0, 1)][:STEPS]
    shares = [(step, len(users)) for step, _, users, _ in rows(log, 0)]
    assert (ALONE_AT, whole[ALONE_AT]) in shares, "the survivor works on the whole batch"
    assert shares[0][1] < whole[0]
    assert shares[-1][1] < whole[-1], "and on its part of it at the beginning and at the end"


def rows(log: Path, rank: int) -> list[list]:
    """What a rank's task wrote: step, process, users, targets."""
    path = Path(f"{log}-{rank}")
    lines = path.read_text().splitlines(keepends=True) if path.is_file() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]
