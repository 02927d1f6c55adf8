"""What all hosts have in common: the codes of the catalog's items, their embeddings, and teacher forcing.

Shape letters: genrec/models/contracts.py.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from genrec.config import ModelSettings
from genrec.models.contracts import Batch, DecoderCache, Memory, Outputs
from genrec.tokenizer.sid_table import PAD_TOKEN, SidTable


class Host(nn.Module):
    """Base of the hosts; a subclass adds encode, decode, start and step of ``contracts.Backbone``.

    Args:
        settings: shape of the model.
        sid_table: the semantic IDs that it speaks.
        embedding_std: standard deviation that code embeddings are drawn with.
    """

    def __init__(self, settings: ModelSettings, sid_table: SidTable, embedding_std: float) -> None:
        super().__init__()
        self.settings = settings
        self._sid_table = sid_table
        self.embedding_std = embedding_std
        self._embedding = nn.Embedding(sid_table.vocab_size, settings.d_model)
        nn.init.normal_(self._embedding.weight, std=embedding_std)
        tokens_NL = torch.from_numpy(sid_table.tokens_NL)
        pad_L = torch.full((1, sid_table.n_levels), PAD_TOKEN, dtype=torch.int64)
        self.register_buffer("item_tokens", torch.cat([tokens_NL, pad_L]), persistent=False)

    @property
    def sid_table(self) -> SidTable:
        """The semantic IDs that it speaks."""
        return self._sid_table

    @property
    def d_model(self) -> int:
        """D, width of memories and embeddings."""
        return self.settings.d_model

    @property
    def token_embedding(self) -> nn.Embedding:
        """Code embeddings [V, D]."""
        return self._embedding

    @property
    def longest(self) -> int:
        """Most codes that it ever writes for an item."""
        return self._sid_table.n_levels

    @torch.no_grad()
    def begin_at(self, vectors_VD: Tensor) -> None:
        """Let code embeddings begin at given vectors instead of a random draw.

        Args:
            vectors_VD: float [V, D] of unit variance, brought to that of the draw; NaN leaves what was drawn.
        """
        weight = self._embedding.weight
        weight.copy_(torch.where(vectors_VD.isnan(), weight, vectors_VD * self.embedding_std))

    def tokens(self, items: Tensor) -> Tensor:
        """Token ids [..., L] of items [...]; PAD_ITEM gives PAD_TOKEN."""
        item_tokens: Tensor = self.item_tokens  # type: ignore[assignment]
        return item_tokens[items]

    def encode(self, batch: Batch) -> Memory:
        """The ID history as a memory of T * L states."""
        raise NotImplementedError

    def decode(self, inputs: Tensor, memories: Sequence[Memory], visible_BP: Tensor | None = None) -> Tensor:
        """Logits [B, P, S, V]; see :meth:`genrec.models.contracts.Backbone.decode`."""
        raise NotImplementedError

    def start(self, memories: Sequence[Memory]) -> DecoderCache:
        """Prepare step-by-step decoding; what can be computed from the memories alone is computed once."""
        raise NotImplementedError

    def step(self, tokens_BK: Tensor, cache: DecoderCache) -> Tensor:
        """Logits [B, K, V] after one further token per beam; for inference, without dropout and gradients."""
        raise NotImplementedError

    def decoder_inputs(self, targets_BP: Tensor) -> tuple[Tensor, Tensor]:
        """Inputs (start and all codes but the last) and labels, both tokens [B, P, L]."""
        labels = self.tokens(targets_BP)
        return functional.pad(labels[..., :-1], (1, 0), value=PAD_TOKEN), labels

    def forward(self, batch: Batch) -> Outputs:
        """Teacher-forced logits of the batch's targets, over the history and the batch's further memories."""
        assert batch.targets_BP is not None
        memories = [self.encode(batch), *batch.neighbours]
        inputs, labels = self.decoder_inputs(batch.targets_BP)
        return Outputs(self.decode(inputs, memories, batch.visible_BP), labels, memories)
