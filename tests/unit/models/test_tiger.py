"""TIGER against itself: one pass equals many, step by step equals all at once."""

import pytest
import torch
from torch.nn import functional

from genrec.config import LossTerm, ModelSettings
from genrec.losses import total_loss
from genrec.models import PAD_ITEM, Backbone, Batch, Memory, Tiger, build_backbone
from genrec.models.attention import MASKED
from genrec.tokenizer.sid_table import SidTable


def small(table: SidTable, attention: str = "bidirectional") -> Tiger:
    torch.manual_seed(7)
    shape = dict(d_model=32, d_ff=64, heads=2, d_head=16, encoder_layers=2, decoder_layers=2)
    return build_backbone(ModelSettings(**shape, relative_buckets=8, encoder_attention=attention), table).eval()


def test_tiger_is_a_backbone(table: SidTable):
    assert isinstance(small(table), Backbone)


def test_causal_encoder_trains_all_prefixes_of_a_window_in_one_pass(table: SidTable):
    model = small(table, "causal")
    history = torch.randint(table.n_items, (3, 6))
    history[1, 4:] = PAD_ITEM
    targets = torch.randint(table.n_items, (3, 6))
    visible = torch.tensor([[1, 2, 3, 4, 5, 6], [1, 2, 3, 4, 4, 4], [6, 5, 4, 3, 2, 1]])
    together = model(Batch(history, targets, visible)).logits_BPSV
    for row in range(3):
        for place in range(6):
            alone = Batch(history[row : row + 1, : visible[row, place]], targets[row : row + 1, place : place + 1])
            expected = model(alone).logits_BPSV[0, 0]
            torch.testing.assert_close(together[row, place], expected, rtol=1e-5, atol=1e-5)


def test_bidirectional_states_do_depend_on_later_items(table: SidTable):
    model = small(table)
    history = torch.randint(table.n_items, (1, 4))
    changed = history.clone()
    changed[0, 3] = (changed[0, 3] + 1) % table.n_items
    before = model.encode(Batch(history)).states_BTD[:, : table.n_levels]
    assert (before - model.encode(Batch(changed)).states_BTD[:, : table.n_levels]).abs().max() > 1e-4


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_padding_changes_nothing(table: SidTable, attention: str):
    model = small(table, attention)
    history = torch.randint(table.n_items, (2, 5))
    padded = torch.cat([history, torch.full((2, 3), PAD_ITEM)], dim=1)
    targets = torch.randint(table.n_items, (2, 4))
    expected = model(Batch(history, targets)).logits_BPSV
    torch.testing.assert_close(model(Batch(padded, targets)).logits_BPSV, expected, rtol=1e-5, atol=1e-5)


def test_a_target_that_sees_nothing_learns_nothing_from_later_items(table: SidTable):
    model = small(table, "causal")
    targets, visible = torch.tensor([[5, 6]]), torch.tensor([[0, 2]])
    histories = [torch.tensor([[1, 2]]), torch.tensor([[3, 4]]), torch.tensor([[1, PAD_ITEM]])]
    first, second, third = (model(Batch(history, targets, visible)).logits_BPSV for history in histories)
    assert torch.equal(first[:, 0], second[:, 0])
    torch.testing.assert_close(first[:, 0], third[:, 0])
    assert not torch.allclose(first[:, 1], second[:, 1])
    cold = model(Batch(torch.empty(1, 0, dtype=torch.int64), targets[:, :1])).logits_BPSV
    torch.testing.assert_close(first[:, 0], cold[:, 0], rtol=1e-5, atol=1e-5)


def test_steps_equal_teacher_forcing_with_beams_that_change_places(table: SidTable):
    model = small(table)
    history = torch.randint(table.n_items, (2, 5))
    history[1, 3:] = PAD_ITEM
    users = Memory(torch.randn(2, 3, 32), torch.tensor([[True] * 3, [True, False, True]]), "users")
    memories = [users, model.encode(Batch(history))]
    items = torch.randint(table.n_items, (2, 4))
    inputs, _ = model.decoder_inputs(items)
    expected = model.decode(inputs, memories)
    cache = model.start(memories)
    torch.testing.assert_close(model.step(inputs[:, :1, 0], cache), expected[:, :1, 0], rtol=1e-5, atol=1e-5)
    cache.reorder(torch.zeros(2, 4, dtype=torch.int64))
    torch.testing.assert_close(model.step(inputs[:, :, 1], cache), expected[:, :, 1], rtol=1e-5, atol=1e-5)
    parents = torch.tensor([[3, 1, 1], [0, 2, 3]])
    cache.reorder(parents)
    tokens = inputs[:, :, 2].gather(1, parents)
    picked = expected[:, :, 2].gather(1, parents[..., None].expand(-1, -1, expected.shape[-1]))
    torch.testing.assert_close(model.step(tokens, cache), picked, rtol=1e-5, atol=1e-5)


def test_embeddings_may_stand_in_for_tokens(table: SidTable):
    model = small(table)
    memories = [model.encode(Batch(torch.randint(table.n_items, (2, 3))))]
    inputs, _ = model.decoder_inputs(torch.randint(table.n_items, (2, 2)))
    assert torch.equal(model.decode(inputs, memories), model.decode(model.token_embedding(inputs), memories))


def test_weights_on_disk_hold_no_catalog(table: SidTable):
    assert not any("item_tokens" in name for name in small(table).state_dict())
    assert torch.isfinite(torch.tensor(MASKED, dtype=torch.bfloat16))


@pytest.mark.parametrize("attention", ["bidirectional", "causal"])
def test_bfloat16_trains_to_nearly_the_same_gradients(table: SidTable, attention: str):
    shape = dict(d_model=32, d_ff=64, heads=2, d_head=16, encoder_layers=2, decoder_layers=2, dropout=0.0)
    model = Tiger(ModelSettings(**shape, encoder_attention=attention), table)
    history = torch.randint(table.n_items, (4, 5))
    history[2, 1:] = PAD_ITEM
    batch = Batch(history, torch.randint(table.n_items, (4, 3)), torch.tensor([[1, 1, 1]] * 4))
    found = []
    for enabled in (False, True):
        model.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            outputs = model(batch)
            loss = total_loss(outputs, batch, [LossTerm(name="next-item")])["loss"]
        loss.backward()
        found.append(torch.cat([weight.grad.flatten() for weight in model.parameters()]))
    assert found[0].isfinite().all()
    assert functional.cosine_similarity(*found, dim=0) > 0.995
