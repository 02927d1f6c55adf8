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
from dataclasses import dataclass
from functools import cached_property, lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.models import fused
from genrec.products import Linear

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
        bucket_QT = _bucket_table(
            n_positions, self.bidirectional, self.weight.shape[0], self.max_distance, self.weight.device
        )
        return functional.embedding(bucket_QT[first_query:], self.weight).permute(2, 0, 1).contiguous()[None]


@lru_cache(maxsize=256)
def _bucket_table(n: int, bidirectional: bool, buckets: int, max_distance: int, device: torch.device) -> Tensor:
    """int64 [n, n], bucket of every query and key; the same few lengths come again and again."""
    with torch.inference_mode(False):  # kept for calls that train, too
        position = torch.arange(n, device=device)
        return relative_buckets(
            position[None, :] - position[:, None],
            bidirectional=bidirectional,
            buckets=buckets,
            max_distance=max_distance,
        )


class RMSNorm(nn.Module):
    """T5's layer norm: scale by the root mean square, no mean, no bias; statistics in float32."""

    def __init__(self, width: int, eps: float = 1e-6) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, states: Tensor) -> Tensor:
        """Same shape as ``states`` [..., D]."""
        return fused.rms_norm(states, self.weight, self.eps)


def drawn_linear(d_in: int, d_out: int, std: float) -> Linear:
    """A linear layer without bias, weights drawn with standard deviation ``std``."""
    layer = Linear(d_in, d_out, bias=False)
    nn.init.normal_(layer.weight, std=std)
    return layer


@dataclass(frozen=True)
class Packing:
    """Where the real positions of a padded batch are, so that only they are computed with.

    Attributes:
        shape: (B, T).
        places_X: int64 [X], real positions in the flattened batch; X = their number.
    """

    shape: tuple[int, int]
    places_X: Tensor

    @classmethod
    def of(cls, mask_BT: Tensor) -> Packing:
        """The positions where ``mask_BT`` is True."""
        return cls((mask_BT.shape[0], mask_BT.shape[1]), mask_BT.flatten().nonzero()[:, 0])

    def pack(self, states_BTD: Tensor) -> Tensor:
        """[B, T, D] -> [X, D]."""
        return states_BTD.flatten(0, 1).index_select(0, self.places_X)

    def unpack(self, states_XD: Tensor) -> Tensor:
        """[X, D] -> [B, T, D]; what stands at padding is finite, and nothing is to be read there."""
        width = states_XD.shape[-1]
        if torch.is_grad_enabled() or len(states_XD) == 0:
            padded = states_XD.new_zeros(self.shape[0] * self.shape[1], width)
            padded.index_copy_(0, self.places_X, states_XD)
        else:  # one pass instead of two, with any real state at padding
            padded = states_XD.index_select(0, self._sources)
        return padded.view(*self.shape, width)

    @cached_property
    def _sources(self) -> Tensor:
        """int64 [B * T], which packed state stands at each position; 0 at padding."""
        sources = self.places_X.new_zeros(self.shape[0] * self.shape[1])
        return sources.index_copy_(0, self.places_X, torch.arange(len(self.places_X), device=self.places_X.device))


class SelfAttention(nn.Module):
    """Attention of a sequence over itself."""

    def __init__(self, d_model: int, heads: int, d_head: int, dropout: float) -> None:
        super().__init__()
        inner = heads * d_head
        self.heads = heads
        self.dropout = dropout
        self.qkv = drawn_linear(d_model, 3 * inner, d_model**-0.5)
        with torch.no_grad():  # T5 draws queries narrower in place of scaling the scores
            self.qkv.weight[:inner] *= d_head**-0.5
        self.out = drawn_linear(inner, d_model, inner**-0.5)

    def forward(self, states: Tensor, bias: Tensor, packing: Packing | None = None) -> Tensor:
        """Same shape as ``states``.

        Args:
            states: [B, T, D], or [X, D] if packed.
            bias: additive, broadcastable to [B, H, T, T]: position bias and mask in one.
            packing: says where packed states stand.
        """
        qkv = self.qkv(states)
        if packing is not None:
            qkv = packing.unpack(qkv)
        mixed = fused.self_attention(qkv, bias, self.heads, self.dropout if self.training else 0.0)
        return self.out(mixed if packing is None else packing.pack(mixed))

    def step(self, states_XD: Tensor, bias_SH: Tensor, kept_S2XI: Tensor) -> Tensor:
        """Attention of one new position of X sequences over the earlier ones and itself; [X, D].

        With so few positions, products and sums beat matrix products.

        Args:
            states_XD: the new position of each sequence.
            bias_SH: position bias of the S positions, the new one last.
            kept_S2XI: keys and values of all positions, inner width I = H * d; the last place is written here.
        """
        query, key_value = self.qkv(states_XD).tensor_split((self.out.in_features,), dim=-1)
        S, _, X, inner = kept_S2XI.shape
        kept_S2XI[-1] = key_value.reshape(X, 2, inner).transpose(0, 1)
        key_SXHd, value_SXHd = kept_S2XI.view(S, 2, X, self.heads, -1).unbind(1)
        scores_SXH = (key_SXHd * query.reshape(X, self.heads, -1)).sum(-1) + bias_SH[:, None]
        mixed = (scores_SXH.softmax(0)[..., None] * value_SXHd).sum(0)
        return self.out(mixed.flatten(1))


@dataclass(frozen=True)
class MemoryKeys:
    """Memories as the cross-attention of every layer reads them.

    Attributes:
        states_BTD: the states themselves.
        weight: [layers, 2, H, d, D], what would make keys and values of them, where those are not worth computing.
        keys_values: [B, T, layers, 2, H, d]; exactly one of the two is there.
        mask: additive [B, 1, 1 or P * S, T]; None: everything is visible.
        any_visible: float [B, 1 or P * S, 1], 0 where a continuation sees nothing: then its cross-attention
            adds nothing; None: all see something.
    """

    states_BTD: Tensor
    weight: Tensor | None
    keys_values: Tensor | None
    mask: Tensor | None
    any_visible: Tensor | None


class CrossAttention(nn.Module):
    """Attention of decoder positions over memories; T5 gives it no position bias.

    Keys and values come from outside: the decoder computes those of all its layers in one product.
    """

    def __init__(self, d_model: int, heads: int, d_head: int, dropout: float) -> None:
        super().__init__()
        inner = heads * d_head
        self.heads = heads
        self.dropout = dropout
        self.query = drawn_linear(d_model, inner, (d_model * d_head) ** -0.5)
        self.out = drawn_linear(inner, d_model, inner**-0.5)

    def forward(self, states_BQD: Tensor, seen: MemoryKeys, layer: int) -> Tensor:
        """[B, Q, D]: what the memories have to say to each position, for decoder layer ``layer``."""
        query = self.query(states_BQD).view(*states_BQD.shape[:-1], self.heads, -1).transpose(1, 2)
        dropout = self.dropout if self.training else 0.0
        if seen.keys_values is None:
            assert seen.weight is not None
            to_key, to_value = seen.weight[layer].to(query.dtype)
            states = seen.states_BTD.to(query.dtype)
            mixed = fused.attention_over_states(query, states, to_key, to_value, seen.mask, dropout)
        else:
            key, value = seen.keys_values[:, :, layer].permute(2, 0, 3, 1, 4)
            mixed = fused.attention(query, key, value, seen.mask, dropout)
        found = self.out(fused.merged(mixed))
        return found if seen.any_visible is None else found * seen.any_visible


def additive(visible: Tensor) -> Tensor:
    """bool mask, True = may be seen, as a tensor to add to scores."""
    return torch.zeros(visible.shape, device=visible.device).masked_fill_(~visible, MASKED)
