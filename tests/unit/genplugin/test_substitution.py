"""Substitution guidance: rates, the start token, p = 0 and p = 1 with top-1."""

import pytest
import torch

from genrec.genplugin.substitution import believed_embeddings, coins, rate_at, substitute

RANGES = [(1, 9), (9, 17), (17, 25)]


def _coins(p1: float, p2: float, first: bool = True, n: int = 20_000) -> torch.Tensor:
    return coins((n, 2, 3), p1, p2, first, torch.Generator().manual_seed(0))


@pytest.mark.parametrize(("p1", "p2"), [(0.5, 0.4), (1.0, 0.1), (0.25, 0.8)])
def test_realised_rate_is_p1_times_p2(p1: float, p2: float) -> None:
    eligible = _coins(p1, p2, n=200_000)[:, :, 1:]
    assert eligible.float().mean().item() == pytest.approx(p1 * p2, abs=0.01 * p1 * p2 + 0.002)


def test_positions_of_a_sample_share_its_entry_coin() -> None:
    replaced = _coins(0.5, 1.0)[:, :, 1:]
    assert (replaced.all(-1) | ~replaced.any(-1)).all()


def test_start_token_and_optionally_first_code_are_kept() -> None:
    assert not _coins(1.0, 1.0)[:, :, 0].any()
    assert not _coins(1.0, 1.0, first=False)[:, :, :2].any()
    assert _coins(1.0, 1.0)[:, :, 1:].all()


def test_zero_rate_changes_nothing_and_full_rate_with_top_1_feeds_the_argmax() -> None:
    generator = torch.Generator().manual_seed(1)
    logits = torch.randn(4, 2, 3, 25, generator=generator)
    table = torch.randn(25, 5, generator=generator)
    inputs = torch.randn(4, 2, 3, 5, generator=generator)
    believed = believed_embeddings(logits, table, RANGES, top_k=1)
    assert torch.equal(substitute(inputs, believed, torch.zeros(4, 2, 3, dtype=torch.bool)).inputs_BPSD, inputs)
    everywhere = coins((4, 2, 3), 1.0, 1.0, True, generator)
    fed = substitute(inputs, believed, everywhere).inputs_BPSD
    assert torch.equal(fed[:, :, 0], inputs[:, :, 0])
    for level, (first, end) in enumerate(RANGES[:-1]):
        argmax = logits[:, :, level, first:end].argmax(-1) + first
        assert torch.equal(fed[:, :, level + 1], table[argmax])


def test_no_gradient_passes_through_the_mixture() -> None:
    logits = torch.randn(2, 1, 3, 25, requires_grad=True)
    table = torch.randn(25, 5, requires_grad=True)
    assert not believed_embeddings(logits, table, RANGES, top_k=5).requires_grad


def test_rate_waits_for_the_warm_up_and_ramps() -> None:
    assert [rate_at(e, 10, 0) for e in (0, 9.9, 10)] == [0.0, 0.0, 1.0]
    assert rate_at(12.5, 10, 5) == pytest.approx(0.5)
