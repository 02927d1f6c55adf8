"""The loop on one process: resume bit for bit, early stopping, limits, the schedule, the optimizer's groups."""

import itertools
import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_tools import BagTask, make_interactions

from genrec.config import TrainingSettings
from genrec.errors import ArtifactError, GenrecError, VersionMismatchError
from genrec.training.checkpoint import restore_weights
from genrec.training.loop import fit
from genrec.training.optim import learning_rate, parameter_groups
from genrec.training.strategies import SingleStrategy

DATA = make_interactions(list(np.random.default_rng(3).integers(3, 14, 40)))


def quick(**changes):
    values = {"strategy": "single", "batch_size": 16, "epochs": 3, "log_every": 1, "tensorboard": False}
    return TrainingSettings(**{**values, "learning_rate": 1e-2, **changes})


def train(directory, settings, *, seed=5, task=None, reporter=None):
    task = task or BagTask(DATA, dropout=0.3)
    return fit(task, settings, seed, directory, SingleStrategy(torch.device("cpu")), reporter=reporter), task


class KilledError(Exception):
    pass


def killer(at):
    calls = iter(range(100))

    def report(metrics):
        if next(calls) == at:
            raise KilledError

    return report


def curves(result):
    return [{k: v for k, v in row.items() if k != "seconds"} for row in result.history]


@pytest.mark.parametrize(("checkpoint_steps", "stop_at"), [(None, 0), (None, 1), (3, 0), (3, 4), (3, 6)])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, checkpoint_steps, stop_at):
    settings = quick(checkpoint_steps=checkpoint_steps)
    whole, _ = train(tmp_path / "whole", settings)
    with pytest.raises(KilledError):
        train(tmp_path / "cut", settings, reporter=killer(stop_at))
    resumed, _ = train(tmp_path / "cut", settings)
    assert curves(resumed) == curves(whole)
    assert (resumed.steps, resumed.best_step, resumed.best_metric) == (whole.steps, whole.best_step, whole.best_metric)
    last = f"step-{whole.steps:08d}"
    for name in ("weights.safetensors", "resume/optimizer.safetensors"):
        ours = load_file(tmp_path / "cut" / "checkpoints" / last / name)
        theirs = load_file(tmp_path / "whole" / "checkpoints" / last / name)
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(ours[key], theirs[key]) for key in ours)


def test_rows_written_after_the_checkpoint_are_cut_on_resume(tmp_path):
    settings = quick(checkpoint_steps=3)
    with pytest.raises(KilledError):
        train(tmp_path, settings, reporter=killer(1))
    with (tmp_path / "metrics.jsonl").open("a") as stream:
        stream.write(json.dumps({"step": 7, "loss": 1.0}) + '\n{"step": 8, "lo')
    result, _ = train(tmp_path, settings)
    steps = [row["step"] for row in result.history if "loss" in row]
    assert steps == list(range(1, result.steps + 1))


def test_training_learns_and_the_best_weights_are_kept(tmp_path):
    result, task = train(tmp_path, quick(epochs=12, patience=None))
    losses = [row["loss"] for row in result.history if "loss" in row]
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    best = max(row["validation/ndcg@10"] for row in result.history if "validation/ndcg@10" in row)
    assert result.best_metric == best
    restore_weights(task.model, result.weights)
    task.model.eval()
    with torch.no_grad():
        sums = task.validate(torch.device("cpu"))
    assert sums["ndcg@10"] / sums["users"] == pytest.approx(best, abs=1e-9)
    steps = sorted(path.name for path in (tmp_path / "checkpoints").iterdir())
    assert len(steps) <= 3
    assert result.weights.parent.name in steps


class FallingTask(BagTask):
    """Its validation falls after the second epoch."""

    def __init__(self):
        super().__init__(DATA)
        self.given = iter([0.1, 0.3, 0.2, 0.25, 0.28, 0.9])

    def validate(self, device, rank=0, world=1):
        return {"ndcg@10": next(self.given), "users": 1.0}


def test_early_stopping_counts_validations_without_improvement(tmp_path):
    result, task = train(tmp_path, quick(epochs=50, patience=3), task=FallingTask())
    assert result.stopped == "patience"
    assert result.steps == 5 * task.steps_per_epoch()
    assert (result.best_metric, result.best_step) == (0.3, 2 * task.steps_per_epoch())


def test_limits_stop_the_run_and_still_leave_weights(tmp_path):
    by_steps, _ = train(tmp_path / "steps", quick(max_steps=4))
    assert (by_steps.stopped, by_steps.steps) == ("max_steps", 4)
    by_time, _ = train(tmp_path / "time", quick(max_minutes=1e-9, epochs=500))
    assert (by_time.stopped, by_time.steps) == ("max_minutes", 1)
    assert by_steps.weights.is_file()
    assert by_time.weights.is_file()


def test_a_finished_run_is_not_trained_again(tmp_path):
    first, _ = train(tmp_path, quick())
    again, _ = train(tmp_path, quick())
    assert again == first


def test_divergence_is_an_error_that_names_the_setting(tmp_path):
    task = BagTask(DATA)
    torch.nn.init.constant_(task.model.items.weight, math.nan)
    with pytest.raises(GenrecError, match=r"loss is nan at step 1; lower training\.learning_rate"):
        train(tmp_path, quick(), task=task)


def test_another_catalogs_checkpoint_is_refused(tmp_path):
    train(tmp_path, quick(max_steps=2))
    task = BagTask(DATA)
    task.sid_version = "ffffffffffffffff"
    with pytest.raises(VersionMismatchError, match="0123456789abcdef"):
        train(tmp_path, quick(max_steps=2), task=task)


def test_weights_of_another_shape_are_refused(tmp_path):
    result, _ = train(tmp_path, quick(max_steps=2))
    with pytest.raises(ArtifactError, match="does not fit this model"):
        restore_weights(torch.nn.Linear(2, 2), result.weights)


def test_low_precision_trains(tmp_path):
    result, task = train(tmp_path, quick(precision="bf16", epochs=2))
    assert all(parameter.dtype == torch.float32 for parameter in task.model.parameters())
    assert np.isfinite([row["loss"] for row in result.history if "loss" in row]).all()
    full, _ = train(tmp_path / "full", quick(epochs=2))
    assert full.history[0]["loss"] == pytest.approx(result.history[0]["loss"], rel=0.02)
    assert full.history[0]["loss"] != result.history[0]["loss"]


def test_tensorboard_and_mlflow_hold_the_curve(tmp_path):
    pytest.importorskip("mlflow", reason="the mlflow extra is not installed")
    from mlflow import MlflowClient
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    uri = f"sqlite:///{tmp_path / 'mlflow.db'}"
    settings = quick(tensorboard=True, mlflow_uri=uri, checkpoint_steps=3)
    with pytest.raises(KilledError):
        train(tmp_path / "run", settings, reporter=killer(2))
    result, _ = train(tmp_path / "run", settings)
    losses = {row["step"]: row["loss"] for row in result.history if "loss" in row}
    events = EventAccumulator(str(tmp_path / "run" / "tensorboard"))
    events.Reload()
    assert {e.step: pytest.approx(e.value) for e in events.Scalars("loss")} == losses
    client = MlflowClient(tracking_uri=uri)
    runs = client.search_runs([client.get_experiment_by_name("genrec").experiment_id])
    assert len(runs) == 1
    logged = {metric.step: metric.value for metric in client.get_metric_history(runs[0].info.run_id, "loss")}
    assert logged == losses


def test_learning_rate_rises_and_falls():
    settings = quick(warmup_share=0.1)
    rates = [learning_rate(step, 100, settings) for step in range(101)]
    assert rates[:10] == pytest.approx([1e-3 * (step + 1) for step in range(10)])
    assert max(rates) == pytest.approx(1e-2)
    assert rates[55] == pytest.approx(0.5e-2)
    assert rates[100] == pytest.approx(0.0, abs=1e-12)
    assert all(later <= earlier for earlier, later in itertools.pairwise(rates[10:]))
    constant = quick(warmup_share=0.0, schedule="constant")
    assert {learning_rate(step, 100, constant) for step in range(101)} == {1e-2}


def test_only_matrices_decay():
    groups = parameter_groups(BagTask(DATA).model, 0.5)
    assert [group["weight_decay"] for group in groups] == [0.5, 0.0]
    assert all(p.ndim >= 2 for p in groups[0]["params"])
    assert all(p.ndim < 2 for p in groups[1]["params"])
    assert sum(len(group["params"]) for group in groups) == len(list(BagTask(DATA).model.parameters()))


def test_training_needs_no_ray():
    code = "import sys; import genrec.training.next_item, genrec.training.strategies; assert 'ray' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
