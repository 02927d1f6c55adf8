"""The same lists and scores as transformers' constrained beam search with the same weights."""

import numpy as np
import pytest
import torch

from benchmarks.transformers_side import allowed_tokens, constrained_lists, pair, same_lists
from genrec.config import ModelSettings
from genrec.decoding import generate
from genrec.models import PAD_ITEM, Batch
from genrec.tokenizer.sid_table import SidTable


@pytest.mark.parametrize(("sizes", "beams"), [((12, 10, 9), 8), ((40, 9, 3, 2), 30), ((25, 30), 20)])
@pytest.mark.parametrize("seed", [0, 1])
def test_lists_and_scores_are_those_of_transformers(sizes: tuple[int, ...], beams: int, seed: int):
    rng = np.random.default_rng(seed)
    codes = np.unique(np.floor(rng.random((400, len(sizes))) * sizes).astype(np.int32), axis=0)
    table = SidTable(rng.permutation(codes), sizes)
    shape = dict(d_model=32, d_ff=48, heads=2, d_head=16, encoder_layers=2, decoder_layers=2, relative_buckets=8)
    ours, theirs = (model.eval() for model in pair(ModelSettings(**shape), table, seed))
    history = torch.from_numpy(rng.integers(table.n_items, size=(3, 6)))
    history[1, 2:] = PAD_ITEM
    ranked = generate(ours, Batch(history), beams, beams=beams)
    tokens = ours.tokens(history).flatten(1)
    reference = constrained_lists(theirs, table, tokens, beams, allowed_tokens(table))
    assert (reference[0] != PAD_ITEM).all()
    same, overlap = same_lists((ranked.items_BK, ranked.scores_BK), reference)
    assert same
    assert overlap == 1.0
