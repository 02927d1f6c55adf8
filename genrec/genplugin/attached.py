"""What every attachment to a host is: a Backbone that answers with its host, until it overrides a call.

Shape letters: genrec/models/contracts.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.models.contracts import Backbone, Batch, DecoderCache, Memory
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable


class Attached(nn.Module):
    """A host with something attached; implements Backbone by the host.

    Args:
        host: any backbone that is an ``nn.Module``.
    """

    def __init__(self, host: nn.Module) -> None:
        super().__init__()
        assert isinstance(host, Backbone)
        self.host = host
        table = host.sid_table
        pad_1L = torch.full((1, table.n_levels), PAD_TOKEN, dtype=torch.int64)
        self.register_buffer("item_tokens", torch.cat([torch.from_numpy(table.tokens_NL), pad_1L]), persistent=False)

    @property
    def backbone(self) -> Backbone:
        """The host."""
        assert isinstance(self.host, Backbone)
        return self.host

    @property
    def sid_table(self) -> SidTable:
        """The semantic IDs that the host speaks."""
        return self.backbone.sid_table

    @property
    def d_model(self) -> int:
        """D, width of memories and embeddings."""
        return self.backbone.d_model

    @property
    def token_embedding(self) -> nn.Embedding:
        """The host's code embeddings [V, D]."""
        return self.backbone.token_embedding

    def encode(self, batch: Batch) -> Memory:
        """The ID history as the host encodes it."""
        return self.backbone.encode(batch)

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V] of the host."""
        return self.backbone.decode(inputs, memories, visible_BP)

    def start(self, memories: Sequence[Memory]) -> DecoderCache:
        """Prepare step-by-step decoding by the host."""
        return self.backbone.start(memories)

    def step(self, tokens_BK: Tensor, cache: DecoderCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam."""
        return self.backbone.step(tokens_BK, cache)

    def teacher(self, targets_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Decoder inputs and labels, both int64 [B, P, S], of target items."""
        tokens: Tensor = self.item_tokens  # type: ignore[assignment]
        labels = tokens[targets_BP]
        return functional.pad(labels[..., :-1], (1, 0), value=PAD_TOKEN), labels
