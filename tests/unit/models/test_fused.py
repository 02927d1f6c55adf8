"""The CPU's training kernels against torch's own, and the statistics of their dropout."""

import pytest
import torch
from torch.nn import functional

from genrec.models import fused


def gradients(run, *inputs: torch.Tensor) -> list[torch.Tensor]:
    """Result and gradients of every input, for one fixed random weighting of the result."""
    leaves = [value.clone().requires_grad_() for value in inputs]
    result = run(*leaves)
    generator = torch.Generator().manual_seed(5)
    (result * torch.randn(result.shape, generator=generator)).sum().backward()
    return [result.detach(), *(leaf.grad for leaf in leaves)]


def test_norm_is_torchs_with_the_same_gradients():
    states, weight = torch.randn(3, 5, 16) * 4, torch.randn(16)
    ours = gradients(lambda x, w: fused.rms_norm(x, w, 1e-6), states, weight)
    theirs = gradients(lambda x, w: functional.rms_norm(x, (16,), w, 1e-6), states, weight)
    for mine, reference in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine, reference, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 4])
def test_self_attention_is_torchs_with_the_same_gradients(rows: int):
    B, T, H, d = 4, 5, 3, 8
    qkv, bias = torch.randn(B, T, 3 * H * d), torch.randn(rows, H, T, T)

    def reference(qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        query, key, value = (part.unflatten(-1, (H, d)).transpose(1, 2) for part in qkv.chunk(3, dim=-1))
        mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
        return mixed.transpose(1, 2).flatten(2)

    ours = gradients(lambda x, b: fused.self_attention(x, b, H, 0.0), qkv, bias)
    for mine, expected in zip(ours, gradients(reference, qkv, bias), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-5)


def test_self_attention_with_dropout_has_the_gradients_of_its_own_mask():
    qkv = torch.randn(2, 4, 3 * 2 * 3, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(1, 2, 4, 4, dtype=torch.float64, requires_grad=True)

    def same_mask(qkv: torch.Tensor, bias: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return fused.self_attention(qkv, bias, 2, 0.4)

    assert torch.autograd.gradcheck(same_mask, (qkv, bias))


def test_cross_attention_with_dropout_has_the_gradients_of_its_own_mask():
    query, key, value = (torch.randn(2, 2, n, 3, dtype=torch.float64, requires_grad=True) for n in (3, 5, 5))
    mask = torch.tensor([[0.0, 0.0, 0.0, 0.0, -1e9]], dtype=torch.float64)

    def same_mask(*parts: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(3)
        return fused.attention(*parts, mask, 0.4)

    assert torch.autograd.gradcheck(same_mask, (query, key, value))
    torch.manual_seed(0)
    many = torch.stack([fused.attention(query, key, value, mask, 0.4).detach() for _ in range(4000)])
    expected = functional.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=1.0)
    torch.testing.assert_close(many.mean(0), expected.detach(), rtol=0.1, atol=0.1)


@pytest.mark.parametrize("probability", [0.1, 0.5])
def test_dropout_drops_the_share_it_should_and_keeps_the_mean(probability: float):
    torch.manual_seed(0)
    ones = torch.ones(400, 1001)
    for dropped in (
        fused.dropout(ones, probability, True),
        fused.add_dropped(torch.zeros_like(ones), ones, probability, True),
        fused.relu_dropout(ones.clone(), probability, True),
    ):
        kept = dropped != 0
        assert kept.float().mean().item() == pytest.approx(1 - probability, abs=0.003)
        torch.testing.assert_close(dropped[kept], torch.full((int(kept.sum()),), 1 / (1 - probability)))
        # Neighbours share random words: they must be independent all the same.
        together = (kept[:, 1:] & kept[:, :-1]).float().mean().item()
        assert together == pytest.approx((1 - probability) ** 2, abs=0.004)
        assert kept.float().mean(dim=0).std().item() == pytest.approx(
            (probability * (1 - probability) / 400) ** 0.5, rel=0.1
        )


def test_relu_dropout_has_no_gradient_where_it_dropped_or_is_inactive():
    states = torch.randn(700, 1000, requires_grad=True)  # more than one piece
    result = fused.relu_dropout(states * 1.0, 0.3, True)
    result.sum().backward()
    assert torch.equal(states.grad != 0, result != 0)
    assert torch.equal(result != 0, (result != 0) & (states > 0))
    torch.testing.assert_close(states.grad[result != 0], torch.full_like(states.grad[result != 0], 1 / 0.7))


def test_seeds_repeat_and_evaluation_drops_nothing():
    states = torch.randn(30, 7)
    torch.manual_seed(1)
    first = fused.dropout(states, 0.2, True)
    torch.manual_seed(1)
    assert torch.equal(first, fused.dropout(states, 0.2, True))
    assert torch.equal(fused.dropout(states, 0.2, False), states)
    assert torch.equal(fused.relu_dropout(states, 0.2, False), states.relu())
    assert torch.equal(fused.add_dropped(states, states, 0.2, False), states + states)


def test_queries_taken_to_the_states_find_what_keys_and_values_give():
    B, H, Q, T, D, d = 3, 2, 4, 7, 10, 5
    query, states = torch.randn(B, H, Q, d), torch.randn(B, T, D)
    to_key, to_value = torch.randn(H, d, D), torch.randn(H, d, D)
    bias = torch.randn(B, 1, Q, T)

    def reference(query, states, to_key, to_value, bias):
        key, value = (torch.einsum("btd,hkd->bhtk", states, weight) for weight in (to_key, to_value))
        return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)

    inputs = (query, states, to_key, to_value, bias)
    ours = gradients(lambda *parts: fused.attention_over_states(*parts, 0.0), *inputs)
    for mine, expected in zip(ours, gradients(reference, *inputs), strict=True):
        torch.testing.assert_close(mine, expected, rtol=1e-4, atol=1e-4)
