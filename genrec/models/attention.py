"""Attention as T5 has it: relative position bias, RMS norm, no biases in linear layers, no scaling.

Source: Raffel et al. 2020, "Exploring the Limits of Transfer Learning with a Unified Text-to-Text
Transformer", section 2.1, and the published T5 weights, whose numbers these modules reproduce
(tests/unit/models). Notable here: the position bias and the padding mask are one additive tensor,
computed once a forward pass and shared by all layers; queries, keys and values are one matrix product.

Shape letters: B batch, T key positions, Q query positions, H heads, D model width, P continuations of
one history, S decoder positions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

MASKED = -1e9
"""Added to a score that must not count. Finite, so that a row with nothing to see stays finite in bf16 too."""


def relative_buckets(distance: Tensor, *, bidirectional: bool, buckets: int, max_distance: int) -> Tensor:
    """Bucket of each relative position, as T5 defines them.

    Half of the buckets of a direction stand for exact distances, the others for logarithmically wider
    ranges up to ``max_distance``; anything further shares the last bucket.

    Args:
        distance: int64, key position - query position, any shape.
        bidirectional: True: half of the buckets are for keys after the query. False: those share bucket 0.
        buckets: number of buckets.
        max_distance: distance from which on all share one bucket.
    """
    if bidirectional:
        buckets //= 2
        side = (distance > 0).long() * buckets
        gap = distance.abs()
    else:
        side = torch.zeros_like(distance)
        gap = (-distance).clamp(min=0)
    exact = buckets // 2
    growth = torch.log(gap.clamp(min=1).float() / exact) / math.log(max_distance / exact)
    wide = (exact + (growth * (buckets - exact)).long()).clamp(max=buckets - 1)
    return side + torch.where(gap < exact, gap, wide)


class RelativeBias(nn.Module):
    """Learned bias of each head for each bucket of relative positions."""

    def __init__(self, heads: int, buckets: int, max_distance: int, d_model: int, *, bidirectional: bool) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(buckets, heads) * d_model**-0.5)
        self.max_distance = max_distance
        self.bidirectional = bidirectional

    def forward(self, n_positions: int, first_query: int = 0) -> Tensor:
        """Float [1, H, Q, T] for keys 0..T-1 and queries first_query..T-1, T = ``n_positions``."""
        position = torch.arange(n_positions, device=self.weight.device)
        bucket_QT = relative_buckets(
            position[None, :] - position[first_query:, None],
            bidirectional=self.bidirectional,
            buckets=self.weight.shape[0],
            max_distance=self.max_distance,
        )
        return functional.embedding(bucket_QT, self.weight).permute(2, 0, 1)[None]


class RMSNorm(nn.Module):
    """T5's layer norm: scale by the root mean square, no mean, no bias; statistics in float32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        """Same shape as ``states`` [..., D]."""
        return functional.rms_norm(states, self.weight.shape, self.weight, self.eps)


def drawn_linear(d_in: int, d_out: int, std: float) -> nn.Linear:
    """A linear layer without bias, weights drawn with standard deviation ``std``."""
    layer = nn.Linear(d_in, d_out, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


def _heads(states: Tensor, heads: int) -> Tensor:
    """[B, T, H*d] -> [B, H, T, d]."""
    return states.view(*states.shape[:-1], heads, -1).transpose(-3, -2)


def _merged(states: Tensor) -> Tensor:
    """[B, H, T, d] -> [B, T, H*d]."""
    return states.transpose(-3, -2).flatten(-2)


class SelfAttention(nn.Module):
    """Attention of a sequence over itself, or of new positions over kept keys and values."""

    def __init__(self, d_model: int, heads: int, d_head: int, dropout: float) -> None:
        super().__init__()
        inner = heads * d_head
        self.heads = heads
        self.dropout = dropout
        self.qkv = drawn_linear(d_model, 3 * inner, d_model**-0.5)
        with torch.no_grad():  # T5 draws queries narrower in place of scaling the scores
            self.qkv.weight[:inner] *= d_head**-0.5
        self.out = drawn_linear(inner, d_model, inner**-0.5)

    def forward(
        self, states: Tensor, bias: Tensor | None, kept: tuple[Tensor, Tensor] | None = None
    ) -> tuple[Tensor, tuple[Tensor, Tensor]]:
        """Attend over ``kept`` keys and values [B, H, T', d], if any, and then over ``states`` [B, T, D].

        Args:
            states: [B, T, D].
            bias: additive, broadcastable to [B, H, T, T' + T]: position bias and mask in one; None: nothing to add.
            kept: keys and values of earlier positions.

        Returns:
            [B, T, D] and the keys and values of all positions so far.
        """
        query, key, value = (_heads(part, self.heads) for part in self.qkv(states).chunk(3, dim=-1))
        if kept is not None:
            key, value = torch.cat([kept[0], key], dim=-2), torch.cat([kept[1], value], dim=-2)
        mixed = attend(query, key, value, bias, self.dropout if self.training else 0.0)
        return self.out(_merged(mixed)), (key, value)


class CrossAttention(nn.Module):
    """Attention of decoder positions over memories; T5 gives it no position bias."""

    def __init__(self, d_model: int, heads: int, d_head: int, dropout: float) -> None:
        super().__init__()
        inner = heads * d_head
        self.heads = heads
        self.dropout = dropout
        self.query = drawn_linear(d_model, inner, (d_model * d_head) ** -0.5)
        self.key_value = drawn_linear(d_model, 2 * inner, d_model**-0.5)
        self.out = drawn_linear(inner, d_model, inner**-0.5)

    def keys_values(self, memory_BTD: Tensor) -> tuple[Tensor, Tensor]:
        """Keys and values [B, H, T, d]: once a history, whatever the number of its continuations."""
        key, value = self.key_value(memory_BTD).chunk(2, dim=-1)
        return _heads(key, self.heads), _heads(value, self.heads)

    def forward(self, states_BQD: Tensor, keys_values: tuple[Tensor, Tensor], mask: Tensor | None) -> Tensor:
        """[B, Q, D]; ``mask`` additive, broadcastable to [B, 1, Q, T], None where all is visible."""
        query = _heads(self.query(states_BQD), self.heads)
        mixed = attend(query, *keys_values, mask, self.dropout if self.training else 0.0)
        return self.out(_merged(mixed))


def attend(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, dropout: float) -> Tensor:
    """softmax(q k^T + bias) v without scaling; [B, H, Q, d]."""
    if bias is not None and bias.dtype != query.dtype:
        bias = bias.to(query.dtype)
    return functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, dropout_p=dropout, scale=1.0)


def additive(visible: Tensor) -> Tensor:
    """bool mask, True = may be seen, as a tensor to add to scores."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, MASKED)
