"""TIGER: an encoder-decoder over semantic IDs.

Source: Rajput et al. 2023, "Recommender Systems with Generative Retrieval" (arXiv 2305.05065). A history of
items is the sequence of their codes; the decoder writes the codes of the next item. Without a user
token, which later work leaves out, too.

Beside the paper's bidirectional encoder there is a causal one (``encoder_attention``): the codes of an item
see each other and all earlier items. States of an item then do not depend on later ones, and all prefixes
of a history train in one pass, each target seeing as many items as ``visible_BP`` says.

Shape letters: genrec/models/contracts.py.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import torch
from torch import Tensor, nn

from genrec.config import ModelSettings
from genrec.models.attention import MemoryKeys, Packing, additive, drawn_linear
from genrec.models.blocks import Decoder, Encoder
from genrec.models.contracts import PAD_ITEM, Batch, DecoderCache, Memory
from genrec.models.folded import Folded, FoldedCache, foldable
from genrec.models.host import Host
from genrec.products import Linear, linear
from genrec.tokenizer.sid_table import SidTable

WORTH_PACKING = 0.9
"""Share of real positions in a padded batch above which padding is computed with."""


@dataclass
class TigerCache:
    """Keys and values between decoding steps (:class:`~genrec.models.contracts.DecoderCache`).

    Attributes:
        seen: the memories.
        bias_SSH: position bias of each decoder position for each earlier one.
        kept: keys and values of the earlier positions [S, layers, 2, B * K, I] and, after ``reorder``, room
            for one more; None before the first.
        filled: number of earlier positions.
    """

    seen: MemoryKeys
    bias_SSH: Tensor
    kept: Tensor | None = None
    filled: int = 0

    @torch.no_grad()
    def reorder(self, parents_BK: Tensor) -> None:
        """Let beam k of row b go on from its old beam ``parents_BK[b, k]`` (K may change)."""
        assert self.kept is not None
        rows = parents_BK.shape[0]
        beams = self.kept.shape[3] // rows
        first = torch.arange(0, rows * beams, beams, device=parents_BK.device)
        chosen = (first[:, None] + parents_BK).flatten()
        old = self.kept[: self.filled]
        self.kept = old.new_empty(self.filled + 1, *old.shape[1:3], len(chosen), old.shape[4])
        torch.index_select(old, 3, chosen, out=self.kept[: self.filled])


class Tiger(Host):
    """The TIGER host; implements :class:`~genrec.models.contracts.Backbone`."""

    def __init__(self, settings: ModelSettings, sid_table: SidTable) -> None:
        super().__init__(settings, sid_table, embedding_std=1.0)  # as T5 draws them
        self.encoder = Encoder(settings)
        self.decoder = Decoder(settings)
        self.head: Linear | None = None
        if not settings.tie_embeddings:
            self.head = drawn_linear(settings.d_model, sid_table.vocab_size, 1.0)
        self._folded: Folded | None = None
        self.register_load_state_dict_post_hook(_unfold)  # type: ignore[no-untyped-call]

    def train(self, mode: bool = True) -> Self:
        """See :meth:`torch.nn.Module.train`."""
        if mode:
            self._folded = None
        return super().train(mode)

    def __getstate__(self) -> dict[str, Any]:
        """Copies fold their weights anew."""
        return {**self.__dict__, "_folded": None}

    def encode(self, batch: Batch) -> Memory:
        """The ID history as a memory of T * L states."""
        return self.encode_items(batch.history_BT, self.item_tokens)  # type: ignore[arg-type]

    def encode_items(self, history_BT: Tensor, item_tokens_NL: Tensor) -> Memory:
        """A history as a memory of T * L states, given the tokens of each item (the last row is padding's)."""
        if history_BT.shape[1] == 0:  # a batch of cold users only
            history_BT = history_BT.new_full((history_BT.shape[0], 1), PAD_ITEM)
        n_levels = item_tokens_NL.shape[1]
        tokens = item_tokens_NL[history_BT].flatten(1)
        mask_BT = (history_BT != PAD_ITEM).repeat_interleave(n_levels, dim=1)
        item_T = torch.arange(history_BT.shape[1], device=history_BT.device).repeat_interleave(n_levels)
        mask: Tensor | None = None
        if self.settings.encoder_attention == "causal":
            # Padding stands at the right, so no item sees it: one mask serves every row.
            mask = additive(item_T[None, :] <= item_T[:, None])[None, None]
        elif mask_BT.is_cuda or not bool(mask_BT.all()):
            mask = additive(mask_BT)[:, None, None]
        folded, packing = self._fold(), _packing(mask_BT)
        if folded is not None:
            states = folded.encode(tokens, mask, packing, self.encoder)
        else:
            states = self.encoder(self._embedding(tokens), mask, packing)
        return Memory(states, mask_BT, "id", item_T.expand_as(mask_BT))

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V]; see :meth:`genrec.models.contracts.Backbone.decode`."""
        embedded = inputs if inputs.is_floating_point() else self._embedding(inputs)
        return self._logits(self.decoder(embedded, self._read(memories, visible_BP, embedded.shape, once=True)))

    def start(self, memories: Sequence[Memory]) -> TigerCache | FoldedCache:
        """Prepare step-by-step decoding; keys and values of the memories are computed once."""
        folded = self._fold()
        if folded is not None:
            states, visible, mask_BT = _joined(memories, None)
            return folded.read(states, visible, _packing(mask_BT))
        bias = self.decoder.bias(self.longest)[0].permute(1, 2, 0)
        return TigerCache(self._read(memories, None, (0, 1, 1), once=False), bias)

    @torch.no_grad()
    def step(self, tokens_BK: Tensor, cache: DecoderCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam; for inference, without dropout and gradients."""
        if isinstance(cache, FoldedCache):
            return cache.folded.step(tokens_BK, cache)
        assert isinstance(cache, TigerCache)
        decoder = self.decoder
        embedded = self._embedding(tokens_BK)
        position, cache.filled = cache.filled, cache.filled + 1
        if cache.kept is None or cache.kept.shape[0] == position:
            room = embedded.new_empty(1, len(decoder.layers), 2, tokens_BK.numel(), decoder.inner)
            cache.kept = room if cache.kept is None else torch.cat([cache.kept, room])
        bias_SH = cache.bias_SSH[position, : position + 1]
        return self._logits(decoder.step(embedded, cache.seen, cache.kept, bias_SH))

    def _read(
        self, memories: Sequence[Memory], visible_BP: Tensor | None, shape: Sequence[int], *, once: bool
    ) -> MemoryKeys:
        states, visible, mask_BT = _joined(memories, visible_BP)
        return self.decoder.read(states, visible, shape[1] * shape[2], _packing(mask_BT), once=once)

    def _fold(self) -> Folded | None:
        """The weights arranged for inference on a CPU, or None where something else is asked."""
        if self.training or torch.is_grad_enabled():
            self._folded = None  # weights may be about to change, which fused optimizers do uncounted
            return None
        if torch.is_autocast_enabled("cpu"):
            return None
        if self._folded is None or not self._folded.holds():
            embedding = self._embedding.weight
            if not foldable(self.encoder, self.decoder, embedding):
                return None
            head = embedding * self.d_model**-0.5 if self.head is None else self.head.weight
            self._folded = Folded.of(embedding, self.encoder, self.decoder, head, self.longest)
        return self._folded

    def _logits(self, states: Tensor) -> Tensor:
        if self.head is not None:
            return self.head(states)
        return linear(states * self.d_model**-0.5, self._embedding.weight)


def _unfold(module: nn.Module, _keys: object) -> None:
    """Weights were loaded, perhaps as other tensors than before."""
    assert isinstance(module, Tiger)
    module._folded = None


def _joined(memories: Sequence[Memory], visible_BP: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
    """All memories, one after the other: states [B, T, D], what is visible [B, 1 or P, T], where states are [B, T]."""
    if len(memories) == 1:
        (memory,) = memories
        return memory.states_BTD, memory.visible(visible_BP), memory.mask_BT
    views = [memory.visible(visible_BP) for memory in memories]
    rows = max(view.shape[1] for view in views)
    visible = torch.cat([view.expand(-1, rows, -1) for view in views], dim=-1)
    states = torch.cat([memory.states_BTD for memory in memories], dim=1)
    return states, visible, torch.cat([memory.mask_BT for memory in memories], dim=1)


def _packing(mask_BT: Tensor) -> Packing | None:
    """How to leave padding out, where that saves more than it costs (on a GPU it would wait for the device)."""
    if mask_BT.is_cuda or mask_BT.numel() == 0 or float(mask_BT.float().mean()) > WORTH_PACKING:
        return None
    return Packing.of(mask_BT)
