"""Our blocks against transformers' T5: the same weights give the same logits, loss and gradients."""

import pytest
import torch
from torch.nn import functional

from benchmarks.transformers_side import t5_of
from genrec.config import LossTerm, ModelSettings
from genrec.losses import next_item
from genrec.models import PAD_ITEM, Batch, Tiger
from genrec.models.attention import relative_buckets
from genrec.models.t5_weights import from_t5
from genrec.tokenizer.sid_table import SidTable


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("lengths", [(12, 12, 12), (12, 3, 7)])
def test_logits_loss_and_gradients_are_those_of_t5(table: SidTable, tied: bool, lengths: tuple[int, ...]):
    torch.manual_seed(1)
    settings = ModelSettings(
        d_model=32, d_ff=48, heads=3, d_head=16, encoder_layers=2, decoder_layers=3, dropout=0.0,
        relative_buckets=8, relative_max_distance=16, tie_embeddings=tied,
    )  # fmt: skip
    theirs = t5_of(settings, table.vocab_size)
    if not tied:  # transformers 5 keeps the weights tied even then, and only leaves out the scale
        theirs.lm_head.weight = torch.nn.Parameter(torch.randn_like(theirs.lm_head.weight))
    ours = Tiger(settings, table)
    ours.load_state_dict(from_t5(theirs.state_dict(), ours))
    history = torch.randint(table.n_items, (len(lengths), max(lengths)))
    history[torch.arange(max(lengths))[None] >= torch.tensor(lengths)[:, None]] = PAD_ITEM
    batch = Batch(history, torch.randint(table.n_items, (len(lengths), 1)))

    outputs = ours(batch)
    tokens = ours.tokens(history).flatten(1)
    reference = theirs(
        input_ids=tokens, attention_mask=(tokens != 0).long(), labels=ours.tokens(batch.targets_BP)[:, 0]
    )
    torch.testing.assert_close(outputs.logits_BPSV[:, 0], reference.logits, rtol=1e-5, atol=1e-5)
    loss = next_item(outputs, batch, LossTerm(name="next-item"))["next-item"]
    torch.testing.assert_close(loss, reference.loss, rtol=1e-5, atol=1e-5)

    loss.backward()
    reference.loss.backward()
    gradients = from_t5({name: weight.grad for name, weight in theirs.named_parameters()}, ours)
    assert gradients.keys() == dict(ours.named_parameters()).keys()
    for name, weight in ours.named_parameters():
        assert weight.grad.abs().max() > 0, name
        torch.testing.assert_close(
            weight.grad, gradients[name], rtol=1e-5, atol=1e-5, msg=lambda m, n=name: f"{n}: {m}"
        )


@pytest.mark.parametrize("bidirectional", [True, False])
def test_buckets_are_those_of_t5(bidirectional: bool):
    from transformers.models.t5.modeling_t5 import T5Attention

    distance = torch.arange(-300, 301)
    for buckets, furthest in ((32, 128), (8, 16), (16, 200)):
        ours = relative_buckets(distance, bidirectional=bidirectional, buckets=buckets, max_distance=furthest)
        theirs = T5Attention._relative_position_bucket(distance, bidirectional, buckets, furthest)
        assert torch.equal(ours, theirs)


def test_fresh_weights_are_drawn_as_t5_draws_them(table: SidTable):
    settings = ModelSettings(d_model=64, d_ff=128, heads=4, d_head=32, encoder_layers=1, decoder_layers=1)
    torch.manual_seed(0)
    ours = Tiger(settings, table)
    expected = from_t5(t5_of(settings, table.vocab_size).state_dict(), ours)
    for name, weight in ours.named_parameters():
        if weight.ndim == 2 and "bias" not in name:
            parts = 3 if "qkv" in name else 1
            for mine, reference in zip(weight.chunk(parts), expected[name].chunk(parts), strict=True):
                assert mine.std().item() == pytest.approx(reference.std().item(), rel=0.05), name


def test_dropout_acts_in_training_only(table: SidTable):
    model = Tiger(ModelSettings(d_model=16, d_ff=32, heads=2, d_head=8, encoder_layers=1, decoder_layers=1), table)
    batch = Batch(torch.arange(6).view(2, 3), torch.arange(2).view(2, 1))
    model.train()
    assert not torch.equal(model(batch).logits_BPSV, model(batch).logits_BPSV)
    model.eval()
    assert torch.equal(model(batch).logits_BPSV, model(batch).logits_BPSV)
    assert functional.cross_entropy(model(batch).logits_BPSV.flatten(0, 2), model(batch).labels_BPS.flatten()) > 0
