"""A step in pieces against the same step whole: losses, gradients, weights; alone and under DDP."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import distributed
from training_tools import BagTask, make_interactions

from genrec.config import EvaluationSettings, LossTerm, ModelSettings, TrainingSettings
from genrec.errors import SettingsError
from genrec.models import PAD_ITEM, Batch, Memory, Tiger
from genrec.tokenizer.sid_table import SidTable
from genrec.training.batching import WorkerBatch
from genrec.training.next_item import HostTask
from genrec.training.pieces import in_pieces, piece_size
from genrec.training.strategies import DDPStrategy, SingleStrategy, Strategy
from genrec.training.zero import DeepSpeedStrategy

DATA = make_interactions(list(np.random.default_rng(3).integers(3, 14, 40)))
CPU = torch.device("cpu")
WHOLE = 10**6


def settings(**changes: object) -> TrainingSettings:
    return TrainingSettings(**{"strategy": "single", "batch_size": 64, "tensorboard": False, **changes})


def host_task(causal: bool = False, dropout: float = 0.0) -> HostTask:
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 8, size=(4 * DATA.n_items, 3)), axis=0)
    table = SidTable(rng.permutation(codes)[: DATA.n_items].astype(np.int32), (8, 8, 8))
    torch.manual_seed(0)
    shape = dict(d_model=16, d_ff=24, heads=2, d_head=8, encoder_layers=1, decoder_layers=1, dropout=dropout)
    model = Tiger(ModelSettings(encoder_attention="causal" if causal else "bidirectional", **shape), table)
    return HostTask(model, DATA, settings(), EvaluationSettings(), 0, 6, causal=causal)


def steps(strategy: Strategy, task: HostTask, micro_batch: int | None, count: int = 4) -> list[dict[str, float]]:
    strategy.setup(task, settings(micro_batch=micro_batch))
    parts = [part for _, part in zip(range(count), task.batches(0, 0, 1), strict=False)]
    rows = [strategy.train_step(part, step, 1e-2) for step, part in enumerate(parts)]
    return [{name: float(value) for name, value in row.items()} for row in rows]


@pytest.fixture
def group(tmp_path: Path) -> Iterator[None]:
    distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    yield
    distributed.destroy_process_group()


@pytest.mark.parametrize("causal", [False, True])
@pytest.mark.parametrize("size", [1, 7, 20])
def test_losses_gradients_and_weights_are_those_of_the_whole_step(causal: bool, size: int):
    whole, cut = host_task(causal), host_task(causal)
    expected = steps(SingleStrategy(CPU), whole, WHOLE)
    found = steps(SingleStrategy(CPU), cut, size)
    assert [row.keys() for row in found] == [row.keys() for row in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)
    for mine, theirs in zip(cut.model.parameters(), whole.model.parameters(), strict=True):
        torch.testing.assert_close(mine.grad, theirs.grad, rtol=1e-3, atol=1e-5)


def test_under_ddp_too(group: None):
    expected = steps(SingleStrategy(CPU), host_task(), WHOLE)
    for mine, theirs in zip(steps(DDPStrategy(CPU), host_task(), 9), expected, strict=True):
        assert mine == pytest.approx(theirs, rel=1e-5)


@pytest.mark.parametrize("weighted", [False, True])
def test_pieces_hold_every_row_once_in_like_sizes_with_the_share_of_their_targets(weighted: bool):
    rng = np.random.default_rng(1)
    targets = torch.from_numpy(np.where(rng.random((50, 4)) < 0.6, rng.integers(30, size=(50, 4)), PAD_ITEM))
    batch = Batch(torch.arange(50)[:, None].repeat(1, 5), targets, context={"rating": torch.arange(50)})
    batch.neighbours = [Memory(torch.arange(50.0)[:, None, None], torch.ones(50, 1, dtype=torch.bool), "users")]
    if weighted:
        batch.weight_BP = torch.rand(50, 4)
    pieces = in_pieces(WorkerBatch(batch, 0.7), 16)
    counts = [int((piece.batch.targets_BP != PAD_ITEM).sum()) for piece in pieces]
    assert len(pieces) == -(-sum(counts) // 16)
    assert max(counts) - min(counts) <= 2 * 4
    assert sum(piece.share for piece in pieces) == pytest.approx(0.7)
    for found in (
        [piece.batch.history_BT[:, 0] for piece in pieces],
        [piece.batch.context["rating"] for piece in pieces],
        [piece.batch.neighbours[0].states_BTD[:, 0, 0].long() for piece in pieces],
    ):
        assert torch.equal(torch.cat(found), torch.arange(50))
    if weighted:
        real = batch.targets_BP != PAD_ITEM
        whole = float((batch.weight_BP * real).sum())
        first = pieces[0].batch
        own = float((first.weight_BP * (first.targets_BP != PAD_ITEM)).sum())
        assert pieces[0].share == pytest.approx(0.7 * own / whole)


def test_only_means_over_targets_are_cut_and_only_on_a_cpu_unasked():
    assert piece_size(None, separable=True, device=CPU) == 128
    assert piece_size(None, separable=True, device=torch.device("cuda")) is None
    assert piece_size(30, separable=True, device=torch.device("cuda")) == 30
    assert piece_size(30, separable=False, device=CPU) is None
    task = host_task()
    assert task.separable
    task.terms = (*task.terms, LossTerm(name="item-alignment"))
    assert not task.separable


def test_deepspeed_refuses_a_size():
    with pytest.raises(SettingsError, match=r"training\.micro_batch: 30"):
        DeepSpeedStrategy(CPU).setup(BagTask(DATA), settings(micro_batch=30))
