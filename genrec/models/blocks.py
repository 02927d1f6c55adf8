"""T5-shaped encoder and decoder stacks: pre-norm residual layers, ReLU feed-forward, final norms.

Source: Raffel et al. 2020, with dropout where the released T5 has it (embeddings, attention weights,
inside the feed-forward, on every residual branch, after the final norm). The decoder takes
P continuations of one history at once: they attend to themselves apart ([B * P, S]) and to the memories
together ([B, P * S] queries against one set of keys and values a history).

Shape letters: genrec/models/contracts.py.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.config import ModelSettings
from genrec.models import fused
from genrec.models.attention import (
    CrossAttention,
    MemoryKeys,
    Packing,
    RelativeBias,
    RMSNorm,
    SelfAttention,
    additive,
    drawn_linear,
)


class FeedForward(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.wide = drawn_linear(d_model, d_ff, d_model**-0.5)
        self.narrow = drawn_linear(d_ff, d_model, d_ff**-0.5)
        self.dropout = dropout

    def forward(self, states: Tensor) -> Tensor:
        """Same shape as ``states`` [..., D]."""
        return self.narrow(fused.relu_dropout(self.wide(states), self.dropout, self.training))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normed before and added after."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(settings.d_model)
        self.attention = SelfAttention(settings.d_model, settings.heads, settings.d_head, settings.dropout)
        self.feed_norm = RMSNorm(settings.d_model)
        self.feed = FeedForward(settings.d_model, settings.d_ff, settings.dropout)
        self.dropout = settings.dropout

    def forward(self, states: Tensor, bias: Tensor, packing: Packing | None) -> Tensor:
        """Same shape as ``states`` [B, T, D] or packed [X, D]; ``bias`` additive [1 or B, H, T, T]."""
        states = self._add(states, self.attention(self.attention_norm(states), bias, packing))
        return self._add(states, self.feed(self.feed_norm(states)))

    def _add(self, states: Tensor, branch: Tensor) -> Tensor:
        return fused.add_dropped(states, branch, self.dropout, self.training)


class Encoder(nn.Module):
    """A stack of encoder layers over embedded tokens."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.bias = RelativeBias(
            settings.heads,
            settings.relative_buckets,
            settings.relative_max_distance,
            settings.d_model,
            bidirectional=True,
        )
        self.layers = nn.ModuleList(EncoderLayer(settings) for _ in range(settings.encoder_layers))
        self.norm = RMSNorm(settings.d_model)
        self.dropout = settings.dropout

    def forward(self, embedded_BTD: Tensor, mask: Tensor | None, packing: Packing | None = None) -> Tensor:
        """States [B, T, D]; those of padding mean nothing.

        Args:
            embedded_BTD: token embeddings.
            mask: additive, broadcastable to [B, H, T, T]; None where every token sees every token.
            packing: where the real tokens are; None: compute with padding too.
        """
        bias = self.bias(embedded_BTD.shape[1])
        if mask is not None:
            bias = bias + mask
        states = self._dropped(embedded_BTD if packing is None else packing.pack(embedded_BTD))
        for layer in self.layers:
            states = layer(states, bias, packing)
        states = self._dropped(self.norm(states))
        return states if packing is None else packing.unpack(states)

    def _dropped(self, states: Tensor) -> Tensor:
        return fused.dropout(states, self.dropout, self.training)


class DecoderLayer(nn.Module):
    """Self-attention, cross-attention and feed-forward."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        shape = (settings.d_model, settings.heads, settings.d_head, settings.dropout)
        self.attention_norm = RMSNorm(settings.d_model)
        self.attention = SelfAttention(*shape)
        self.cross_norm = RMSNorm(settings.d_model)
        self.cross = CrossAttention(*shape)
        self.feed_norm = RMSNorm(settings.d_model)
        self.feed = FeedForward(settings.d_model, settings.d_ff, settings.dropout)
        self.dropout = settings.dropout

    def forward(self, states_BPSD: Tensor, bias: Tensor, seen: MemoryKeys, layer: int) -> Tensor:
        """[B, P, S, D]; ``bias`` additive [1, H, S, S]."""
        own = self.attention(self.attention_norm(states_BPSD).flatten(0, 1), bias)
        return self._further(states_BPSD, own.view_as(states_BPSD), seen, layer)

    def step(self, states_BKSD: Tensor, bias_SH: Tensor, kept_S2XI: Tensor, seen: MemoryKeys, layer: int) -> Tensor:
        """One further position (S = 1) of each beam; see :meth:`SelfAttention.step`."""
        own = self.attention.step(self.attention_norm(states_BKSD).flatten(0, 2), bias_SH, kept_S2XI)
        return self._further(states_BKSD, own.view_as(states_BKSD), seen, layer)

    def _further(self, states: Tensor, own: Tensor, seen: MemoryKeys, layer: int) -> Tensor:
        """What follows self-attention, whose result is ``own``."""
        states = self._add(states, own)
        cross = self.cross(self.cross_norm(states).flatten(1, 2), seen, layer)
        states = self._add(states, cross.view_as(states))
        return self._add(states, self.feed(self.feed_norm(states)))

    def _add(self, states: Tensor, branch: Tensor) -> Tensor:
        return fused.add_dropped(states, branch, self.dropout, self.training)


class Decoder(nn.Module):
    """A stack of decoder layers; P continuations of a history share its keys and values."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.heads = settings.heads
        self.inner = settings.heads * settings.d_head
        self.bias = RelativeBias(
            settings.heads,
            settings.relative_buckets,
            settings.relative_max_distance,
            settings.d_model,
            bidirectional=False,
        )
        self.layers = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.decoder_layers))
        self.memory_keys_values = drawn_linear(
            settings.d_model, settings.decoder_layers * 2 * self.inner, settings.d_model**-0.5
        )
        self.norm = RMSNorm(settings.d_model)
        self.dropout = settings.dropout

    def read(
        self, states_BTD: Tensor, visible: Tensor, positions: int, packing: Packing | None, *, once: bool
    ) -> MemoryKeys:
        """Prepare the memories for the cross-attention of all layers.

        Args:
            states_BTD: all memories, one after the other.
            visible: bool [B, 1 or P, T], what each continuation may see.
            positions: P * S, decoder positions of all continuations of a history.
            packing: where there are states; None: compute with padding too.
            once: the memories are read once only, not step by step.
        """
        B, T, D = states_BTD.shape
        shape = (len(self.layers), 2, self.heads, self.inner // self.heads)
        weight, keys_values = None, None
        direct = once and states_BTD.device.type == "cpu" and not fused.sharded(self.memory_keys_values.weight)
        if direct and self._few(positions, T, D):
            weight = self.memory_keys_values.weight.view(*shape, D)
        else:
            projected = self.memory_keys_values(states_BTD if packing is None else packing.pack(states_BTD))
            projected = projected if packing is None else packing.unpack(projected)
            keys_values = projected.view(B, T, *shape)
        if not visible.is_cuda and bool(visible.all()) and T > 0:
            return MemoryKeys(states_BTD, weight, keys_values, None, None)
        if visible.shape[1] > 1:
            visible = visible.repeat_interleave(positions // visible.shape[1], dim=1)
        any_visible = visible.any(dim=-1, keepdim=True).to(states_BTD.dtype)
        return MemoryKeys(states_BTD, weight, keys_values, additive(visible)[:, None], any_visible)

    def _few(self, positions: int, T: int, D: int) -> bool:
        """Are so few positions asking that keys and values of the states cost more than they save?"""
        product = D * self.inner
        return positions * (product + T * (self.heads * D - self.inner)) < T * product

    def forward(self, embedded_BPSD: Tensor, seen: MemoryKeys) -> Tensor:
        """States [B, P, S, D] after the final norm, each position seeing itself and earlier ones."""
        S = embedded_BPSD.shape[2]
        earlier = torch.ones(S, S, dtype=torch.bool, device=embedded_BPSD.device).tril()
        bias = self.bias(S) + additive(earlier)
        states = self._dropped(embedded_BPSD)
        for index, layer in enumerate(self.layers):
            states = layer(states, bias, seen, index)
        return self._dropped(self.norm(states))

    def step(self, embedded_BKD: Tensor, seen: MemoryKeys, kept: Tensor, bias_SH: Tensor) -> Tensor:
        """States [B, K, D] of one further position of each beam.

        Args:
            embedded_BKD: the position's input.
            seen: the memories.
            kept: keys and values [S, layers, 2, B * K, I] up to this position, whose place is written here.
            bias_SH: position bias of the S positions, the new one last.
        """
        states = embedded_BKD[:, :, None]
        for index, layer in enumerate(self.layers):
            states = layer.step(states, bias_SH, kept[:, index], seen, index)  # type: ignore[operator]
        return self.norm(states[:, :, 0])

    def _dropped(self, states: Tensor) -> Tensor:
        return fused.dropout(states, self.dropout, self.training)
