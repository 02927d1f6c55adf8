"""Alignment losses against slow reference computations."""

import math

import pytest
import torch

from genrec.genplugin.alignment import info_nce, item_states, symmetric_kl
from genrec.models.contracts import Memory


def _reference_info_nce(a: torch.Tensor, b: torch.Tensor, identity: list[int], temperature: float) -> float:
    def one_way(x: torch.Tensor, y: torch.Tensor) -> float:
        losses = []
        for m in range(len(x)):
            scores = {
                n: torch.cosine_similarity(x[m], y[n], dim=0).item() / temperature
                for n in range(len(y))
                if n == m or identity[n] != identity[m]
            }
            losses.append(-scores[m] + math.log(sum(math.exp(s) for s in scores.values())))
        return sum(losses) / len(losses)

    return 0.5 * (one_way(a, b) + one_way(b, a))


def test_info_nce_equals_the_sum_over_pairs_without_duplicates() -> None:
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(6, 4, generator=generator), torch.randn(6, 4, generator=generator)
    identity = [3, 1, 3, 2, 5, 1]
    value = info_nce(a, b, torch.tensor(identity), 0.9).item()
    assert value == pytest.approx(_reference_info_nce(a, b, identity, 0.9), abs=1e-5)


def test_symmetric_kl_equals_its_definition_and_skips_pads() -> None:
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(2, 1, 2, 5, generator=generator) for _ in range(2))
    labels = torch.tensor([[[1, 3]], [[2, 0]]])
    p, q = (x[labels != 0].div(0.85).softmax(-1) for x in (first, second))
    expected = 0.5 * ((p * (p / q).log()).sum(-1) + (q * (q / p).log()).sum(-1)).mean()
    assert symmetric_kl(first, second, labels, 0.85).item() == pytest.approx(expected.item(), abs=1e-6)
    assert symmetric_kl(first, first, labels, 0.85).item() == pytest.approx(0.0, abs=1e-7)


def test_item_states_sum_the_tokens_of_each_item_and_ignore_pads() -> None:
    states = torch.arange(12.0).reshape(1, 6, 2)
    mask = torch.tensor([[True, True, True, True, False, False]])
    item = torch.tensor([[0, 0, 1, 1, 2, 2]])
    memory = Memory(states, mask, "id", item)
    summed = item_states(memory, 3)
    assert torch.equal(summed[0], torch.tensor([[2.0, 4.0], [10.0, 12.0], [0.0, 0.0]]))
    assert torch.equal(memory.pooled(), states[:, :4].mean(1))
