"""Int8 inference: near the float model, far smaller, and its lists hold items only."""

import torch

from genrec.config import ModelSettings
from genrec.decoding import generate, score
from genrec.models import Batch, Tiger
from genrec.models.quantized import quantized
from genrec.tokenizer.sid_table import SidTable


def test_int8_is_near_the_float_model_and_leaves_it_alone(table: SidTable):
    torch.manual_seed(0)
    shape = dict(d_model=64, d_ff=128, heads=2, d_head=32, encoder_layers=2, decoder_layers=2)
    model = Tiger(ModelSettings(**shape), table)
    small = quantized(model)
    batch = Batch(torch.randint(table.n_items, (8, 5)), torch.randint(table.n_items, (8, 1)))
    model.eval()
    exact, near = model(batch).logits_BPSV, small(batch).logits_BPSV
    assert torch.nn.functional.cosine_similarity(exact.flatten(), near.flatten(), dim=0) > 0.99
    assert not torch.equal(exact, near)
    assert all(weight.requires_grad for weight in model.parameters())
    assert small.sid_table is model.sid_table
    items = torch.arange(table.n_items).expand(8, -1)
    with torch.no_grad():
        scores = score(small, batch, items)
    ranked = generate(small, batch, 10, beams=table.n_items)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(8), rtol=1e-4, atol=1e-4)
    assert (ranked.items_BK >= 0).all()
    ours = generate(model, batch, 10, beams=table.n_items).items_BK
    shared = (ours[:, :, None] == ranked.items_BK[:, None, :]).any(-1).float().mean()
    assert shared > 0.8
