"""A worker's part of a step in pieces that fit the caches of a CPU; their gradients add up to the whole's.

The intermediates of a few hundred targets leave the caches, and the allocator returns them to the system between one
operation and the next, so that a step in pieces of about a hundred targets is faster than whole
(docs/benchmarks.md).

Only a loss that is a mean over targets may be cut so (:attr:`genrec.training.task.Task.separable`).
"""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

import torch
from torch import Tensor

from genrec.models.contracts import PAD_ITEM, Batch, Memory
from genrec.training.batching import WorkerBatch

CPU_PIECE = 128
"""Targets of a piece where the settings leave it to us."""


def piece_size(micro_batch: int | None, *, separable: bool, device: torch.device) -> int | None:
    """Targets computed at a time, or None: the whole part at once.

    Args:
        micro_batch: what the settings say; None: whatever suits the device.
        separable: whether the loss is a mean over targets.
        device: where it is computed; a GPU is kept busy by the whole part.
    """
    if not separable:
        return None
    if micro_batch is not None:
        return micro_batch
    return CPU_PIECE if device.type == "cpu" else None


def in_pieces(part: WorkerBatch, size: int | None) -> list[WorkerBatch]:
    """The rows of a part in pieces of about ``size`` targets, with shares that add up to the part's.

    The loss of the part is the sum of the pieces' losses, each times its share. Pieces are of like size, between two
    thirds of ``size`` and ``size``, unless single rows hold more.
    """
    batch = part.batch
    if size is None or batch.targets_BP is None or batch.size == 1:
        return [part]
    targets_B = (batch.targets_BP != PAD_ITEM).sum(dim=1).cpu()
    n_targets = int(targets_B.sum())
    n_pieces = -(-n_targets // size)
    if n_pieces <= 1:
        return [part]
    # The share of a piece is that of its weights, if targets have such.
    weights_B = targets_B.double() if batch.weight_BP is None else _weights(batch).double().cpu()
    total = float(weights_B.sum())
    ends = torch.cumsum(targets_B, 0)
    cuts = torch.arange(1, n_pieces) * n_targets // n_pieces
    bounds = [0, *torch.searchsorted(ends, cuts, right=True).tolist(), batch.size]
    pieces = []
    for begin, end in pairwise(bounds):
        weight = float(weights_B[begin:end].sum())
        if weight > 0:
            pieces.append(WorkerBatch(_rows(batch, begin, end), part.share * weight / total))
    return pieces or [part]


def _weights(batch: Batch) -> Tensor:
    assert batch.weight_BP is not None
    assert batch.targets_BP is not None
    return (batch.weight_BP * (batch.targets_BP != PAD_ITEM)).sum(dim=1)


def _rows(batch: Batch, begin: int, end: int) -> Batch:
    cut = slice(begin, end)
    parts = {name: value[cut] for name, value in vars(batch).items() if isinstance(value, Tensor)}
    neighbours = [
        Memory(
            memory.states_BTD[cut],
            memory.mask_BT[cut],
            memory.kind,
            None if memory.item_BT is None else memory.item_BT[cut],
        )
        for memory in batch.neighbours
    ]
    context = batch.context and {name: value[cut] for name, value in batch.context.items()}
    return replace(batch, **parts, neighbours=neighbours, context=context)  # type: ignore[arg-type]
