"""A host of several tables in the one train loop: a further task a step, with or without the plug-in; exact resume."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from training_tools import make_interactions

from genrec.config import (
    EvaluationSettings,
    ModelSettings,
    PluginSettings,
    SubstitutionSettings,
    TaskMixSettings,
    TrainingSettings,
)
from genrec.data.interactions import Interactions
from genrec.decoding import generate, generate_ensemble
from genrec.genplugin.plugin import GenPlugin
from genrec.models import Batch, build_backbone
from genrec.tokenizer.joint import JointTable
from genrec.tokenizer.sid_table import SidTable
from genrec.training.loop import fit
from genrec.training.next_item import HostTask
from genrec.training.plugin_task import PluginTask
from genrec.training.strategies import SingleStrategy

N_ITEMS = 30
EVALUATION = EvaluationSettings(beams=10, cutoffs=(5, 10), batch_size=16)
PLUGIN = PluginSettings(language=True, substitution=SubstitutionSettings(p1=0.5, warmup_epochs=0))


class KilledError(Exception):
    """Stands for the death of the process."""


def walks() -> Interactions:
    """Every user walks the catalog in one order."""
    data = make_interactions(list(np.random.default_rng(0).integers(5, 20, 40)), N_ITEMS)
    for user in range(data.n_users):
        begin, end = data.offsets[user], data.offsets[user + 1]
        data.items[begin:end] = (7 * user + np.arange(end - begin)) % N_ITEMS
    return data


def joint() -> JointTable:
    items = np.arange(N_ITEMS)
    first = SidTable(np.stack([items // 6, items % 6], axis=1).astype(np.int32), (5, 6))
    return JointTable.of(
        first, [SidTable(np.stack([items % 5, items // 5], axis=1).astype(np.int32), (5, 6), name="image")]
    )


def settings(**changes) -> TrainingSettings:
    values = {"strategy": "single", "batch_size": 64, "epochs": 3, "patience": None, "tensorboard": False}
    return TrainingSettings(**{**values, "learning_rate": 5e-3, "log_every": 1, "checkpoint_steps": 2, **changes})


def task(
    training: TrainingSettings, *, plugged: bool = False, attention: str = "causal", dropout: float = 0.1, **tasks
) -> HostTask:
    torch.manual_seed(0)
    shape = ModelSettings(
        backbone="mql4grec", d_model=32, d_ff=64, heads=2, d_head=16, encoder_layers=1, decoder_layers=1,
        encoder_attention=attention, dropout=dropout, tasks=TaskMixSettings(**tasks),
    )  # fmt: skip
    host, causal = build_backbone(shape, joint()), attention == "causal"
    if not plugged:
        return HostTask(host, walks(), training, EVALUATION, 1, 8, causal=causal)
    embeddings = torch.randn(N_ITEMS, 6, generator=torch.Generator().manual_seed(1))
    plugin = GenPlugin(host, shape, PLUGIN, embeddings)
    return PluginTask(plugin, PLUGIN, walks(), training, EVALUATION, 1, 8, causal=causal)


def train(directory, training: TrainingSettings, made: HostTask, reporter=None):
    return fit(made, training, 1, directory, SingleStrategy(torch.device("cpu")), reporter=reporter)


@pytest.mark.parametrize("plugged", [False, True], ids=["bare", "plugin"])
def test_an_interrupted_run_ends_bit_for_bit_like_an_uninterrupted_one(tmp_path, plugged):
    training = settings()
    whole = train(tmp_path / "whole", training, task(training, plugged=plugged))
    reports = 0

    def kill(_metrics: dict[str, float]) -> None:
        nonlocal reports
        reports += 1
        if reports == 2:
            raise KilledError

    with pytest.raises(KilledError):
        train(tmp_path / "cut", training, task(training, plugged=plugged), kill)
    resumed = train(tmp_path / "cut", training, task(training, plugged=plugged))
    assert resumed.best_metric == whole.best_metric
    losses = [[row.get("side-task") for row in result.history] for result in (whole, resumed)]
    assert losses[0] == losses[1]
    assert any(losses[0])
    ours, theirs = (load_file(result.weights) for result in (resumed, whole))
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)


@pytest.mark.parametrize("plugged", [False, True], ids=["bare", "plugin"])
def test_the_further_task_is_added_by_its_weight(plugged):
    training, parts = settings(), {}
    for weight in (0.0, 0.5):
        made = task(training, plugged=plugged, weight=weight)
        made.model.train()
        batch = next(iter(made.batches(0, 0, 1))).batch
        torch.manual_seed(4)
        parts[weight] = made.loss(batch, 0)
    assert "side-task" not in parts[0.0]
    torch.testing.assert_close(parts[0.5]["loss"], parts[0.0]["loss"] + 0.5 * parts[0.5]["side-task"])


@pytest.mark.parametrize("plugged", [False, True], ids=["bare", "plugin"])
def test_validation_recommends_by_the_ensemble(plugged):
    made = task(settings(), plugged=plugged)
    made.model.eval()
    host = made.model.host if plugged else made.model
    batch, nothing = Batch(torch.tensor([[1, 2, 3], [4, 5, 6]])), torch.empty(2, 0, dtype=torch.int64)
    expected = generate_ensemble(host, batch, 10, beams=10, exclude_BS=nothing).items_BK
    assert torch.equal(made.recommend(batch, nothing), expected)


def test_every_table_learns_the_order_of_the_catalog(tmp_path):
    training = settings(epochs=14, batch_size=32, checkpoint_steps=None, validate_every=14)
    made = task(training, attention="bidirectional", dropout=0.0, next=1, cross=0, fused=0, translate=0)
    train(tmp_path, training, made)
    host = made.model.eval()
    first_B1 = torch.arange(N_ITEMS)[:, None]
    history_BT, after_B = (first_B1 + torch.arange(5)) % N_ITEMS, (first_B1[:, 0] + 5) % N_ITEMS
    for one, call in (*((member, generate) for member in host.members()), (host, generate_ensemble)):
        found_B = call(one, Batch(history_BT), 1, beams=10).items_BK[:, 0]
        assert (found_B == after_B).float().mean() > 0.6, "by chance it would be 1 / 30"
