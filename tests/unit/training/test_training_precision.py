"""bfloat16 training against float32: the same curve within what its 8 bits allow, states in float32 all the same."""

import numpy as np
import torch
from training_tools import make_interactions

from genrec.config import EvaluationSettings, ModelSettings, TrainingSettings
from genrec.models import Tiger
from genrec.tokenizer.sid_table import SidTable
from genrec.training.next_item import HostTask
from genrec.training.strategies import SingleStrategy, autocast_type

CPU = torch.device("cpu")
STEPS = 100


def curve(precision: str) -> tuple[np.ndarray, SingleStrategy]:
    """Losses [STEPS] of a tiny host from the same beginning over the same batches, without dropout."""
    data = make_interactions(list(np.random.default_rng(3).integers(3, 14, 40)))
    rng = np.random.default_rng(0)
    codes = np.unique(rng.integers(0, 8, size=(4 * data.n_items, 3)), axis=0)
    table = SidTable(rng.permutation(codes)[: data.n_items].astype(np.int32), (8, 8, 8))
    torch.manual_seed(0)
    shape = dict(d_model=32, d_ff=48, heads=2, d_head=16, encoder_layers=2, decoder_layers=2, dropout=0.0)
    settings = TrainingSettings(strategy="single", batch_size=32, tensorboard=False, precision=precision)
    task = HostTask(Tiger(ModelSettings(**shape), table), data, settings, EvaluationSettings(), 0, 6)
    strategy = SingleStrategy(CPU)
    strategy.setup(task, settings)
    losses: list[float] = []
    epoch = 0
    while len(losses) < STEPS:
        losses += [float(strategy.train_step(part, 0, 2e-3)["loss"]) for part in task.batches(epoch, 0, 1)]
        epoch += 1
    return np.asarray(losses[:STEPS]), strategy


def test_the_loss_curve_in_bfloat16_is_that_in_float32():
    full, _ = curve("fp32")
    low, strategy = curve("bf16")
    assert full[-10:].mean() < 0.8 * full[:10].mean()  # it learns, or agreement would say nothing
    # A product's rounding is 2^-9 relative; logits are a few units, so a loss of about 2 nats moves by some 0.01 at
    # equal weights. Weights drift apart with the steps, which a bound on single losses leaves room for; the
    # means of ten steps must agree within 2%.
    np.testing.assert_allclose(low, full, rtol=0.08)
    np.testing.assert_allclose(low.reshape(10, -1).mean(1), full.reshape(10, -1).mean(1), rtol=0.02)
    assert not np.array_equal(low, full)
    for parameter, state in strategy.optimizer.state.items():
        assert parameter.dtype == torch.float32
        assert all(value.dtype == torch.float32 for value in state.values())


def test_low_precision_on_a_cpu_is_asked_for_never_guessed():
    assert autocast_type("bf16", CPU) == torch.bfloat16
    assert autocast_type("auto", CPU) is None
    assert autocast_type("fp32", CPU) is None
