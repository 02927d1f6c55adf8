"""T5-shaped encoder and decoder stacks: pre-norm residual layers, ReLU feed-forward, final norms.

Source: Raffel et al. 2020, with dropout where the released T5 has it (embeddings, attention weights,
inside the feed-forward, on every residual branch, after the final norm). The decoder takes
P continuations of one history at once: they attend to themselves apart ([B * P, S]) and to the memories
together ([B, P * S] queries against one set of keys and values a history).

Shape letters: genrec/models/contracts.py.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.config import ModelSettings
from genrec.models.attention import CrossAttention, RelativeBias, RMSNorm, SelfAttention, additive, drawn_linear

KeysValues = tuple[Tensor, Tensor]


class FeedForward(nn.Module):
    """Linear, ReLU, linear."""

    def __init__(self, d_model: int, d_ff: int, dropout: float) -> None:
        super().__init__()
        self.wide = drawn_linear(d_model, d_ff, d_model**-0.5)
        self.narrow = drawn_linear(d_ff, d_model, d_ff**-0.5)
        self.dropout = dropout

    def forward(self, states: Tensor) -> Tensor:
        """Same shape as ``states`` [..., D]."""
        hidden = functional.relu(self.wide(states))
        return self.narrow(functional.dropout(hidden, self.dropout, self.training))


class EncoderLayer(nn.Module):
    """Self-attention and feed-forward, each normed before and added after."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(settings.d_model)
        self.attention = SelfAttention(settings.d_model, settings.heads, settings.d_head, settings.dropout)
        self.feed_norm = RMSNorm(settings.d_model)
        self.feed = FeedForward(settings.d_model, settings.d_ff, settings.dropout)
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, states: Tensor, bias: Tensor) -> Tensor:
        """[B, T, D]; ``bias`` additive [1 or B, H, T, T]."""
        states = states + self.dropout(self.attention(self.attention_norm(states), bias)[0])
        return states + self.dropout(self.feed(self.feed_norm(states)))


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
        self.dropout = nn.Dropout(settings.dropout)

    def forward(self, embedded_BTD: Tensor, mask: Tensor | None) -> Tensor:
        """States [B, T, D].

        Args:
            embedded_BTD: token embeddings.
            mask: additive, broadcastable to [B, H, T, T]; None where every token sees every token.
        """
        bias = self.bias(embedded_BTD.shape[1])
        if mask is not None:
            bias = bias + mask
        states = self.dropout(embedded_BTD)
        for layer in self.layers:
            states = layer(states, bias)
        return self.dropout(self.norm(states))


@dataclass(frozen=True)
class MemoryKeys:
    """Memories as cross-attention reads them.

    Attributes:
        keys_values: of each layer, [B, H, T, d].
        mask: additive [B, 1, 1 or P * S, T]; None: everything is visible.
        any_visible: float [B, 1 or P * S, 1], 0 where a continuation sees nothing: then its cross-attention
            adds nothing; None: all see something.
    """

    keys_values: list[KeysValues]
    mask: Tensor | None
    any_visible: Tensor | None


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
        self.dropout = nn.Dropout(settings.dropout)

    def forward(
        self, states_BPSD: Tensor, bias: Tensor, seen: MemoryKeys, layer: int, kept: KeysValues | None = None
    ) -> tuple[Tensor, KeysValues]:
        """[B, P, S, D] and the self-attention's keys and values [B * P, H, S, d] so far."""
        B, P = states_BPSD.shape[:2]
        own, kept = self.attention(self.attention_norm(states_BPSD).flatten(0, 1), bias, kept)
        states = states_BPSD + self.dropout(own.unflatten(0, (B, P)))
        cross = self.cross(self.cross_norm(states).flatten(1, 2), seen.keys_values[layer], seen.mask)
        if seen.any_visible is not None:
            cross = cross * seen.any_visible
        states = states + self.dropout(cross.unflatten(1, states.shape[1:3]))
        return states + self.dropout(self.feed(self.feed_norm(states))), kept


class Decoder(nn.Module):
    """A stack of decoder layers; P continuations of a history share its keys and values."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        self.bias = RelativeBias(
            settings.heads,
            settings.relative_buckets,
            settings.relative_max_distance,
            settings.d_model,
            bidirectional=False,
        )
        self.layers = nn.ModuleList(DecoderLayer(settings) for _ in range(settings.decoder_layers))
        self.norm = RMSNorm(settings.d_model)
        self.dropout = nn.Dropout(settings.dropout)

    def read(self, states_BTD: Tensor, visible: Tensor, n_positions: int) -> MemoryKeys:
        """Project the memories once for all layers' cross-attention.

        Args:
            states_BTD: all memories, one after the other.
            visible: bool [B, 1 or P, T], what each continuation may see.
            n_positions: S, decoder positions of a continuation.
        """
        keys_values = [layer.cross.keys_values(states_BTD) for layer in self.layers]  # type: ignore[operator,union-attr]
        if not visible.is_cuda and bool(visible.all()) and visible.shape[-1] > 0:
            return MemoryKeys(keys_values, None, None)
        if visible.shape[1] > 1:
            visible = visible.repeat_interleave(n_positions, dim=1)
        any_visible = visible.any(dim=-1, keepdim=True).to(states_BTD.dtype)
        return MemoryKeys(keys_values, additive(visible)[:, None], any_visible)

    def forward(
        self, embedded_BPSD: Tensor, seen: MemoryKeys, kept: list[KeysValues] | None = None
    ) -> tuple[Tensor, list[KeysValues]]:
        """States [B, P, S, D] after the final norm, and each layer's keys and values so far.

        Args:
            embedded_BPSD: embedded inputs of S new positions.
            seen: the memories.
            kept: keys and values of earlier positions [B * P, H, S', d], of each layer.
        """
        before = 0 if kept is None else kept[0][0].shape[-2]
        total = before + embedded_BPSD.shape[2]
        bias = self.bias(total, before)
        if total - before > 1:
            future = torch.ones(total - before, total, dtype=torch.bool, device=bias.device).triu(before + 1)
            bias = bias + additive(~future)
        states, new = self.dropout(embedded_BPSD), []
        for index, layer in enumerate(self.layers):
            states, keys_values = layer(states, bias, seen, index, None if kept is None else kept[index])
            new.append(keys_values)
        return self.dropout(self.norm(states)), new
