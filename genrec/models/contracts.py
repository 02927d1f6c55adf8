"""Contracts 2, 3 and the backbone Protocol: what every model, loss and decoder agrees on.

Shape letters, used all over genrec: B batch, T memory positions or history items, L code levels,
S decoder positions (at most L), P parallel continuations of one history (training targets, scored
items or beams), K beams or list length, V vocabulary, D model width, N items, U users, R retrieved
users.

The decoder reads a *list* of memories (ID history, language history, retrieved users, ...). New ideas
become new memories, not new models. P is the second axis everywhere in the decoder: the encoder and the
cross-attention keys of a history are computed once and shared by its P continuations, whether these are
the training targets of a user (causal encoder), the candidates of ``score`` or the beams of ``generate``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

from genrec.tokenizer.sid_table import SidTable

PAD_ITEM = -1
"""Item index of padding. Tables indexed by item carry one extra last row, which -1 reaches."""


@dataclass(frozen=True)
class Memory:
    """States that the decoder attends over.

    Attributes:
        states_BTD: float [B, T, D].
        mask_BT: bool [B, T], True where there is a state.
        kind: "id", "language", "users", ...
        item_BT: int64 [B, T], position in the history (0 = oldest given) of the item that a state
            belongs to; None for states that belong to no history item (visible to every target).
    """

    states_BTD: Tensor
    mask_BT: Tensor
    kind: str = "id"
    item_BT: Tensor | None = None

    def visible(self, visible_BP: Tensor | None) -> Tensor:
        """bool [B, 1 or P, T]: what each continuation may attend to.

        ``visible_BP`` holds, for each continuation, how many of the oldest history items it may see.
        """
        mask = self.mask_BT[:, None, :]
        if visible_BP is None or self.item_BT is None:
            return mask
        return mask & (self.item_BT[:, None, :] < visible_BP[:, :, None])

    def pooled(self) -> Tensor:
        """Mean over the real states: float [B, D]; zeros where there are none."""
        mask_BT1 = self.mask_BT[:, :, None].to(self.states_BTD.dtype)
        return (self.states_BTD * mask_BT1).sum(dim=1) / mask_BT1.sum(dim=1).clamp(min=1)


@dataclass
class Batch:
    """One batch of histories, with whatever a loss or a memory needs besides.

    Attributes:
        history_BT: int64 [B, T], item indices, oldest first, padded right with PAD_ITEM.
        targets_BP: int64 [B, P], the items to predict (PAD_ITEM: none); None when generating.
        visible_BP: int64 [B, P], number of history items each target may see; None: all.
        users_B: int64 [B], user indices; -1 for a history sent along.
        weight_BP: float [B, P], weight of each target in the loss; None: 1.
        language_BTE: float [B, T, E], frozen text embeddings of the history's items.
        neighbours: memories of retrieved users or items, made elsewhere.
        context: anything further by name (ratings, times, dialogue turns, ...).
    """

    history_BT: Tensor
    targets_BP: Tensor | None = None
    visible_BP: Tensor | None = None
    users_B: Tensor | None = None
    weight_BP: Tensor | None = None
    language_BTE: Tensor | None = None
    neighbours: Sequence[Memory] = ()
    context: dict[str, Tensor] | None = None

    @property
    def size(self) -> int:
        """B, the number of histories."""
        return int(self.history_BT.shape[0])

    def to(self, device: torch.device | str) -> Batch:
        """The batch with every tensor on ``device``."""
        moved: dict[str, Any] = {
            name: value.to(device) for name, value in vars(self).items() if isinstance(value, Tensor)
        }
        moved["neighbours"] = [
            replace(
                memory,
                states_BTD=memory.states_BTD.to(device),
                mask_BT=memory.mask_BT.to(device),
                item_BT=None if memory.item_BT is None else memory.item_BT.to(device),
            )
            for memory in self.neighbours
        ]
        if self.context is not None:
            moved["context"] = {name: value.to(device) for name, value in self.context.items()}
        return replace(self, **moved)


@dataclass
class Outputs:
    """What a forward pass for training gives to the losses.

    Attributes:
        logits_BPSV: float [B, P, L, V], teacher-forced logits of each target's codes.
        labels_BPS: int64 [B, P, L], token ids of the targets; PAD_TOKEN where there is no target.
        memories: the memories that were attended to.
        extra: further tensors by name, for losses of plug-ins.
    """

    logits_BPSV: Tensor
    labels_BPS: Tensor
    memories: Sequence[Memory] = ()
    extra: dict[str, Tensor] | None = None


class DecoderCache(Protocol):
    """Keys and values kept between decoding steps; the backbone knows its inside."""

    def reorder(self, parents_BK: Tensor) -> None:
        """Let beam k of row b go on from its old beam ``parents_BK[b, k]`` (K may change)."""


@runtime_checkable
class Backbone(Protocol):
    """What a host implements; plug-ins, losses and decoders use nothing else of it."""

    @property
    def sid_table(self) -> SidTable:
        """The semantic IDs that it speaks."""

    @property
    def d_model(self) -> int:
        """D, width of memories and embeddings."""

    @property
    def token_embedding(self) -> torch.nn.Embedding:
        """Code embeddings [V, D], shared by encoder, decoder and plug-ins."""

    def encode(self, batch: Batch) -> Memory:
        """The ID history as a memory (B rows; L states an item, ``item_BT`` set)."""

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V] for decoder inputs.

        Args:
            inputs: int64 tokens [B, P, S] or float embeddings [B, P, S, D]; position 0 is the start
                token, position s the code of level s - 1.
            memories: what to attend over, in order.
            visible_BP: history items each continuation may see; None: all.
        """

    def start(self, memories: Sequence[Memory]) -> DecoderCache:
        """Prepare step-by-step decoding; keys and values of the memories are computed once."""

    def step(self, tokens_BK: Tensor, cache: DecoderCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam."""


@runtime_checkable
class MultiTable(Protocol):
    """A backbone that speaks further tables of semantic IDs beside the one of its Protocol (its first)."""

    @property
    def ensemble(self) -> str:
        """How the lists of its tables become one; a rule of genrec.decoding.ensemble."""

    @property
    def side_weight(self) -> float:
        """Weight of the loss of :meth:`side_task`."""

    def members(self) -> Sequence[Backbone]:
        """A backbone for each table, the first one's first; all of one vocabulary."""

    def side_task(self, batch: Batch) -> tuple[Outputs, Batch] | None:
        """One task of training beside the next item, and the batch it is of; None: there is none.

        Drawn with torch's own random numbers, which the train loop seeds at each step.
        """
