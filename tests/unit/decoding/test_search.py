"""Beam search against exhaustive scoring, and what it must never list."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from genrec.config import ModelSettings
from genrec.decoding import ItemMixture, TrieTensors, generate, score
from genrec.errors import SettingsError
from genrec.models import PAD_ITEM, Batch, Memory, Tiger
from genrec.tokenizer.sid_table import SidTable


def random_table(n_items: int, sizes: tuple[int, ...], seed: int = 0) -> SidTable:
    """Distinct random IDs, with ever more crowded prefixes (squares of uniform numbers)."""
    rng = np.random.default_rng(seed)
    codes = np.floor(rng.random((50 * n_items, len(sizes))) ** 2 * sizes).astype(np.int32)
    _, first = np.unique(codes, axis=0, return_index=True)
    return SidTable(codes[rng.permutation(first)[:n_items]], sizes)


def small(table: SidTable, seed: int = 0) -> Tiger:
    torch.manual_seed(seed)
    shape = dict(d_model=24, d_ff=32, heads=2, d_head=12, encoder_layers=1, decoder_layers=2)
    return Tiger(ModelSettings(**shape), table).eval()


def histories(table: SidTable, rows: int, items: int = 4) -> Batch:
    history = torch.randint(table.n_items, (rows, items))
    history[0, 1:] = PAD_ITEM
    return Batch(history)


def everything(table: SidTable, rows: int) -> torch.Tensor:
    return torch.arange(table.n_items).expand(rows, -1)


def neighbours(model: torch.nn.Module, batch: Batch) -> ItemMixture:
    """Half of the mass on 30 items of each row's own, to each another part."""
    table = model.sid_table
    items = torch.stack([torch.randperm(table.n_items)[:30] for _ in range(batch.size)])
    with torch.no_grad():
        generated = score(model, batch, items)
    scale = (0.5 / (1 - generated.exp().sum(dim=1))).log()
    masses = torch.linspace(0.5, 1.5, 30).expand(items.shape) / 60
    return ItemMixture.of(table, scale, items, masses, generated)


@pytest.mark.parametrize("sizes", [(6, 6, 8), (30, 2, 5, 3), (250,), (2, 2, 2, 2, 2, 2, 2, 2)])
@pytest.mark.parametrize("mixed", [False, True])
def test_a_beam_as_wide_as_the_catalog_is_exhaustive_scoring(sizes: tuple[int, ...], mixed: bool):
    table = random_table(200, sizes)
    model, batch = small(table), histories(table, 3)
    mixture = neighbours(model, batch) if mixed else None
    with torch.no_grad():
        scores = score(model, batch, everything(table, 3), mixture=mixture)
    torch.testing.assert_close(scores.exp().sum(dim=1), torch.ones(3), rtol=1e-5, atol=1e-5)
    ranked = generate(model, batch, table.n_items, beams=table.n_items, mixture=mixture)
    expected = scores.sort(dim=1, descending=True)
    torch.testing.assert_close(ranked.scores_BK, expected.values, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(scores.gather(1, ranked.items_BK), ranked.scores_BK, rtol=1e-5, atol=1e-5)
    clear = (expected.values[:, :-1] - expected.values[:, 1:]) > 1e-4
    assert torch.equal(ranked.items_BK[:, :-1][clear], expected.indices[:, :-1][clear])
    assert torch.equal(ranked.items_BK.sort(dim=1).values, everything(table, 3))


@pytest.mark.parametrize("walked", [True, False])
def test_chunks_of_scored_items_change_nothing(walked: bool, monkeypatch):
    from genrec.decoding import scoring

    table = random_table(60, (5, 5, 5))
    model, batch = small(table), histories(table, 2)
    batch.visible_BP = None if walked else torch.randint(1, 5, (2, 60))
    with torch.no_grad():
        whole = score(model, batch, everything(table, 2))
        monkeypatch.setattr(scoring, "LOGITS_AT_ONCE", 1000)
        torch.testing.assert_close(score(model, batch, everything(table, 2)), whole, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sizes", [(4, 4, 40), (40, 4), (3, 60), (2, 5, 3, 9)])
def test_a_prefix_is_decoded_once_for_all_items_behind_it(sizes: tuple[int, ...], monkeypatch):
    """Walked, and teacher-forced with gradients; against each item on its own path, as ``visible_BP`` asks for."""
    table = random_table(90, sizes)
    model, batch = small(table), Batch(torch.randint(table.n_items, (2, 4)))
    items = torch.stack([torch.randperm(table.n_items), torch.randint(table.n_items, (90,))])
    items[1, 80:] = PAD_ITEM
    decoded, decode, stepped, step = [], model.decode, [], model.step
    monkeypatch.setattr(model, "decode", lambda *a: decoded.append(a[0].shape[1]) or decode(*a))
    monkeypatch.setattr(model, "step", lambda *a: stepped.append(a[0].shape[1]) or step(*a))
    with torch.no_grad():
        walked = score(model, batch, items)
    assert not decoded
    forced = score(model, batch, items).detach()
    batch.visible_BP = torch.full((2, 90), 4)
    apart = score(model, batch, items).detach()
    torch.testing.assert_close(walked, apart, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(forced, apart, rtol=1e-5, atol=1e-5)
    trie = table.trie
    branches = np.diff(trie.first_child) > 1
    assert decoded[0] <= branches[: trie.depth_begin[-2]].sum() < decoded[1]
    n_open = [int((trie.leaf_end - trie.leaf_begin > 1)[b:e].sum()) for b, e in pairwise(trie.depth_begin[:-1])]
    for steps, most in zip(stepped, n_open, strict=False):
        assert steps <= most + 1  # one place more where some item is decided already
    assert len(stepped) <= table.n_levels


def test_score_leaves_padding_out_and_lets_gradients_through():
    table = random_table(60, (5, 5, 5))
    model, batch = small(table), histories(table, 2)
    scores = score(model, batch, torch.tensor([[3, PAD_ITEM], [PAD_ITEM, 59]]))
    assert torch.equal(scores.isinf(), torch.tensor([[False, True], [True, False]]))
    scores[scores.isfinite()].sum().backward()
    assert all(weight.grad is not None and weight.grad.isfinite().all() for weight in model.parameters())


@settings(max_examples=40, deadline=None)
@given(data=st.data(), sizes=st.lists(st.integers(1, 6), min_size=1, max_size=4), seed=st.integers(0, 99))
def test_lists_hold_distinct_items_never_excluded_ones_and_run_full(data, sizes, seed):
    most = int(np.prod(sizes))
    n_items = data.draw(st.integers(1, min(most, 50)))
    every = np.stack(np.meshgrid(*[np.arange(size) for size in sizes], indexing="ij"), -1).reshape(-1, len(sizes))
    table = SidTable(np.random.default_rng(seed).permutation(every)[:n_items].astype(np.int32), tuple(sizes))
    model = small(table, seed)
    batch = histories(table, 3)
    excluded = [data.draw(st.lists(st.integers(0, n_items - 1), max_size=2 * n_items)) for _ in range(3)]
    width = max(map(len, excluded))
    padded = [row + [PAD_ITEM] * (width - len(row)) for row in excluded]
    exclude_BS = torch.tensor(padded, dtype=torch.int64).view(3, -1)
    beams = data.draw(st.integers(1, n_items + 3))
    k = data.draw(st.integers(1, beams))
    ranked = generate(model, batch, k, beams=beams, exclude_BS=exclude_BS)
    assert ranked.items_BK.shape == ranked.scores_BK.shape == (3, k)
    for items, scores, barred in zip(ranked.items_BK.tolist(), ranked.scores_BK.tolist(), excluded, strict=True):
        real = [item for item in items if item != PAD_ITEM]
        assert len(real) == len(set(real)) == min(k, n_items - len(set(barred)))
        assert not set(real) & set(barred)
        assert set(real) <= set(range(n_items))
        assert items == real + [PAD_ITEM] * (k - len(real))
        assert scores == sorted(scores, reverse=True)
        assert all(np.isfinite(scores[: len(real)]))
        assert all(np.isneginf(scores[len(real) :]))


def test_a_whole_excluded_subtree_is_never_entered_and_scores_stay():
    table = random_table(120, (4, 6, 6))
    model, batch = small(table), histories(table, 2)
    under_root = torch.from_numpy(np.flatnonzero(table.codes_NL[:, 0] == 0))
    exclude = under_root.expand(2, -1)
    with torch.no_grad():
        scores = score(model, batch, everything(table, 2))
    rest = torch.from_numpy(np.flatnonzero(table.codes_NL[:, 0] != 0))
    ranked = generate(model, batch, len(rest), beams=len(rest), exclude_BS=exclude)
    assert torch.equal(ranked.items_BK.sort(dim=1).values, rest.expand(2, -1))
    torch.testing.assert_close(scores.gather(1, ranked.items_BK), ranked.scores_BK, rtol=1e-5, atol=1e-5)
    narrow = generate(model, batch, 3, beams=3, exclude_BS=exclude)
    assert not torch.isin(narrow.items_BK, under_root).any()
    assert (narrow.items_BK != PAD_ITEM).all()


def test_dead_nodes_are_those_whose_items_are_all_excluded():
    table = SidTable(np.array([[0, 0], [0, 1], [1, 0], [1, 1], [2, 0]], dtype=np.int32), (3, 2))
    trie = TrieTensors.of(table, torch.device("cpu"))
    dead = trie.dead_nodes(torch.tensor([[1, 0, 1, PAD_ITEM], [2, 4, PAD_ITEM, PAD_ITEM]]))
    path = table.trie.path_NL
    assert [set(row[row >= 0].tolist()) for row in dead[0]] == [{path[0, 0]}, {path[4, 0]}]
    assert [set(row[row >= 0].tolist()) for row in dead[1]] == [{path[0, 1], path[1, 1]}, {path[2, 1], path[4, 1]}]


def test_rows_do_not_touch_each_other():
    table = random_table(150, (8, 8, 8))
    model, batch = small(table), histories(table, 4)
    exclude = torch.randint(table.n_items, (4, 6))
    together = generate(model, batch, 10, beams=12, exclude_BS=exclude)
    for row in range(4):
        alone = Batch(batch.history_BT[row : row + 1])
        ranked = generate(model, alone, 10, beams=12, exclude_BS=exclude[row : row + 1])
        assert torch.equal(ranked.items_BK[0], together.items_BK[row])
        torch.testing.assert_close(ranked.scores_BK[0], together.scores_BK[row], rtol=1e-5, atol=1e-5)


def test_neighbour_memories_are_attended_to():
    table = random_table(60, (5, 5, 5))
    model, batch = small(table), histories(table, 2)
    alone = generate(model, batch, 5, beams=60)
    batch.neighbours = [Memory(torch.randn(2, 3, 24) * 5, torch.ones(2, 3, dtype=torch.bool), "users")]
    assert not torch.allclose(generate(model, batch, 5, beams=60).scores_BK, alone.scores_BK)
    with torch.no_grad():
        items = everything(table, 2)
        ranked = generate(model, batch, 60, beams=60)
        torch.testing.assert_close(score(model, batch, items).gather(1, ranked.items_BK), ranked.scores_BK)


def test_generate_decodes_without_dropout_and_leaves_the_mode_as_it_was():
    table = random_table(60, (5, 5, 5))
    model, batch = small(table), histories(table, 2)
    expected = generate(model, batch, 5, beams=10)
    model.train()
    assert torch.equal(generate(model, batch, 5, beams=10).scores_BK, expected.scores_BK)
    assert model.training


def test_too_narrow_a_beam_is_refused():
    table = random_table(60, (5, 5, 5))
    with pytest.raises(SettingsError, match="5 beams cannot fill a list of 6"):
        generate(small(table), histories(table, 1), 6, beams=5)
