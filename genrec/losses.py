"""Losses as pure functions, and their registry; the settings name them and give weights and temperatures.

A loss is ``loss(outputs, batch, term) -> {name: scalar}``. A plug-in adds its own by passing a larger registry
to :func:`total_loss`; the train loop does not change.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from types import MappingProxyType

import torch
from torch import Tensor
from torch.nn import functional

from genrec.config import LossTerm
from genrec.errors import SettingsError
from genrec.models.contracts import Batch, Outputs
from genrec.tokenizer.sid_table import PAD_TOKEN

Loss = Callable[[Outputs, Batch, LossTerm], dict[str, Tensor]]


def next_item(outputs: Outputs, batch: Batch, term: LossTerm) -> dict[str, Tensor]:
    """Cross entropy of the target's codes over the vocabulary of all codes, in nats a code.

    Logits are divided by ``term.temperature`` (LETTER, arXiv 2405.07314, eq. 8). Targets that are
    PAD_ITEM do not count; ``batch.weight_BP`` makes it a weighted mean over targets.
    """
    logits = outputs.logits_BPSV.float().flatten(0, 2)
    if term.temperature != 1.0:
        logits = logits / term.temperature
    labels = outputs.labels_BPS.flatten()
    if batch.weight_BP is None:
        return {"next-item": functional.cross_entropy(logits, labels, ignore_index=PAD_TOKEN)}
    losses = functional.cross_entropy(logits, labels, ignore_index=PAD_TOKEN, reduction="none")
    weight = batch.weight_BP[..., None].expand_as(outputs.labels_BPS).flatten() * (labels != PAD_TOKEN)
    return {"next-item": (losses * weight).sum() / weight.sum().clamp(min=torch.finfo(weight.dtype).tiny)}


LOSSES: Mapping[str, Loss] = MappingProxyType({"next-item": next_item})
"""The losses of the hosts, by the name that the settings use."""
SEPARABLE = frozenset({"next-item"})
"""Losses that are means over targets: those of parts of a batch add up, each times its share, to that of the whole."""


def total_loss(
    outputs: Outputs, batch: Batch, terms: Iterable[LossTerm], losses: Mapping[str, Loss] = LOSSES
) -> dict[str, Tensor]:
    """The weighted sum of the terms as ``"loss"``, beside each part unweighted under its own name.

    Raises:
        SettingsError: a term names no loss of the registry.
    """
    parts: dict[str, Tensor] = {}
    total = outputs.logits_BPSV.new_zeros((), dtype=torch.float32)
    for term in terms:
        if term.name not in losses:
            raise SettingsError(f"training.losses: unknown loss {term.name!r}; known: {', '.join(sorted(losses))}")
        part = losses[term.name](outputs, batch, term)
        for value in part.values():
            total = total + term.weight * value
        parts.update(part)
    return {"loss": total, **parts}
