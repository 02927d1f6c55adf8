"""TIGER's network for inference on a CPU, with whatever depends on the weights alone computed once.

With few beams a decoding step is many small operations: calls of modules, norms of five operations each, products
whose weights come from memory. Here the gains of norms are part of the matrix that follows, matrices lie as their
products read them, a residual sum is part of the product that ends its branch, and the queries, keys and values of
the first layers, which depend on the token alone, are rows of a table. The numbers are those of
:class:`~genrec.models.tiger.Tiger` but for rounding; docs/benchmarks.md has the measurement. A single history goes
through genrec/models/native.py instead, where that can be had: the same arithmetic without a call per operation.

A fold is a copy of the weights. A model drops it in training mode, wherever a gradient may be asked for and when
weights are loaded; :meth:`Folded.holds` finds the changes besides, but for those through ``weight.data``.

Shape letters: genrec/models/contracts.py; I = H * d, X = B * K rows of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.models.attention import Packing, RMSNorm, additive
from genrec.models.blocks import Decoder, Encoder
from genrec.models.native import OneHistory, OneMemory, library
from genrec.products import Linear, Product

LARGEST_TABLE = 2**23
"""Numbers in a table of first-layer projections above which they are computed instead (32 MiB)."""
SHORT = 128
"""Positions up to which the encoder's position biases are kept."""


@dataclass(frozen=True, eq=False)
class _Encoding:
    """Matrices of an encoder layer; those after a norm hold its gain."""

    qkv: Product
    out: Product
    wide: Product
    narrow: Product


@dataclass(frozen=True, eq=False)
class _Decoding(_Encoding):
    """Those of a decoder layer."""

    query: Product
    cross_out: Product
    keys_values: Product


@dataclass(eq=False)
class FoldedCache:
    """Keys and values between decoding steps (:class:`~genrec.models.contracts.DecoderCache`).

    Attributes:
        folded: whose cache it is.
        rows: B.
        memory: of each layer, keys and values of the memories, both [B, H, T, d]; or those of one history
            as :class:`OneHistory` reads them.
        mask: additive [B, 1, 1, T]; None: everything is visible.
        any_visible: float [B, 1, 1], 0 where a row sees nothing; None: all see something.
        kept: keys and values of the earlier positions [S, layers, X, 2 * I] and, after ``reorder``, room for one
            more; None before the first.
        filled: number of earlier positions.
    """

    folded: Folded
    rows: int
    memory: list[tuple[Tensor, Tensor]] | OneMemory
    mask: Tensor | None
    any_visible: Tensor | None
    kept: Tensor | None = None
    filled: int = 0

    @torch.no_grad()
    def reorder(self, parents_BK: Tensor) -> None:
        """Let beam k of row b go on from its old beam ``parents_BK[b, k]`` (K may change)."""
        assert self.kept is not None
        old, chosen = self.kept[: self.filled], parents_BK
        if self.rows > 1:
            chosen = chosen + torch.arange(0, old.shape[2], old.shape[2] // self.rows)[:, None]
        self.kept = old.new_empty(self.filled + 1, old.shape[1], chosen.numel(), old.shape[3])
        torch.index_select(old, 2, chosen.flatten(), out=self.kept[: self.filled])


@dataclass(eq=False)
class Folded:
    """A copy of a TIGER network's weights, arranged for inference.

    Attributes:
        weights: the parameters that were copied.
        stamp: their state then.
        heads: H.
        embedding: [V, D].
        encoder: its layers.
        decoder: its layers.
        encoder_norm: [D], gain of the encoder's last norm.
        head: D to V.
        step_bias: [S, S, H], the decoder's position bias of each position for each earlier one.
        floor: what keeps a norm from zero.
        encoder_table: [V, 3 * I], queries, keys and values of each token in the first layer; None: too large to keep.
        decoder_table: likewise.
        biases: the encoder's position biases [H, T, T] by T.
        alone: encoder and decoder for one history; None: not asked for yet, or not to be had.
    """

    weights: list[nn.Parameter]
    stamp: list[tuple[int, int]]
    heads: int
    embedding: Tensor
    encoder: list[_Encoding]
    decoder: list[_Decoding]
    encoder_norm: Tensor
    head: Product
    step_bias: Tensor
    floor: Tensor
    encoder_table: Tensor | None = None
    decoder_table: Tensor | None = None
    biases: dict[int, Tensor] = field(default_factory=dict)
    alone: tuple[OneHistory, OneHistory] | None = None

    @classmethod
    def of(cls, embedding: Tensor, encoder: Encoder, decoder: Decoder, head: Tensor, levels: int) -> Folded:
        """Fold a network's weights.

        Args:
            embedding: code embeddings [V, D].
            encoder: the encoder.
            decoder: the decoder.
            head: [V, D], what makes logits of the decoder's states.
            levels: S, positions that the decoder writes at most.
        """
        weights = [*encoder.parameters(), *decoder.parameters()]
        weights += [weight for weight in (embedding, head) if isinstance(weight, nn.Parameter)]
        with torch.inference_mode(False), torch.no_grad():
            width = embedding.shape[1]
            layers: list[Any] = list(decoder.layers)
            shape = (len(decoder.layers), 2 * decoder.inner, width)
            read = decoder.memory_keys_values.weight.view(shape)
            folded = cls(
                weights=weights,
                stamp=_stamp(weights),
                heads=decoder.heads,
                embedding=embedding.detach(),
                encoder=[_Encoding(**_matrices(layer)) for layer in encoder.layers],
                decoder=[
                    _Decoding(
                        **_matrices(layer),
                        query=_after(layer.cross_norm, layer.cross.query),
                        cross_out=Product(layer.cross.out.weight),
                        keys_values=Product(into),
                    )
                    for layer, into in zip(layers, read, strict=True)
                ],
                encoder_norm=encoder.norm.weight * width**0.5,
                head=Product(head * (decoder.norm.weight * width**0.5)),
                step_bias=decoder.bias(levels)[0].permute(1, 2, 0).contiguous(),
                floor=torch.tensor((width * encoder.norm.eps) ** 0.5),
            )
            if len(embedding) * 3 * decoder.inner <= LARGEST_TABLE:
                normed = folded._normed(embedding)
                folded.encoder_table = folded.encoder[0].qkv(normed)
                folded.decoder_table = folded.decoder[0].qkv(normed)
        return folded

    def holds(self) -> bool:
        """Are the weights still those that were copied?"""
        return _stamp(self.weights) == self.stamp

    def encode(self, tokens_BT: Tensor, mask: Tensor | None, packing: Packing | None, encoder: Encoder) -> Tensor:
        """States [B, T, D]; see :meth:`genrec.models.blocks.Encoder.forward`."""
        B, T = tokens_BT.shape
        bias = self._bias(T, encoder)
        if mask is not None:
            bias = bias + mask
        tokens = tokens_BT.flatten()
        alone = self._alone() if B == 1 and packing is None else None
        if alone is not None:
            return (alone[0].encode(tokens, bias.view(bias.shape[-3:])) * self.encoder_norm)[None]
        states = self.embedding[tokens if packing is None else tokens[packing.places_X]]
        for index, layer in enumerate(self.encoder):
            if index == 0 and self.encoder_table is not None:
                qkv = self.encoder_table[tokens]
            else:
                qkv = layer.qkv(self._normed(states))
                qkv = qkv if packing is None else packing.unpack(qkv).flatten(0, 1)
            mixed = self._over_itself(qkv.view(B, T, 3, self.heads, -1), bias)
            states = layer.out.add_to(states, mixed if packing is None else mixed[packing.places_X])
            states = self._fed(states, layer)
        states = self._normed(states).mul_(self.encoder_norm)
        return states.view(B, T, -1) if packing is None else packing.unpack(states)

    def read(self, states_BTD: Tensor, visible_B1T: Tensor, packing: Packing | None) -> FoldedCache:
        """Keys and values of the memories, for :meth:`step`.

        Args:
            states_BTD: all memories, one after the other.
            visible_B1T: bool, what may be seen.
            packing: where there are states; None: compute with padding too.
        """
        B, T, _ = states_BTD.shape
        all_visible = T > 0 and bool(visible_B1T.all())
        alone = self._alone() if B == 1 and packing is None and all_visible else None
        if alone is not None:
            return FoldedCache(self, 1, alone[1].read(states_BTD[0]), None, None)
        packed = states_BTD.flatten(0, 1) if packing is None else packing.pack(states_BTD)
        memory = []
        for layer in self.decoder:
            both = layer.keys_values(packed)
            both = both if packing is None else packing.unpack(both)
            key, value = both.view(B, T, 2, self.heads, -1).permute(2, 0, 3, 1, 4)
            memory.append((key, value))
        if all_visible:
            return FoldedCache(self, B, memory, None, None)
        any_visible = visible_B1T.any(dim=-1, keepdim=True).to(states_BTD.dtype)
        return FoldedCache(self, B, memory, additive(visible_B1T)[:, None], any_visible)

    def step(self, tokens_BK: Tensor, cache: FoldedCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam."""
        B, K = tokens_BK.shape
        tokens = tokens_BK.flatten()
        inner = self.step_width
        position, cache.filled = cache.filled, cache.filled + 1
        if cache.kept is None or cache.kept.shape[0] == position:
            room = self.embedding.new_empty(1, len(self.decoder), B * K, 2 * inner)
            cache.kept = room if cache.kept is None else torch.cat([cache.kept, room])
        bias_SH = self.step_bias[position, : position + 1]
        if isinstance(cache.memory, OneMemory):
            assert self.alone is not None
            return self.alone[1].step(tokens, position, cache.kept, bias_SH, cache.memory)[None]
        states = self.embedding[tokens]
        for index, layer in enumerate(self.decoder):
            if index == 0 and self.decoder_table is not None:
                qkv = self.decoder_table[tokens]
            else:
                qkv = layer.qkv(self._normed(states))
            query, key_value = qkv.tensor_split((inner,), dim=1)
            kept = cache.kept[:, index]
            kept[position].copy_(key_value)
            mixed = key_value[:, inner:] if position == 0 else self._over_earlier(query, kept, bias_SH[:, None])
            states = layer.out.add_to(states, mixed)
            query = layer.query(self._normed(states)).view(B, K, self.heads, -1)
            mixed = self._over_memories(query, *cache.memory[index], cache)
            states = layer.cross_out.add_to(states, mixed)
            states = self._fed(states, layer)
        return self.head(self._normed(states)).view(B, K, -1)

    @property
    def step_width(self) -> int:
        """I."""
        return self.decoder[0].out.inputs

    def _alone(self) -> tuple[OneHistory, OneHistory] | None:
        """Encoder and decoder for one history; None: not to be had."""
        if self.alone is None and library() is not None:
            floor = float(self.floor)
            encoder = OneHistory(self.embedding, self.encoder_table, _by_name(self.encoder), self.heads, floor)
            tables = (self.embedding, self.decoder_table)
            self.alone = encoder, OneHistory(*tables, _by_name(self.decoder), self.heads, floor, self.head)
        return self.alone

    def _fed(self, states: Tensor, layer: _Encoding) -> Tensor:
        """The states [X, D] plus the feed-forward part's result."""
        return layer.narrow.add_to(states, layer.wide.relu(self._normed(states)))

    def _normed(self, states: Tensor) -> Tensor:
        """T5's layer norm of [X, D] without gain, divided by sqrt(D): x / sqrt(sum of x^2 + D * eps)."""
        length = torch.linalg.vector_norm(states, dim=-1, keepdim=True)
        return states / torch.hypot(length, self.floor, out=length)

    def _bias(self, length: int, encoder: Encoder) -> Tensor:
        """[H, T, T] for ``length`` = T."""
        found = self.biases.get(length)
        if found is None:
            found = encoder.bias(length)[0]
            if length <= SHORT:
                self.biases[length] = found
        return found

    def _over_itself(self, qkv: Tensor, bias: Tensor) -> Tensor:
        """[B * T, I] from queries, keys and values [B, T, 3, H, d] and an additive bias [(1 or B,) H, T, T]."""
        if qkv.shape[0] > 1:
            query, key, value = qkv.permute(2, 0, 3, 1, 4)
            return _attended(query, key, value, bias.expand(len(query), -1, -1, -1))
        query, key, value = qkv[0].permute(1, 2, 0, 3)
        scores = torch.baddbmm(bias.view(bias.shape[-3:]), query, key.transpose(1, 2))
        return torch.bmm(scores.softmax(-1), value).transpose(0, 1).flatten(1)

    def _over_earlier(self, query_XI: Tensor, kept_SX2I: Tensor, bias_S1H: Tensor) -> Tensor:
        """[X, I]: of each beam's new position over the earlier ones and itself; see ``SelfAttention.step``."""
        S, X, _ = kept_SX2I.shape
        key, value = kept_SX2I.view(S, X, 2, self.heads, -1).unbind(2)
        scores_SXH = (key * query_XI.view(X, self.heads, -1)).sum(-1).add_(bias_S1H)
        return (scores_SXH.softmax(0)[..., None] * value).sum(0).flatten(1)

    def _over_memories(self, query: Tensor, key: Tensor, value: Tensor, cache: FoldedCache) -> Tensor:
        """[X, I] from queries [B, K, H, d] over keys and values [B, H, T, d]."""
        if cache.rows == 1 and cache.mask is None:
            scores = torch.bmm(query[0].transpose(0, 1), key[0].transpose(1, 2))
            return torch.bmm(scores.softmax(-1), value[0]).transpose(0, 1).flatten(1)
        mixed = _attended(query.transpose(1, 2), key, value, cache.mask)
        if cache.any_visible is None:
            return mixed
        return (mixed.view(cache.rows, -1, mixed.shape[-1]) * cache.any_visible).flatten(0, 1)


def foldable(encoder: Encoder, decoder: Decoder, embedding: Tensor) -> bool:
    """Is this a network of whole float32 weights on a CPU?"""
    modules = (module for stack in (encoder, decoder) for module in stack.modules() if hasattr(module, "in_features"))
    if embedding.device.type != "cpu" or any(type(module) is not Linear for module in modules):
        return False
    weights = [embedding, *encoder.parameters(), *decoder.parameters()]
    # Tensors born in inference mode do not count their changes, and ZeRO-3's are not here.
    return all(
        weight.dtype == torch.float32 and not weight.is_inference() and not hasattr(weight, "ds_id")
        for weight in weights
    )


def _stamp(weights: Iterable[Tensor]) -> list[tuple[int, int]]:
    return [(weight.data_ptr(), weight._version) for weight in weights]


def _matrices(layer: Any) -> dict[str, Product]:
    return {
        "qkv": _after(layer.attention_norm, layer.attention.qkv),
        "out": Product(layer.attention.out.weight),
        "wide": _after(layer.feed_norm, layer.feed.wide),
        "narrow": Product(layer.feed.narrow.weight),
    }


def _by_name(layers: Sequence[_Encoding]) -> list[dict[str, Product]]:
    return [{each.name: getattr(layer, each.name) for each in fields(layer)} for layer in layers]


def _after(norm: RMSNorm, linear: nn.Linear) -> Product:
    """The matrix of a linear layer, times the gain and the sqrt(D) of the norm before it."""
    return Product(linear.weight * (norm.weight * norm.weight.shape[0] ** 0.5))


def _attended(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
    """[B * Q, I] from [B, H, Q, d] and [B, H, T, d]."""
    mixed = functional.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=1.0)
    return mixed.transpose(1, 2).flatten(2).flatten(0, 1)
