"""The language view: a history as the frozen text embeddings of its items, one position per item.

GENPLUGIN, section 3.1: a linear projection to the model's width and an encoder of its own. Decoder, head and
code embeddings are the host's, so both views speak the same semantic IDs.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from genrec.config import ModelSettings
from genrec.models.attention import additive
from genrec.models.blocks import Encoder
from genrec.models.contracts import PAD_ITEM, Batch, Memory
from genrec.products import Linear


class LanguageView(nn.Module):
    """Encodes a history from frozen item embeddings.

    Args:
        settings: shape of the encoder (that of the host).
        embeddings_NE: float [N, E], frozen text embeddings of the catalog; kept out of the checkpoint. The very tensor
            is kept, not a copy: one mapped from a file is shared by all workers of a node.
    """

    def __init__(self, settings: ModelSettings, embeddings_NE: Tensor) -> None:
        super().__init__()
        self.causal = settings.encoder_attention == "causal"
        self.register_buffer("embeddings", embeddings_NE.float(), persistent=False)
        self.projection = Linear(embeddings_NE.shape[1], settings.d_model)
        self.encoder = Encoder(settings)

    def encode(self, batch: Batch) -> Memory:
        """The history as a memory of T states, one an item."""
        history_BT = batch.history_BT
        table: Tensor = self.embeddings  # type: ignore[assignment]
        mask_BT = history_BT != PAD_ITEM
        given_BTE = batch.language_BTE
        if given_BTE is None:
            given_BTE = table[history_BT.clamp(min=0)] * mask_BT[..., None]
        item_T = torch.arange(history_BT.shape[1], device=history_BT.device)
        mask = (
            additive(item_T[None, :] <= item_T[:, None])[None, None]
            if self.causal
            else additive(mask_BT)[:, None, None]
        )
        states = self.encoder(self.projection(given_BTE), mask)
        return Memory(states, mask_BT, "language", item_T.expand_as(mask_BT))
