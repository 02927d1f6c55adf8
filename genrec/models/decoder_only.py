"""A decoder-only host: one causal stack reads the codes of the history and goes on with those of the next item.

Built as Llama is (Touvron et al. 2023, arXiv 2302.13971), not as T5: rotary positions, RMS norm before each
branch, SwiGLU, scaled scores. There is no encoder, so ``encode`` gives embedded codes, and all layers work in
``decode``: they run over the memories (the *prefix*) once, then over the continuations, each of which
attends to the prefix's keys and values and to its own earlier codes.

Codes of the history see themselves and earlier codes only, so the keys of a prefix of the history are a prefix
of its keys: all targets of a window train in one pass, each seeing as many items as ``visible_BP`` says and
starting at the position after them. Memories do not see each other, because what belongs to no history
item is visible to every target. The states of a memory without ``item_BT`` are a set: they all stand at position 0.

Shape letters: genrec/models/contracts.py, and H heads, d width of a head, I = H * d.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.config import ModelSettings
from genrec.models import fused
from genrec.models.attention import RMSNorm, additive, drawn_linear
from genrec.models.contracts import PAD_ITEM, Batch, DecoderCache, Memory
from genrec.models.host import Host
from genrec.products import Linear, linear
from genrec.tokenizer.sid_table import SidTable

STD = 0.02
"""Standard deviation that weights are drawn with; those that close a branch by sqrt(2 * layers) less."""
ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class Prefix:
    """The memories as the continuations see them.

    Attributes:
        keys_values: of each layer, keys (rotated) and values [B, H, T, d].
        mask: additive [B, 1, 1 or P, 1, T].
        begin_BP: int64 [B, 1 or P], position of each continuation's start token.
    """

    keys_values: list[tuple[Tensor, Tensor]]
    mask: Tensor
    begin_BP: Tensor


@dataclass
class DecoderOnlyCache:
    """Keys and values between decoding steps (:class:`~genrec.models.contracts.DecoderCache`).

    Attributes:
        prefix: the memories'.
        own: of each layer, keys and values [2, B, K, S, H, d] of the codes so far; empty before the first.
        filled: S, number of positions so far.
    """

    prefix: Prefix
    own: list[Tensor] = field(default_factory=list)
    filled: int = 0

    @torch.no_grad()
    def reorder(self, parents_BK: Tensor) -> None:
        """Let beam k of row b go on from its old beam ``parents_BK[b, k]`` (K may change)."""
        rows = torch.arange(parents_BK.shape[0], device=parents_BK.device)[:, None]
        self.own = [kept[:, rows, parents_BK] for kept in self.own]


class Layer(nn.Module):
    """Attention and SwiGLU, each normed before and added after."""

    def __init__(self, settings: ModelSettings) -> None:
        super().__init__()
        inner = settings.heads * settings.d_head
        closing = STD / (2 * settings.decoder_layers) ** 0.5
        self.heads = settings.heads
        self.dropout = settings.dropout
        self.attention_norm = RMSNorm(settings.d_model)
        self.qkv = drawn_linear(settings.d_model, 3 * inner, STD)
        self.out = drawn_linear(inner, settings.d_model, closing)
        self.feed_norm = RMSNorm(settings.d_model)
        self.gate_wide = drawn_linear(settings.d_model, 2 * settings.d_ff, STD)
        self.narrow = drawn_linear(settings.d_ff, settings.d_model, closing)

    def project(self, states: Tensor, turn: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """Queries (scaled), keys and values [..., S, H, d] of states [..., S, D]; ``turn`` from :func:`turns`."""
        qkv = self.qkv(self.attention_norm(states))
        query, key, value = qkv.view(*qkv.shape[:-1], 3, self.heads, -1).unbind(-3)
        return rotate(query, turn) * query.shape[-1] ** -0.5, rotate(key, turn), value

    def close(self, states: Tensor, mixed: Tensor) -> Tensor:
        """What follows the attention, whose heads gave ``mixed`` [..., S, I]; same shape as ``states``."""
        states = fused.add_dropped(states, self.out(mixed), self.dropout, self.training)
        gate, wide = self.gate_wide(self.feed_norm(states)).chunk(2, dim=-1)
        return fused.add_dropped(states, self.narrow(functional.silu(gate) * wide), self.dropout, self.training)

    def mix(self, query_BPSHd: Tensor, prefix: Prefix, layer: int, own: Tensor, causal: Tensor) -> Tensor:
        """Attention of continuations over the prefix and over themselves, in one softmax: [B, P, S, I].

        Args:
            query_BPSHd: of the S new positions.
            prefix: the memories.
            layer: which of the prefix's keys and values to read.
            own: keys and values [2, B, P, S', H, d] of the continuations' positions, the new ones last.
            causal: additive, broadcastable to [S, S'].
        """
        B, P, S, H, d = query_BPSHd.shape
        key_BHTd, value_BHTd = prefix.keys_values[layer]
        n_prefix = key_BHTd.shape[2]
        own_key, own_value = own.permute(0, 1, 4, 2, 3, 5).unbind(0)  # [B, H, P, S', d]
        query = query_BPSHd.permute(0, 3, 1, 2, 4)
        before = (query.flatten(2, 3) @ key_BHTd.transpose(-1, -2)).view(B, H, P, S, n_prefix)
        scores = torch.cat([before + prefix.mask, query @ own_key.transpose(-1, -2) + causal], dim=-1)
        weights = fused.dropout(scores.softmax(-1), self.dropout, self.training).to(value_BHTd.dtype)
        read = (weights[..., :n_prefix].flatten(2, 3) @ value_BHTd).view(B, H, P, S, d)
        return (read + weights[..., n_prefix:] @ own_value).permute(0, 2, 3, 1, 4).flatten(3)


class DecoderOnly(Host):
    """The decoder-only host; implements :class:`~genrec.models.contracts.Backbone`.

    It has ``decoder_layers`` layers; of ``ModelSettings``, ``encoder_layers`` and ``relative_*`` do not concern it.
    """

    def __init__(self, settings: ModelSettings, sid_table: SidTable) -> None:
        super().__init__(settings, sid_table, embedding_std=STD)
        self.layers = nn.ModuleList(Layer(settings) for _ in range(settings.decoder_layers))
        self.norm = RMSNorm(settings.d_model)
        self.head: Linear | None = None
        if not settings.tie_embeddings:
            self.head = drawn_linear(settings.d_model, sid_table.vocab_size, STD)

    def encode(self, batch: Batch) -> Memory:
        """The embedded codes of the history, T * L states; the layers read them in ``decode``."""
        history_BT = batch.history_BT
        if history_BT.shape[1] == 0:  # a batch of cold users only
            history_BT = history_BT.new_full((history_BT.shape[0], 1), PAD_ITEM)
        n_levels = self.sid_table.n_levels
        mask_BT = (history_BT != PAD_ITEM).repeat_interleave(n_levels, dim=1)
        item_T = torch.arange(history_BT.shape[1], device=history_BT.device).repeat_interleave(n_levels)
        return Memory(self._embedding(self.tokens(history_BT).flatten(1)), mask_BT, "id", item_T.expand_as(mask_BT))

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V]; see :meth:`genrec.models.contracts.Backbone.decode`."""
        embedded = inputs if inputs.is_floating_point() else self._embedding(inputs)
        prefix = self._read(memories, visible_BP)
        S = embedded.shape[2]
        place_S = torch.arange(S, device=embedded.device)
        turn = turns(prefix.begin_BP[..., None] + place_S, self.settings.d_head)
        causal = additive(place_S[None, :] <= place_S[:, None])
        states = self._dropped(embedded)
        for index, layer in enumerate(self._layers()):
            query, key, value = layer.project(states, turn)
            states = layer.close(states, layer.mix(query, prefix, index, torch.stack([key, value]), causal))
        return self._logits(states)

    def start(self, memories: Sequence[Memory]) -> DecoderOnlyCache:
        """Prepare step-by-step decoding; all layers run over the memories once."""
        return DecoderOnlyCache(self._read(memories, None))

    @torch.no_grad()
    def step(self, tokens_BK: Tensor, cache: DecoderCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam; for inference, without dropout and gradients."""
        assert isinstance(cache, DecoderOnlyCache)
        states = self._embedding(tokens_BK)[:, :, None]
        turn = turns(cache.prefix.begin_BP[..., None] + cache.filled, self.settings.d_head)
        own = []
        for index, layer in enumerate(self._layers()):
            query, key, value = layer.project(states, turn)
            new = torch.stack([key, value])
            own.append(torch.cat([cache.own[index], new], dim=3) if cache.filled else new)
            states = layer.close(states, layer.mix(query, cache.prefix, index, own[-1], states.new_zeros(())))
        cache.own, cache.filled = own, cache.filled + 1
        return self._logits(states[:, :, 0])

    def _read(self, memories: Sequence[Memory], visible_BP: Tensor | None) -> Prefix:
        """Run the layers over the memories; of the last one only keys and values are needed."""
        mask_BT = torch.cat([memory.mask_BT for memory in memories], dim=1)
        seen = additive(_seen_inside(memories) & mask_BT[:, None, :] | _itself(mask_BT))[:, None]
        place_BT, n_items_B1 = _places(memories, self.sid_table.n_levels)
        turn = turns(place_BT, self.settings.d_head)
        states = self._dropped(torch.cat([memory.states_BTD for memory in memories], dim=1))
        layers, keys_values = self._layers(), []
        for index, layer in enumerate(layers):
            query, key, value = (part.transpose(1, 2) for part in layer.project(states, turn))
            keys_values.append((key, value))
            if index < len(layers) - 1:
                dropout = layer.dropout if self.training else 0.0
                states = layer.close(states, fused.merged(fused.attention(query, key, value, seen, dropout)))
        views = [memory.visible(visible_BP) for memory in memories]
        rows = max(view.shape[1] for view in views)
        mask = additive(torch.cat([view.expand(-1, rows, -1) for view in views], dim=-1))
        items_BP = n_items_B1 if visible_BP is None else torch.minimum(visible_BP, n_items_B1)
        return Prefix(keys_values, mask[:, None, :, None], items_BP * self.sid_table.n_levels)

    def _layers(self) -> list[Layer]:
        return list(self.layers)  # type: ignore[arg-type]

    def _dropped(self, states: Tensor) -> Tensor:
        return fused.dropout(states, self.settings.dropout, self.training)

    def _logits(self, states: Tensor) -> Tensor:
        states = self.norm(states)
        return linear(states, self._embedding.weight) if self.head is None else self.head(states)


def _seen_inside(memories: Sequence[Memory]) -> Tensor:
    """bool [T, T], query by key: the same memory; in one with ``item_BT``, no later state."""
    blocks = []
    for memory in memories:
        size = memory.mask_BT.shape[1]
        block = torch.ones(size, size, dtype=torch.bool, device=memory.mask_BT.device)
        blocks.append(block if memory.item_BT is None else block.tril())
    return torch.block_diag(*blocks).bool()  # type: ignore[no-untyped-call]


def _itself(mask_BT: Tensor) -> Tensor:
    """bool [T, T]: a masked state sees itself, so that nothing in its row is undefined."""
    return torch.eye(mask_BT.shape[1], dtype=torch.bool, device=mask_BT.device)


def _places(memories: Sequence[Memory], n_levels: int) -> tuple[Tensor, Tensor]:
    """Positions [B, T] of all states and number of history items [B, 1].

    Item i begins at i * L, however many states a memory has of it; its states stand side by side.
    """
    places, counts = [], []
    for memory in memories:
        if memory.item_BT is None:
            places.append(torch.zeros_like(memory.mask_BT, dtype=torch.int64))
            continue
        item_BT = memory.item_BT.contiguous()
        index_T = torch.arange(item_BT.shape[1], device=item_BT.device)
        places.append(item_BT * n_levels + index_T - torch.searchsorted(item_BT, item_BT))
        counts.append(((item_BT + 1) * memory.mask_BT).amax(dim=1, keepdim=True))
    if not counts:
        counts.append(places[0].new_zeros(places[0].shape[0], 1))
    return torch.cat(places, dim=1), torch.stack(counts).amax(dim=0)


def turns(position: Tensor, width: int) -> tuple[Tensor, Tensor]:
    """Cosine and sine [..., 1, width / 2] of each pair of dimensions at int64 positions [...] (for all heads)."""
    exponent = torch.arange(0, width, 2, device=position.device) / width
    angle = position[..., None, None] * ROTARY_BASE**-exponent
    return angle.cos(), angle.sin()


def rotate(states: Tensor, turn: tuple[Tensor, Tensor]) -> Tensor:
    """Turn dimension pairs (i, i + d / 2) of states [..., H, d] by their positions (RoFormer, arXiv 2104.09864)."""
    cosine, sine = turn
    first, second = states.chunk(2, dim=-1)
    turned = torch.cat([first * cosine - second * sine, second * cosine + first * sine], dim=-1)
    return turned.to(states.dtype)
