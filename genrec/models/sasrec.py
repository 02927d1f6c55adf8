"""SASRec: self-attention over the item history (Kang & McAuley, ICDM 2018), tuned as FACTS has it.

Two pre-norm causal blocks over item and position embeddings; the output is tied to the item
embedding. All positions of a window train in one pass, with a softmax over the catalog, estimated
with uniform negatives shared by the batch where that is cheaper. It is the baseline of every table,
and its user and item vectors serve collaborative retrieval.

Windows are padded right, so a causal mask alone keeps padding out of sight of real positions.

Shape letters: B users, T history items (P = T targets), N items, D width, M real positions, S negatives.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from genrec.config import SasRecSettings
from genrec.errors import SettingsError
from genrec.models.contracts import PAD_ITEM, Batch
from genrec.products import Linear, linear


class SasRecBlock(nn.Module):
    """Causal self-attention and a feed-forward layer, each pre-normed and residual."""

    def __init__(self, settings: SasRecSettings) -> None:
        super().__init__()
        width = settings.d_model
        self.heads = settings.heads
        self.dropout = settings.dropout
        self.norm_attention = nn.LayerNorm(width)
        self.query_key_value = Linear(width, 3 * width)
        self.out = Linear(width, width)
        self.norm_feed = nn.LayerNorm(width)
        self.feed_in = Linear(width, width)
        self.feed_out = Linear(width, width)

    def forward(self, states_MD: Tensor, real_BT: Tensor) -> Tensor:
        """float [M, D] -> [M, D], the real positions of a batch; each reads its own row's earlier ones.

        Args:
            states_MD: states of the True positions of ``real_BT``, row after row.
            real_BT: bool [B, T].
        """
        width = states_MD.shape[1]
        rate = self.dropout if self.training else 0.0
        projected_ME = self.query_key_value(self.norm_attention(states_MD))
        projected_BTE = projected_ME.new_zeros(*real_BT.shape, 3 * width)
        projected_BTE[real_BT] = projected_ME
        query, key, value = projected_BTE.view(*real_BT.shape, 3, self.heads, -1).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(query, key, value, dropout_p=rate, is_causal=True)
        mixed_MD = mixed.transpose(1, 2)[real_BT].reshape(-1, width)
        states_MD = states_MD + functional.dropout(self.out(mixed_MD), rate, self.training)
        hidden_MD = functional.relu(self.feed_in(self.norm_feed(states_MD)))
        hidden_MD = self.feed_out(functional.dropout(hidden_MD, rate, self.training))
        return states_MD + functional.dropout(hidden_MD, rate, self.training)


class SasRec(nn.Module):
    """The model.

    Args:
        settings: shape, dropout and number of negatives.
        n_items: N.
        max_history: T, the longest window it can read.

    Raises:
        SettingsError: ``heads`` does not divide ``d_model``.
    """

    def __init__(self, settings: SasRecSettings, n_items: int, max_history: int) -> None:
        super().__init__()
        if settings.d_model % settings.heads:
            raise SettingsError(
                f"baselines.sasrec.heads: {settings.heads} does not divide d_model {settings.d_model}; use a divisor"
            )
        self.settings, self.n_items, self.max_history = settings, n_items, max_history
        self.items = nn.Embedding(n_items, settings.d_model)
        self.positions = nn.Embedding(max_history, settings.d_model)
        self.blocks = nn.ModuleList(SasRecBlock(settings) for _ in range(settings.layers))
        self.norm = nn.LayerNorm(settings.d_model)
        self.apply(_initialise)

    def user_states(self, history_BT: Tensor) -> Tensor:
        """float [B, T, D], what the model knows after each item; zeros at padding."""
        real_BT = history_BT != PAD_ITEM
        states_MD = self._real_states(history_BT, real_BT)
        states_BTD = states_MD.new_zeros(*real_BT.shape, states_MD.shape[1])
        states_BTD[real_BT] = states_MD
        return states_BTD

    def user_vectors(self, history_BT: Tensor) -> Tensor:
        """float [B, D], the state after the last item; zeros for an empty history."""
        last_B = ((history_BT != PAD_ITEM).sum(dim=1) - 1).clamp(min=0)
        return self.user_states(history_BT)[torch.arange(len(last_B), device=last_B.device), last_B]

    def item_vectors(self) -> Tensor:
        """float [N, D], the tied item embeddings; score = user vector · item vector."""
        return self.items.weight

    def score_histories(self, history_BT: Tensor) -> Tensor:
        """float [B, N], logits of the next item."""
        return linear(self.user_vectors(history_BT), self.item_vectors())

    def loss(self, batch: Batch, generator: torch.Generator | None = None) -> dict[str, Tensor]:
        """Cross-entropy of the next item at every position of the windows.

        Args:
            batch: ``history_BT`` the inputs, ``targets_BP`` [B, T] the item after each input
                (PAD_ITEM: none), ``weight_BP`` optionally their weights.
            generator: draws the negatives (on the CPU).

        Returns:
            {"next-item": scalar}. With negatives, uniform samples stand for the rest of the catalog:
            each weighs N / S and a drawn target counts nothing, which makes the normaliser unbiased.
        """
        targets_BP = batch.targets_BP
        assert targets_BP is not None, "SasRec.loss needs targets"
        assert targets_BP.shape == batch.history_BT.shape, "one target per position"
        assert ((targets_BP == PAD_ITEM) | (batch.history_BT != PAD_ITEM)).all(), "a target after padding"
        real_BT = batch.history_BT != PAD_ITEM
        wanted_M = targets_BP[real_BT] != PAD_ITEM
        states_MD, targets_M = self._real_states(batch.history_BT, real_BT)[wanted_M], targets_BP[real_BT][wanted_M]
        n_negatives = self.settings.negatives
        if n_negatives is None or n_negatives >= self.n_items:
            loss_M = functional.cross_entropy(linear(states_MD, self.item_vectors()), targets_M, reduction="none")
        else:
            loss_M = self._sampled_loss(states_MD, targets_M, n_negatives, generator)
        if batch.weight_BP is None:
            return {"next-item": loss_M.mean()}
        weight_M = batch.weight_BP[real_BT][wanted_M]
        return {"next-item": (loss_M * weight_M).sum() / weight_M.sum()}

    def _real_states(self, history_BT: Tensor, real_BT: Tensor) -> Tensor:
        """float [M, D]: only real positions are computed (Beauty's windows are two thirds padding)."""
        n_steps = history_BT.shape[1]
        assert n_steps <= self.max_history, f"history of {n_steps}, SASRec reads {self.max_history}"
        steps_M = torch.arange(n_steps, device=history_BT.device).expand_as(history_BT)[real_BT]
        states_MD = self.items(history_BT[real_BT]) * math.sqrt(self.settings.d_model) + self.positions(steps_M)
        states_MD = functional.dropout(states_MD, self.settings.dropout, self.training)
        for block in self.blocks:
            states_MD = block(states_MD, real_BT)
        return self.norm(states_MD)

    def _sampled_loss(
        self, states_MD: Tensor, targets_M: Tensor, n_negatives: int, generator: torch.Generator | None
    ) -> Tensor:
        negatives_S = torch.randint(self.n_items, (n_negatives,), generator=generator).to(targets_M.device)
        positive_M = (states_MD * self.items(targets_M)).sum(dim=1)
        negative_MS = linear(states_MD, self.items(negatives_S)) + math.log(self.n_items / n_negatives)
        negative_MS = negative_MS.masked_fill(negatives_S == targets_M[:, None], -math.inf)
        normaliser_M = torch.logaddexp(positive_M, negative_MS.logsumexp(dim=1))
        return normaliser_M - positive_M


class SasRecScorer:
    """A trained SASRec behind the dense scorer's call (``genrec.models.dense.DenseScorer``)."""

    def __init__(self, model: SasRec) -> None:
        self.model = model.eval()

    @torch.inference_mode()
    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N], computed on the model's device."""
        history_BT = torch.from_numpy(histories_BT).to(self.model.items.weight.device)
        return self.model.score_histories(history_BT).float().cpu().numpy()


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear | nn.Embedding):
        nn.init.normal_(module.weight, std=0.02)
    if isinstance(module, nn.Linear) and module.bias is not None:
        nn.init.zeros_(module.bias)
