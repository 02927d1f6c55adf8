"""What the loop trains: a model with its data, its losses and its validation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import torch
from torch import Tensor, nn

from genrec.models.contracts import Batch
from genrec.training.batching import WorkerBatch

KEY_METRIC = "ndcg@10"
"""The validation metric that chooses the best weights; higher is better."""


class Task(Protocol):
    """One thing to train.

    Attributes:
        name: appears in logs.
        model: the module whose parameters are trained. A strategy may put another module with the same
            weights in its place while it validates.
        sid_version: version of the semantic IDs the model speaks; None for models without.
        partial_gradients: True if a step's losses may leave some parameters out.
    """

    name: str
    model: nn.Module
    sid_version: str | None
    partial_gradients: bool

    @property
    def separable(self) -> bool:
        """Whether "loss" is a mean over targets that compares no rows, so that a step may be computed in pieces."""

    def steps_per_epoch(self) -> int:
        """Steps of an epoch, whatever the number of workers."""

    def batches(self, epoch: int, rank: int, world: int, start_step: int = 0) -> Iterator[WorkerBatch]:
        """This worker's part of each step of an epoch, from ``start_step`` on; a pure function of its arguments."""

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Mean losses over the batch's targets; "loss" is minimised, the others are logged."""

    def validate(self, device: torch.device, rank: int = 0, world: int = 1) -> dict[str, float]:
        """Sums over this worker's part of the validation users, and "users", their number.

        The loop turns them into means over all; ``KEY_METRIC`` is among them. Sums over a segment of the users are
        called "segment/metric", beside "segment/users".
        """
