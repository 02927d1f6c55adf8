"""The two tasks of next-item training: a generative host, and the SASRec baseline."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from genrec.config import EvaluationSettings, SasRecSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.decoding import recommend
from genrec.losses import LOSSES, SEPARABLE, Loss, total_loss
from genrec.models.contracts import PAD_ITEM, Batch, MultiTable
from genrec.models.sasrec import SasRec
from genrec.training.batching import EpochBatches, TrainingRows, WorkerBatch, prefix_rows, window_rows
from genrec.training.loop import step_seed
from genrec.training.validation import CUTOFF, ranking_sums, sample_users


class NextItemTask:
    """What both tasks share: rows, batches and the validation users.

    Args:
        model: trained module.
        data: the prepared interactions.
        rows: from prefix_rows or window_rows.
        training: batch size and number of validation users.
        evaluation: seen-item policy and batch size of the validation.
        seed: of the order of data and the sample of users.
        max_history: items a model sees.
        aligned: one target slot per position.
    """

    name = "next-item"
    sid_version: str | None = None
    partial_gradients = False
    model: nn.Module

    def __init__(
        self,
        model: nn.Module,
        data: Interactions,
        rows: TrainingRows,
        training: TrainingSettings,
        evaluation: EvaluationSettings,
        seed: int,
        max_history: int,
        *,
        aligned: bool = False,
    ) -> None:
        self.model, self.data, self.seed, self.max_history = model, data, seed, max_history
        self.evaluation = evaluation
        self.epochs = EpochBatches(data, rows, training.batch_size, seed, aligned=aligned)
        self.validation_users = sample_users(data, training.validation_users, seed)

    @property
    def separable(self) -> bool:
        """Whether a step may be computed in pieces."""
        return False

    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        return self.epochs.steps_per_epoch

    def batches(self, epoch: int, rank: int, world: int, start_step: int = 0) -> Iterator[WorkerBatch]:
        """This worker's part of each step of an epoch."""
        return self.epochs.batches(epoch, rank, world, start_step)

    def validate(self, device: torch.device, rank: int = 0, world: int = 1) -> dict[str, float]:
        """Sums of Hit@10 and NDCG@10 over this worker's part of the validation users."""
        return ranking_sums(
            self.data,
            self.validation_users[rank::world],
            self.recommend,
            max_history=self.max_history,
            batch_size=self.evaluation.batch_size,
            exclude_seen=self.evaluation.seen_items == "exclude",
            device=device,
        )

    def recommend(self, batch: Batch, exclude_BS: Tensor) -> Tensor:
        """Items [B, 10] for a validation batch."""
        raise NotImplementedError


class HostTask(NextItemTask):
    """Next-item training of a generative host by the losses that the settings name.

    A causal host trains on windows, any other on prefixes.

    Args:
        backbone: a module that implements ``Backbone`` and whose forward gives ``Outputs``.
        losses: the registry; a plug-in passes a larger one.
        Others as for :class:`NextItemTask`.
    """

    def __init__(
        self,
        backbone: nn.Module,
        data: Interactions,
        training: TrainingSettings,
        evaluation: EvaluationSettings,
        seed: int,
        max_history: int,
        *,
        causal: bool = False,
        losses: Mapping[str, Loss] = LOSSES,
    ) -> None:
        rows = window_rows(data, max_history) if causal else prefix_rows(data, max_history)
        super().__init__(backbone, data, rows, training, evaluation, seed, max_history)
        self.terms, self.losses = training.losses, losses
        host: Any = backbone
        self.sid_version = host.sid_table.version
        self.name = type(backbone).__name__.lower()
        self.host, self.host_terms = host, training.losses

    @property
    def separable(self) -> bool:
        """Next-item losses are means over targets; further tasks of a host are drawn once a step."""
        return all(term.name in SEPARABLE for term in self.terms) and not isinstance(self.host, MultiTable)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """The weighted sum of the settings' losses and its parts."""
        return self.with_side_task(total_loss(self.model(batch), batch, self.terms, self.losses), batch)

    def with_side_task(self, parts: dict[str, Tensor], batch: Batch) -> dict[str, Tensor]:
        """The losses and that of one further task, where the host has such; its own part is "side-task"."""
        side = self.host.side_task(batch) if isinstance(self.host, MultiTable) else None
        if side is None:
            return parts
        outputs, own = side
        further = total_loss(outputs, own, self.host_terms)["loss"]
        return {**parts, "loss": parts["loss"] + self.host.side_weight * further, "side-task": further}

    def recommend(self, batch: Batch, exclude_BS: Tensor) -> Tensor:
        """The best ten of a beam search as wide as the evaluation's."""
        backbone: Any = self.model
        beams = max(self.evaluation.beams, CUTOFF)
        return recommend(backbone, batch, CUTOFF, beams=beams, exclude_BS=exclude_BS).items_BK


class SasRecTask(NextItemTask):
    """SASRec: all positions of a window at once. Negatives of a step are the same on every worker."""

    name = "sasrec"

    def __init__(
        self,
        model: SasRec,
        data: Interactions,
        training: TrainingSettings,
        evaluation: EvaluationSettings,
        seed: int,
        max_history: int,
    ) -> None:
        rows = window_rows(data, max_history)
        super().__init__(model, data, rows, training, evaluation, seed, max_history, aligned=True)

    def loss(self, batch: Batch, step: int) -> dict[str, Tensor]:
        """Softmax loss over sampled negatives or the catalog."""
        model: Any = self.model
        generator = torch.Generator().manual_seed(step_seed(self.seed, step, 0))
        parts = model.loss(batch, generator)
        return {"loss": sum(parts.values()), **parts}

    def recommend(self, batch: Batch, exclude_BS: Tensor) -> Tensor:
        """The ten items of highest score."""
        model: Any = self.model
        scores_BN = model.score_histories(batch.history_BT).float()
        if exclude_BS.shape[1]:
            spare = nn.functional.pad(scores_BN, (0, 1))  # PAD_ITEM = -1 falls on the spare column
            index_BS = torch.where(exclude_BS == PAD_ITEM, scores_BN.shape[1], exclude_BS)
            scores_BN = spare.scatter(1, index_BS, -torch.inf)[:, :-1]
        best = scores_BN.topk(min(CUTOFF, scores_BN.shape[1]), dim=1)
        return best.indices.masked_fill(best.values.isinf(), PAD_ITEM)


def sasrec_training(sasrec: SasRecSettings, training: TrainingSettings, data: Interactions) -> TrainingSettings:
    """The loop's settings for SASRec: its own recipe, spread as the host's training is.

    ``SasRecSettings.batch_size`` counts users; the loop counts targets, of which a user has a mean number.
    """
    users = int(np.count_nonzero(data.train_end > 1))
    targets = round(sasrec.batch_size * data.n_train_prefixes / max(users, 1))
    return training.model_copy(
        update={
            "batch_size": max(targets, 1),
            "epochs": sasrec.epochs,
            "learning_rate": sasrec.learning_rate,
            "weight_decay": sasrec.weight_decay,
            "patience": sasrec.patience,
            "strategy": "single" if training.strategy == "single" else "ddp",
        }
    )
