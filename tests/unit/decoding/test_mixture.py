"""The mixture with masses of named items: exact in score and generate, proper, off where nothing is named."""

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


def _named(rows: int = ROWS) -> torch.Tensor:
    generator = torch.Generator().manual_seed(2)
    items = torch.stack([torch.randperm(N_ITEMS, generator=generator)[:MASSES] for _ in range(rows)])
    items[0, 7:] = -1
    return items


def _mixture(backbone: torch.nn.Module, batch: Batch, share: float, items: torch.Tensor) -> tuple[ItemMixture, ...]:
    """The mixture that leaves ``share`` to the generator, and what each item's probability should be [B, N]."""
    masses = torch.rand(items.shape, generator=torch.Generator().manual_seed(3)).masked_fill(items == -1, 0)
    masses = (1 - share) * masses / masses.sum(1, keepdim=True)
    generated = score(backbone, batch, items)
    scale = share / (1 - generated.exp().sum(1))
    expected = scale[:, None] * score(backbone, batch, _everything()).exp()
    for row, (named, told) in enumerate(zip(items.tolist(), masses.tolist(), strict=True)):
        for item, mass in zip(named, told, strict=True):
            if item >= 0:
                expected[row, item] = mass
    return ItemMixture.of(backbone.sid_table, scale.log(), items, masses, generated), expected


def _everything() -> torch.Tensor:
    return torch.arange(N_ITEMS).repeat(ROWS, 1)


@pytest.mark.parametrize("share", [0.05, 0.6])
def test_named_items_have_their_mass_and_all_others_the_generators(
    backbone: torch.nn.Module, batch: Batch, share: float
) -> None:
    mixture, expected = _mixture(backbone, batch, share, _named())
    mixed = score(backbone, batch, _everything(), mixture=mixture)
    torch.testing.assert_close(mixed.exp(), expected, rtol=1e-5, atol=1e-7)
    torch.testing.assert_close(mixed.exp().sum(1), torch.ones(ROWS), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("excluded", [0, 20])
def test_a_full_beam_is_the_exact_ranking(backbone: torch.nn.Module, batch: Batch, excluded: int) -> None:
    mixture, _ = _mixture(backbone, batch, 0.5, _named())
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
    mixture, _ = _mixture(backbone, batch, 0.5, unlikely)
    assert torch.equal(generate(backbone, batch, 3, beams=3, mixture=mixture).items_BK[:, :1], unlikely)


def test_a_named_item_without_mass_is_never_listed(backbone: torch.nn.Module, batch: Batch) -> None:
    """Though the generator likes it best: of what it gives a named item nothing is left, to the last digit."""
    best = generate(backbone, batch, 3, beams=20).items_BK
    masses = torch.tensor([0.0, 0.0, 0.5]).expand(ROWS, 3)
    generated = score(backbone, batch, best)
    scale = (0.5 / (1 - generated.exp().sum(1))).log()
    mixture = ItemMixture.of(backbone.sid_table, scale, best, masses, generated)
    listed = generate(backbone, batch, N_ITEMS, beams=N_ITEMS, mixture=mixture)
    shown = listed.items_BK.masked_fill(listed.scores_BK == -torch.inf, -1)
    assert not (shown[:, :, None] == best[:, None, :2]).any()
    assert torch.equal(shown[:, 0], best[:, 2])


def test_where_nothing_is_named_it_is_the_generator(backbone: torch.nn.Module, batch: Batch) -> None:
    nothing = torch.full((ROWS, MASSES), -1)
    mixture = ItemMixture.of(
        backbone.sid_table, torch.zeros(ROWS), nothing, torch.zeros(nothing.shape), torch.zeros(nothing.shape)
    )
    ours, plain = generate(backbone, batch, 10, beams=20, mixture=mixture), generate(backbone, batch, 10, beams=20)
    assert torch.equal(ours.items_BK, plain.items_BK)
    assert torch.equal(ours.scores_BK, plain.scores_BK)
