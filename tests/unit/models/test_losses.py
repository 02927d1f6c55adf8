"""The next-item loss against a loop, and the registry."""

import math

import pytest
import torch

from genrec.config import LossTerm
from genrec.errors import SettingsError
from genrec.losses import LOSSES, total_loss
from genrec.models import Batch, Outputs


def by_hand(outputs: Outputs, weight_BP: torch.Tensor, temperature: float) -> float:
    total = mass = 0.0
    B, P, S, _ = outputs.logits_BPSV.shape
    for b in range(B):
        for p in range(P):
            for s in range(S):
                label = int(outputs.labels_BPS[b, p, s])
                if label == 0:
                    continue
                logits = [float(x) / temperature for x in outputs.logits_BPSV[b, p, s]]
                surprise = math.log(sum(math.exp(x) for x in logits)) - logits[label]
                total += float(weight_BP[b, p]) * surprise
                mass += float(weight_BP[b, p])
    return total / mass


@pytest.mark.parametrize("temperature", [1.0, 0.7])
@pytest.mark.parametrize("weighted", [True, False])
def test_next_item_is_the_weighted_mean_over_codes(temperature: float, weighted: bool):
    outputs = Outputs(torch.randn(3, 2, 4, 9), torch.randint(1, 9, (3, 2, 4)))
    outputs.labels_BPS[1, 1] = 0
    weight = torch.rand(3, 2) if weighted else None
    batch = Batch(torch.zeros(3, 1, dtype=torch.int64), weight_BP=weight)
    term = LossTerm(name="next-item", temperature=temperature)
    expected = by_hand(outputs, torch.ones(3, 2) if weight is None else weight, temperature)
    assert LOSSES["next-item"](outputs, batch, term)["next-item"].item() == pytest.approx(expected, rel=1e-5)


def test_total_is_the_weighted_sum_and_a_plug_in_may_add_its_own():
    outputs = Outputs(torch.randn(2, 1, 3, 5), torch.randint(1, 5, (2, 1, 3)))
    batch = Batch(torch.zeros(2, 1, dtype=torch.int64))
    terms = [LossTerm(name="next-item", weight=0.5), LossTerm(name="flat", weight=3.0)]
    more = {**LOSSES, "flat": lambda outputs, batch, term: {"flat": outputs.logits_BPSV.mean()}}
    parts = total_loss(outputs, batch, terms, more)
    expected = 0.5 * parts["next-item"] + 3.0 * parts["flat"]
    torch.testing.assert_close(parts["loss"], expected)
    with pytest.raises(SettingsError, match="flat"):
        total_loss(outputs, batch, terms)


def test_a_batch_whose_weights_are_all_zero_gives_zero():
    outputs = Outputs(torch.randn(2, 1, 3, 5), torch.randint(1, 5, (2, 1, 3)))
    batch = Batch(torch.zeros(2, 1, dtype=torch.int64), weight_BP=torch.zeros(2, 1))
    assert total_loss(outputs, batch, [LossTerm(name="next-item")])["loss"].item() == 0.0
