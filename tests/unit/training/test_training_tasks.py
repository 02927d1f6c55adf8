"""The two real tasks: TIGER as host (prefixes and windows) and SASRec, trained for a few steps."""

import numpy as np
import pytest
import torch
from training_tools import make_interactions

from genrec.config import EvaluationSettings, ModelSettings, SasRecSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.models.sasrec import SasRec
from genrec.models.tiger import Tiger
from genrec.tokenizer.sid_table import SidTable
from genrec.training.loop import fit
from genrec.training.next_item import HostTask, SasRecTask, sasrec_training
from genrec.training.strategies import SingleStrategy
from genrec.training.validation import sample_users

N_ITEMS = 30
EVALUATION = EvaluationSettings(beams=20, batch_size=16)


def cyclic_interactions() -> Interactions:
    """Every user walks the catalog in the same order: the next item can be learned."""
    data = make_interactions(list(np.random.default_rng(0).integers(5, 24, 60)), N_ITEMS)
    for user in range(data.n_users):
        begin, end = data.offsets[user], data.offsets[user + 1]
        data.items[begin:end] = (7 * user + np.arange(end - begin)) % N_ITEMS
    return data


def table() -> SidTable:
    codes = np.stack([np.arange(N_ITEMS) // 6, np.arange(N_ITEMS) % 6], axis=1).astype(np.int32)
    return SidTable(codes, (5, 6))


def settings(**changes):
    values = {"strategy": "single", "batch_size": 64, "epochs": 8, "patience": None, "tensorboard": False}
    return TrainingSettings(**{**values, "learning_rate": 5e-3, "log_every": 1, "validation_users": 30, **changes})


def tiger(attention="bidirectional"):
    torch.manual_seed(0)
    shape = ModelSettings(
        d_model=32, d_ff=64, heads=2, d_head=16, encoder_layers=1, decoder_layers=1, dropout=0.0,
        encoder_attention=attention,
    )  # fmt: skip
    return Tiger(shape, table())


def train(task, directory, training):
    return fit(task, training, 1, directory, SingleStrategy(torch.device("cpu")))


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_tiger_learns_the_order_of_the_catalog(tmp_path, attention):
    training = settings()
    task = HostTask(
        tiger(attention), cyclic_interactions(), training, EVALUATION, 1, 8, causal=attention == "causal"
    )  # fmt: skip
    result = train(task, tmp_path, training)
    assert result.best_metric > 0.8
    assert set(result.history[0]) >= {"loss", "next-item", "grad_norm", "learning_rate"}


def test_windows_and_prefixes_give_a_causal_host_the_same_loss():
    """A user's pairs, all at once in windows or one by one as prefixes, cost the same."""
    data = cyclic_interactions()
    short = make_interactions([9] * 12, N_ITEMS)  # no history is cut
    training = settings(batch_size=10_000)
    losses = {}
    for causal in (False, True):
        task = HostTask(tiger("causal"), short, training, EVALUATION, 1, 8, causal=causal)
        part = next(iter(task.batches(0, 0, 1)))
        losses[causal] = task.loss(part.batch, 0)["loss"].item()
    assert data.n_items == short.n_items
    assert losses[True] == pytest.approx(losses[False], abs=1e-5)


@pytest.mark.parametrize("negatives", [None, 10])
def test_sasrec_learns_the_order_of_the_catalog(tmp_path, negatives):
    data = cyclic_interactions()
    recipe = SasRecSettings(d_model=32, layers=1, dropout=0.0, negatives=negatives, epochs=25, learning_rate=1e-2)
    training = sasrec_training(recipe, settings(), data)
    assert (training.epochs, training.learning_rate) == (25, 1e-2)
    torch.manual_seed(0)
    task = SasRecTask(
        SasRec(recipe, N_ITEMS, 8), data, training.model_copy(update={"batch_size": 64}), EVALUATION, 1, 8
    )
    assert train(task, tmp_path, training).best_metric > 0.8


def test_excluded_items_never_come_back():
    data = cyclic_interactions()
    training = settings()
    torch.manual_seed(0)
    sasrec = SasRecTask(SasRec(SasRecSettings(d_model=8), N_ITEMS, 8), data, training, EVALUATION, 1, 8)
    host = HostTask(tiger(), data, training, EVALUATION, 1, 8)
    part = next(iter(sasrec.batches(0, 0, 1)))
    exclude_BS = torch.arange(N_ITEMS - 6).expand(part.batch.size, -1)
    for task in (sasrec, host):
        task.model.eval()
        items = task.recommend(part.batch, exclude_BS)
        assert items.shape == (part.batch.size, 10)
        assert ((items >= N_ITEMS - 6) | (items == -1)).all()
        assert ((items >= 0).sum(dim=1) == 6).all()


def test_validation_users_are_a_seeded_sample():
    data = cyclic_interactions()
    assert set(sample_users(data, None, 0)) == set(data.users_with("valid"))
    sample = sample_users(data, 20, 0)
    assert len(set(sample)) == 20
    assert (sample == sample_users(data, 20, 0)).all()
    assert set(sample) != set(sample_users(data, 20, 1))
    assert (np.diff(data.valid_at[sample]) >= 0).all()


def test_validation_is_the_same_on_any_number_of_workers():
    task = HostTask(tiger(), cyclic_interactions(), settings(), EVALUATION, 1, 8)
    task.model.eval()
    whole = task.validate(torch.device("cpu"))
    parts = [task.validate(torch.device("cpu"), rank, 3) for rank in range(3)]
    assert {name: sum(part[name] for part in parts) for name in whole} == pytest.approx(whole)
