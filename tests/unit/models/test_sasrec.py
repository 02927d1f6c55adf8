"""SASRec against an independent forward pass, and what a causal model must obey."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from genrec.config import SasRecSettings
from genrec.errors import SettingsError
from genrec.models.contracts import Batch
from genrec.models.sasrec import SasRec, SasRecScorer

SMALL = SasRecSettings(d_model=16, layers=2, heads=2, dropout=0.4, negatives=None)


def model(seed: int = 0, chosen: SasRecSettings = SMALL, n_items: int = 11, max_history: int = 6) -> SasRec:
    torch.manual_seed(seed)
    made = SasRec(chosen, n_items, max_history)
    for weight in made.parameters():  # away from the small initial values, so that every part matters
        torch.nn.init.normal_(weight, std=0.3)
    return made.eval()


def one_user(made: SasRec, history: list[int]) -> torch.Tensor:
    """States [T, D] of a single unpadded history, by transformers' usual building blocks of torch.nn."""
    width, heads = made.settings.d_model, made.settings.heads
    states = made.items.weight[history] * math.sqrt(width) + made.positions.weight[: len(history)]
    mask = torch.triu(torch.ones(len(history), len(history), dtype=torch.bool), diagonal=1)
    for block in made.blocks:
        attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)
        attention.in_proj_weight.data, attention.in_proj_bias.data = (
            block.query_key_value.weight.data,
            block.query_key_value.bias.data,
        )
        attention.out_proj.weight.data, attention.out_proj.bias.data = block.out.weight.data, block.out.bias.data
        normed = functional.layer_norm(states, (width,), block.norm_attention.weight, block.norm_attention.bias)
        states = states + attention(normed[None], normed[None], normed[None], attn_mask=mask)[0][0]
        normed = functional.layer_norm(states, (width,), block.norm_feed.weight, block.norm_feed.bias)
        states = states + block.feed_out(torch.relu(block.feed_in(normed)))
    return functional.layer_norm(states, (width,), made.norm.weight, made.norm.bias)


def padded(histories: list[list[int]], width: int = 6) -> torch.Tensor:
    return torch.tensor([h + [-1] * (width - len(h)) for h in histories])


HISTORIES = [[3, 1, 4, 1, 5, 9], [2], [6, 5, 3], []]


def test_states_and_scores_equal_an_independent_forward_pass():
    made = model()
    with torch.no_grad():
        states, scores = made.user_states(padded(HISTORIES)), made.score_histories(padded(HISTORIES))
        for row, history in enumerate(HISTORIES[:3]):
            expected = one_user(made, history)
            torch.testing.assert_close(states[row, : len(history)], expected, atol=1e-5, rtol=1e-5)
            torch.testing.assert_close(scores[row], made.items.weight @ expected[-1], atol=1e-4, rtol=1e-5)
    assert not scores[3].any()
    np.testing.assert_array_equal(SasRecScorer(made).score_histories(padded(HISTORIES).numpy()), scores.numpy())


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 10), min_size=2, max_size=6), st.data())
def test_later_items_never_reach_earlier_states(history, data):
    made = model()
    cut = data.draw(st.integers(1, len(history) - 1))
    other = history[:cut] + [(item + 1) % 11 for item in history[cut:]]
    with torch.no_grad():
        one, two = made.user_states(padded([history, other]))
    torch.testing.assert_close(one[:cut], two[:cut], atol=1e-6, rtol=1e-5)
    assert not torch.allclose(one[cut], two[cut])


def test_full_softmax_loss_is_the_mean_over_real_targets():
    made = model()
    targets = [[1, 4, 1, 5, 9, 2], [7], [5, 3, 8], []]
    loss = made.loss(Batch(padded(HISTORIES), padded(targets)))["next-item"]
    losses = [
        functional.cross_entropy(one_user(made, h) @ made.items.weight.T, torch.tensor(t), reduction="sum")
        for h, t in zip(HISTORIES[:3], targets[:3], strict=True)
    ]
    torch.testing.assert_close(loss, sum(losses) / 10)
    weights = torch.zeros(4, 6)
    weights[1, 0] = 2.0
    single = functional.cross_entropy(one_user(made, [2]) @ made.items.weight.T, torch.tensor([7]))
    torch.testing.assert_close(
        made.loss(Batch(padded(HISTORIES), padded(targets), weight_BP=weights))["next-item"], single
    )


def test_sampled_softmax_estimates_the_full_one():
    targets = padded([[1, 4, 1, 5, 9, 2], [7], [5, 3, 8], []])
    full = model(n_items=400).loss(Batch(padded(HISTORIES), targets))["next-item"].item()
    sampled_model = model(chosen=SMALL.model_copy(update={"negatives": 200}), n_items=400)
    generator = torch.Generator().manual_seed(1)
    batch = Batch(padded(HISTORIES), targets)
    draws = [sampled_model.loss(batch, generator)["next-item"].item() for _ in range(300)]
    assert len(set(draws)) > 1
    assert np.mean(draws) == pytest.approx(full, rel=0.02)


def test_it_overfits_a_tiny_set():
    torch.manual_seed(0)
    made = SasRec(SMALL.model_copy(update={"dropout": 0.0}), 11, 6).train()
    batch = Batch(padded([[3, 1, 4, 2, 5, 9], [6, 5, 3]]), padded([[1, 4, 2, 5, 9, 8], [5, 3, 7]]))
    optimizer = torch.optim.AdamW(made.parameters(), lr=1e-2)
    for _ in range(150):
        loss = made.loss(batch)["next-item"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05
    assert made.eval().score_histories(batch.history_BT).argmax(dim=1).tolist() == [8, 7]


def test_heads_that_do_not_divide_the_width_are_refused():
    with pytest.raises(SettingsError, match=r"sasrec\.heads: 3"):
        SasRec(SMALL.model_copy(update={"heads": 3}), 11, 6)
