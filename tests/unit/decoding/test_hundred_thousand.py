"""100,000 generated IDs over a catalog of Beauty's size: all are items, none repeats, none was seen, none is short."""

import torch

from benchmarks.shapes import beauty_sequences, beauty_table, last_histories
from genrec.config import ModelSettings
from genrec.decoding import generate, score
from genrec.models import Batch, Tiger

ROWS, BEAMS = 250, 20


def test_all_of_a_hundred_thousand_generated_ids_are_unseen_items():
    table = beauty_table(12_101)
    sequences, _ = beauty_sequences()
    torch.manual_seed(0)
    shape = dict(d_model=32, d_ff=64, heads=2, d_head=16, encoder_layers=1, decoder_layers=1)
    model = Tiger(ModelSettings(**shape), table).eval()
    histories = torch.from_numpy(last_histories(sequences, 5000, 20))
    generated = 0
    for begin in range(0, len(histories), ROWS):
        batch = Batch(histories[begin : begin + ROWS])
        ranked = generate(model, batch, BEAMS, beams=BEAMS, exclude_BS=batch.history_BT)
        items = ranked.items_BK
        assert ((items >= 0) & (items < table.n_items)).all()
        assert (items.sort(dim=1).values.diff(dim=1) > 0).all()
        assert not (items[:, :, None] == batch.history_BT[:, None, :]).any()
        generated += items.numel()
        if begin == 0:  # the item that a path of codes led to has the probability of that path
            with torch.no_grad():
                torch.testing.assert_close(score(model, batch, items), ranked.scores_BK, rtol=1e-4, atol=1e-4)
    assert generated == 100_000
