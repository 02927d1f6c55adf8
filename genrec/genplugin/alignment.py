"""Alignment of the ID view and the language view: InfoNCE on items and users, symmetric KL on predictions.

GENPLUGIN, section 3.2. Pads are never anchors or candidates, and two occurrences of one item (or two
histories of one user) in a batch are never each other's negatives.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from genrec.models.contracts import Memory


def item_states(memory: Memory, n_items: int) -> Tensor:
    """Sum of the states of each history item: float [B, n_items, D].

    For the ID view these are the L token states of an item, for the language view its one state.
    """
    assert memory.item_BT is not None, f"memory {memory.kind!r} belongs to no history items"
    masked = memory.states_BTD * memory.mask_BT.unsqueeze(-1).to(memory.states_BTD.dtype)
    index = memory.item_BT.clamp(min=0).unsqueeze(-1).expand_as(masked)
    empty = masked.new_zeros(masked.shape[0], n_items, masked.shape[2])
    return empty.scatter_add(1, index, masked)


def info_nce(anchors_MD: Tensor, candidates_MD: Tensor, identity_M: Tensor, temperature: float) -> Tensor:
    """Symmetric InfoNCE between two views of the same M things (scalar).

    Args:
        anchors_MD: first view, [M, D]; row m belongs with row m of the second view.
        candidates_MD: second view, [M, D].
        identity_M: int64 [M]; equal numbers are the same thing and no negatives of each other.
        temperature: divides the cosine similarities.
    """
    if anchors_MD.shape[0] < 2:
        return anchors_MD.sum() * 0.0
    similarity_MM = F.normalize(anchors_MD, dim=-1) @ F.normalize(candidates_MD, dim=-1).T / temperature
    same = identity_M[:, None] == identity_M[None, :]
    same.fill_diagonal_(False)
    similarity_MM = similarity_MM.masked_fill(same, float("-inf"))
    labels = torch.arange(len(identity_M), device=similarity_MM.device)
    return 0.5 * (F.cross_entropy(similarity_MM, labels) + F.cross_entropy(similarity_MM.T, labels))


def symmetric_kl(first_BPSV: Tensor, second_BPSV: Tensor, labels_BPS: Tensor, temperature: float) -> Tensor:
    """Mean of both KL divergences between two views' next-code distributions (scalar).

    Positions without a target (label 0) do not count.
    """
    counted = labels_BPS != 0
    first = F.log_softmax(first_BPSV[counted] / temperature, dim=-1)
    second = F.log_softmax(second_BPSV[counted] / temperature, dim=-1)
    forward = F.kl_div(second, first, log_target=True, reduction="batchmean")
    backward = F.kl_div(first, second, log_target=True, reduction="batchmean")
    return 0.5 * (forward + backward)
