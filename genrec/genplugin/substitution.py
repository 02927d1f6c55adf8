"""Semantic-substitution guidance: train the decoder on inputs like those it will meet on its own.

Teacher forcing shows the decoder only true codes; generating, it reads its own. From some epoch on, some
of the true decoder inputs are replaced by a mixture of the code embeddings that the language view
believes in (GENPLUGIN, section 3.3; a form of scheduled sampling, Bengio et al. 2015). A sample enters with
probability p1, each of its positions is then replaced with probability p2: the effective rate is p1 * p2.

Where the authors' release weights the candidates by raw logits and tosses one coin a batch, this one
uses the softmax over the top k and a coin per sample and position, and passes no gradient through the mixture.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Substituted:
    """Decoder inputs after substitution.

    Attributes:
        inputs_BPSD: float [B, P, S, D].
        replaced_BPS: bool [B, P, S], where an input was replaced (never the start token).
    """

    inputs_BPSD: Tensor
    replaced_BPS: Tensor


def coins(
    shape: tuple[int, int, int], p1: float, p2: float, first: bool, generator: torch.Generator | None = None
) -> Tensor:
    """Which positions to replace: bool [B, P, S] on the CPU.

    Position 0 (the start token) is never replaced; position 1 carries the first code and is replaced only
    if ``first``. Without a generator the coins follow torch's own, which the trainer seeds at every step.
    """
    enters = torch.rand((*shape[:2], 1), generator=generator) < p1
    replaced = enters & (torch.rand(shape, generator=generator) < p2)
    replaced[:, :, : 1 if first else 2] = False
    return replaced


def believed_embeddings(
    logits_BPSV: Tensor, embedding_VD: Tensor, level_ranges: Sequence[tuple[int, int]], top_k: int
) -> Tensor:
    """Mixture of the ``top_k`` likeliest codes of each level: float [B, P, S, D], detached.

    Args:
        logits_BPSV: logits of S levels; position s predicts the code of level s.
        embedding_VD: code embeddings.
        level_ranges: (first, end) token ids of each level's codes; other tokens are no candidates.
        top_k: candidates that are mixed by their softmax.
    """
    mixtures = []
    for level in range(logits_BPSV.shape[2]):
        first, end = level_ranges[level]
        values, codes = logits_BPSV[:, :, level, first:end].detach().topk(min(top_k, end - first), dim=-1)
        weights = values.softmax(dim=-1).to(embedding_VD.dtype)
        mixtures.append((weights.unsqueeze(-1) * embedding_VD.detach()[codes + first]).sum(dim=-2))
    return torch.stack(mixtures, dim=2)


def substitute(inputs_BPSD: Tensor, believed_BPSD: Tensor, replaced_BPS: Tensor) -> Substituted:
    """Put the believed code of level s - 1 in place of the true one at decoder position s.

    Args:
        inputs_BPSD: embeddings of the start token and the true codes of levels 0 .. S-2.
        believed_BPSD: :func:`believed_embeddings` of levels 0 .. S-1.
        replaced_BPS: :func:`coins`.
    """
    shifted = torch.cat([inputs_BPSD[:, :, :1], believed_BPSD[:, :, :-1]], dim=2)
    replaced = replaced_BPS.to(inputs_BPSD.device)
    return Substituted(torch.where(replaced.unsqueeze(-1), shifted, inputs_BPSD), replaced)


def rate_at(epoch: float, warmup_epochs: float, ramp_epochs: float) -> float:
    """Share of the full substitution rate in force: 0 until the warm-up ends, then a linear ramp to 1."""
    if epoch < warmup_epochs:
        return 0.0
    return 1.0 if ramp_epochs <= 0 else min(1.0, (epoch - warmup_epochs) / ramp_epochs)
