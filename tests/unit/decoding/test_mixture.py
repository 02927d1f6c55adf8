"""The mixture with item distributions: exact in score and generate, proper, off at gate 1."""

import numpy as np
import pytest
import torch

from genrec.config import ModelSettings
from genrec.decoding import ItemMixture, generate, score
from genrec.models import build_backbone
from genrec.models.contracts import Batch
from genrec.tokenizer.sid_table import SidTable

N_ITEMS, ROWS, MASSES = 90, 5, 12


@pytest.fixture(scope="module")
def backbone() -> torch.nn.Module:
    torch.manual_seed(0)
    places = np.random.default_rng(0).permutation(6 * 5 * 7)[:N_ITEMS]
    codes = np.stack(np.unravel_index(places, (6, 5, 7)), axis=1).astype(np.int32)
    shape = ModelSettings(d_model=16, d_ff=32, heads=2, d_head=8, encoder_layers=1, decoder_layers=1, dropout=0.0)
    model = build_backbone(shape, SidTable(codes, (6, 5, 7))).eval()
    with torch.no_grad():
        model.token_embedding.weight.mul_(3)  # logits far from uniform
    return model


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(torch.randint(0, N_ITEMS, (ROWS, 4), generator=torch.Generator().manual_seed(1)))


def _sources(gate: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(2)
    items = torch.randint(0, N_ITEMS, (ROWS, MASSES), generator=generator)  # repeats occur
    items[0, 7:] = -1
    masses = torch.rand(ROWS, MASSES, generator=generator).masked_fill(items == -1, 0)
    masses = (1 - gate) * masses / masses.sum(1, keepdim=True)
    return torch.full((ROWS,), gate), items, masses


def _everything() -> torch.Tensor:
    return torch.arange(N_ITEMS).repeat(ROWS, 1)


@pytest.mark.parametrize("gate", [0.05, 0.6])
def test_score_is_the_sum_of_both_parts(backbone: torch.nn.Module, batch: Batch, gate: float) -> None:
    gates, items, masses = _sources(gate)
    mixed = score(backbone, batch, _everything(), mixture=ItemMixture.of(backbone.sid_table, gates, items, masses))
    expected = gate * score(backbone, batch, _everything()).exp()
    for row in range(ROWS):
        for item, mass in zip(items[row].tolist(), masses[row].tolist(), strict=True):
            if item >= 0:
                expected[row, item] += mass
    torch.testing.assert_close(mixed.exp(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(mixed.exp().sum(1), torch.ones(ROWS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("excluded", [0, 20])
def test_a_full_beam_is_the_exact_ranking(backbone: torch.nn.Module, batch: Batch, excluded: int) -> None:
    mixture = ItemMixture.of(backbone.sid_table, *_sources(0.5))
    exclude = torch.stack([torch.randperm(N_ITEMS)[:excluded] for _ in range(ROWS)])
    scores = score(backbone, batch, _everything(), mixture=mixture).scatter(1, exclude, -torch.inf)
    best = scores.topk(N_ITEMS - excluded, dim=1)
    ranked = generate(backbone, batch, N_ITEMS, beams=N_ITEMS, exclude_BS=exclude, mixture=mixture)
    found = ranked.items_BK[:, : N_ITEMS - excluded]
    torch.testing.assert_close(ranked.scores_BK[:, : N_ITEMS - excluded], best.values, rtol=1e-5, atol=1e-5)
    assert all(set(row.tolist()) == set(want.tolist()) for row, want in zip(found, best.indices, strict=True))


def test_an_item_that_only_a_neighbour_proposes_enters_a_narrow_beam(backbone: torch.nn.Module, batch: Batch) -> None:
    unlikely = score(backbone, batch, _everything()).argmin(dim=1, keepdim=True)
    assert not (generate(backbone, batch, 3, beams=3).items_BK == unlikely).any()
    mixture = ItemMixture.of(backbone.sid_table, torch.full((ROWS,), 0.5), unlikely, torch.full((ROWS, 1), 0.5))
    assert torch.equal(generate(backbone, batch, 3, beams=3, mixture=mixture).items_BK[:, :1], unlikely)


def test_gate_one_is_the_generator(backbone: torch.nn.Module, batch: Batch) -> None:
    gates, items, _ = _sources(1.0)
    mixture = ItemMixture.of(backbone.sid_table, gates, items, torch.zeros(ROWS, MASSES))
    ours, plain = generate(backbone, batch, 10, beams=20, mixture=mixture), generate(backbone, batch, 10, beams=20)
    assert torch.equal(ours.items_BK, plain.items_BK)
    assert torch.equal(ours.scores_BK, plain.scores_BK)
