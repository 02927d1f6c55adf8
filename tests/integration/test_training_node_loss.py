"""A node of a two-node cluster dies in mid-run: DDP goes on with what is left and ends the same."""

from __future__ import annotations

import json
import os
import threading
import time
from pathlib import Path

import pytest
import ray
import torch
from ray.cluster_utils import Cluster
from training_tools import BagFactory

from genrec.config import TrainingSettings
from genrec.training.loop import fit
from genrec.training.ray_train import fit_on_ray
from genrec.training.strategies import SingleStrategy

pytestmark = pytest.mark.integration
STEPS = 20


@pytest.fixture
def cluster():
    node = {"num_cpus": 1, "object_store_memory": 100_000_000}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    second = cluster.add_node(**node)
    paths = os.pathsep.join(str(Path(__file__).parents[up]) for up in (1, 2))
    environment = {"env_vars": {"PYTHONPATH": paths, "OMP_NUM_THREADS": "1"}}
    ray.init(address=cluster.address, log_to_driver=False, runtime_env=environment)
    yield cluster, second
    ray.shutdown()
    cluster.shutdown()


def settings_for(**changes):
    values = {"strategy": "ddp", "workers": 2, "workers_min": 1, "batch_size": 16, "epochs": 9, "max_steps": STEPS}
    rest = {"log_every": 1, "tensorboard": False, "learning_rate": 1e-2, "checkpoint_steps": 4, "max_failures": 2}
    return TrainingSettings(**{**values, **rest, **changes})


def test_a_killed_node_is_survived(cluster, tmp_path):
    cluster, second = cluster
    log = tmp_path / "seen"
    done = threading.Event()

    def remove_node_at_step_11():
        path = Path(f"{log}-1")
        while not done.is_set():
            lines = path.read_text().splitlines() if path.is_file() else []
            if any(json.loads(line)[0] >= 11 for line in lines):
                cluster.remove_node(second, allow_graceful=False)
                done.set()
            time.sleep(0.02)

    watcher = threading.Thread(target=remove_node_at_step_11, daemon=True)
    watcher.start()
    result = fit_on_ray(
        BagFactory(slow=0.05, log=str(log)), settings_for(), 5, tmp_path / "run", sid_version="0123456789abcdef"
    )
    assert done.is_set()
    single = settings_for(strategy="single", workers=1, workers_min=None)
    reference = fit(BagFactory()(), single, 5, tmp_path / "single", SingleStrategy(torch.device("cpu")))
    ours, theirs = (torch.tensor([row["loss"] for row in run.history if "loss" in row]) for run in (result, reference))
    assert result.steps == reference.steps == STEPS
    assert (ours - theirs).abs().max() < 1e-4
    rows = [json.loads(line) for line in Path(f"{log}-0").read_text().splitlines()]
    last = {step: len(users) for step, _, users, _ in rows}
    whole = {step: len(users) for step, (users) in enumerate(rows_of_each_step())}
    assert last[STEPS - 1] == whole[STEPS - 1]  # the survivor works on the whole batch now
    assert last[0] < whole[0]  # at first it had half of it


def rows_of_each_step():
    task = BagFactory()()
    return [part.batch.users_B.tolist() for epoch in range(9) for part in task.batches(epoch, 0, 1)][:STEPS]
