"""The network folded for inference against the network itself, and that a fold never outlives its weights."""

import copy
import pickle

import pytest
import torch

from genrec.config import ModelSettings, TrainingSettings
from genrec.losses import total_loss
from genrec.models import PAD_ITEM, Batch, Memory, Tiger
from genrec.models import folded as folding
from genrec.tokenizer.sid_table import SidTable
from genrec.training.optim import build_optimizer

SHAPE = dict(d_model=24, d_ff=40, heads=3, d_head=12, encoder_layers=2, decoder_layers=2)


def fresh(table: SidTable, seed: int = 0, **settings: object) -> Tiger:
    """A host all of whose weights, gains of norms too, are away from what they begin with."""
    torch.manual_seed(seed)
    model = Tiger(ModelSettings(**SHAPE, **settings), table).eval()
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(torch.randn_like(weight) * 0.1)
    return model


def histories(table: SidTable, rows: int) -> Batch:
    history = torch.randint(table.n_items, (rows, 4), generator=torch.Generator().manual_seed(1))
    if rows > 1:
        history[0, 1:] = PAD_ITEM
    return Batch(history)


def logits(model: Tiger, batch: Batch, memories: list[Memory] | None = None) -> torch.Tensor:
    """Of three steps, after beams changed places."""
    memories = [model.encode(batch)] if memories is None else memories
    cache = model.start(memories)
    draw = torch.Generator().manual_seed(2)
    found = [model.step(torch.zeros(batch.size, 1, dtype=torch.int64), cache)]
    for beams, parents in ((5, 1), (3, 5)):
        cache.reorder(torch.randint(parents, (batch.size, beams), generator=draw))
        found.append(model.step(torch.randint(model.sid_table.vocab_size, (batch.size, beams), generator=draw), cache))
    return torch.cat(found, dim=1)


def unfolded(model: Tiger, batch: Batch, memories: list[Memory] | None = None) -> torch.Tensor:
    """The same by a copy without a fold, which is made only where no gradient is asked for."""
    copied = copy.deepcopy(model)
    with torch.enable_grad():
        found = logits(copied, batch, memories).detach()
    assert copied._folded is None
    return found


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("table_of_projections", [True, False])
def test_numbers_are_those_of_the_network(
    table: SidTable, rows: int, attention: str, tied: bool, table_of_projections: bool, monkeypatch: pytest.MonkeyPatch
):
    if not table_of_projections:
        monkeypatch.setattr(folding, "LARGEST_TABLE", 0)
    model = fresh(table, encoder_attention=attention, tie_embeddings=tied)
    batch = histories(table, rows)
    expected = unfolded(model, batch)
    with torch.inference_mode():
        found = logits(model, batch)
    assert model._folded is not None
    assert (model._folded.decoder_table is not None) == table_of_projections
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


def test_a_row_that_sees_no_memory_gets_nothing_from_it(table: SidTable):
    model, batch = fresh(table), histories(table, 2)
    mask = torch.tensor([[True, False, True], [False, False, False]])
    memories = [Memory(torch.randn(2, 3, 24), mask, "users")]
    expected = unfolded(model, batch, memories)
    with torch.inference_mode():
        torch.testing.assert_close(logits(model, batch, memories), expected, rtol=1e-4, atol=1e-4)


def test_a_change_of_the_weights_is_seen(table: SidTable):
    model, other, batch = fresh(table), fresh(table, seed=1), histories(table, 2)

    def check() -> None:
        expected = unfolded(model, batch)
        with torch.no_grad():
            torch.testing.assert_close(logits(model, batch), expected, rtol=1e-4, atol=1e-4)

    check()
    with torch.no_grad():
        model.decoder.layers[1].feed.narrow.weight.mul_(2)
    check()
    model.load_state_dict(other.state_dict())
    check()
    model.load_state_dict(fresh(table, seed=2).state_dict(), assign=True)
    check()
    optimizer = build_optimizer(model, TrainingSettings())
    batch.targets_BP = torch.randint(table.n_items, (2, 1))
    total_loss(model(batch), batch, TrainingSettings().losses)["loss"].backward()
    optimizer.step()  # without train() and eval() around it, and fused steps are not counted
    check()
    model.train()
    model.token_embedding.weight.data.add_(1.0)  # what no counter notices; training modes do
    model.eval()
    check()


def test_copies_fold_anew(table: SidTable):
    model, batch = fresh(table), histories(table, 2)
    with torch.no_grad():
        expected = logits(model, batch)
        for copied in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert copied._folded is None
            assert torch.equal(logits(copied, batch), expected)


def test_what_cannot_be_folded_still_decodes(table: SidTable):
    model, batch = fresh(table), histories(table, 2)
    with torch.no_grad():
        double = model.double()
        batch_logits = logits(double, batch)
        assert model._folded is None
        assert batch_logits.dtype == torch.float64
