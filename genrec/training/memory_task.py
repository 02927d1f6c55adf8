"""Fine-tuning of a decoder that attends to retrieved users (GENPLUGIN, section 3.4).

One row a training moment: what was known of a user, the neighbours found for exactly that (never the user), and the
item that came next. Causal hosts train on such rows, too, since each moment has neighbours of its own. Which
neighbours a moment has is read from the retrieval cache, so an epoch costs no search.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from genrec.config import EvaluationSettings, TrainingSettings
from genrec.data.interactions import Interactions
from genrec.decoding import recommend
from genrec.genplugin.memory import MemoryReader, freeze_encoder
from genrec.genplugin.users import UserMemory
from genrec.models.contracts import Batch
from genrec.retrieval.cache_table import CachedRows
from genrec.training.batching import EpochBatches, TrainingRows, prefix_rows
from genrec.training.next_item import HostTask
from genrec.training.validation import CUTOFF


@dataclass(frozen=True, eq=False)
class CachedUsers:
    """The memory of every training and validation moment.

    Attributes:
        train, valid: neighbours by (user, position); a moment that is not there has none.
        memory: what becomes of neighbours.
    """

    train: CachedRows
    valid: CachedRows
    memory: UserMemory

    def extend(self, batch: Batch, positions_B: NDArray[np.int64], rows: CachedRows) -> Batch:
        """The batch with the memory of its moments.

        Args:
            batch: histories and users.
            positions_B: int64 [B], number of items that were known.
            rows: ``train`` or ``valid``.
        """
        assert batch.users_B is not None
        users_B, history_BT = batch.users_B.cpu().numpy(), batch.history_BT.cpu().numpy()
        found = rows.take(rows.rows_of(users_B, positions_B)).neighbours
        users = self.memory.of(found, history_BT, users_B)
        return replace(batch, neighbours=[*batch.neighbours, users]).to(batch.history_BT.device)


class MomentBatches(EpochBatches):
    """Batches whose rows bring the memory of their moments.

    Args:
        data: whose training part is used.
        rows: one a moment.
        batch_size: targets of a global batch.
        seed: as for :class:`EpochBatches`.
        users: memories; None: no memory.
    """

    def __init__(
        self, data: Interactions, rows: TrainingRows, batch_size: int, seed: int, users: CachedUsers | None
    ) -> None:
        super().__init__(data, rows, batch_size, seed)
        self.users = users

    def gather(self, row: NDArray[np.integer]) -> Batch:
        """The batch of these rows."""
        batch = super().gather(row)
        if self.users is None:
            return batch
        assert batch.users_B is not None
        positions_B = self.rows.begin[row] + self.rows.length[row] - self.data.offsets[batch.users_B.numpy()]
        return self.users.extend(batch, positions_B, self.users.train)


class MemoryTask(HostTask):
    """Trains what ``encode`` does not depend on, and what the memory adds; validates with the memory.

    Args:
        reader: the pretrained host with its entry for the memory.
        users: memories of all moments; None: the same steps without one.
        train_positions: latest moments of a user's training part that are trained on; None: all.
        Others as for :class:`HostTask`.
    """

    def __init__(
        self,
        reader: MemoryReader,
        users: CachedUsers | None,
        data: Interactions,
        training: TrainingSettings,
        evaluation: EvaluationSettings,
        seed: int,
        max_history: int,
        *,
        train_positions: int | None = None,
    ) -> None:
        super().__init__(reader, data, training, evaluation, seed, max_history)
        freeze_encoder(reader.backbone)
        rows = latest_rows(data, prefix_rows(data, max_history), train_positions)
        self.epochs = MomentBatches(data, rows, training.batch_size, seed, users)
        self.users = users
        self.name = f"memory-{type(reader.host).__name__.lower()}"

    def recommend(self, batch: Batch, exclude_BS: Tensor) -> Tensor:
        """The best ten of a beam search over history and memory."""
        if self.users is not None:
            assert batch.users_B is not None
            positions_B = self.data.valid_at[batch.users_B.cpu().numpy()].astype(np.int64)
            batch = self.users.extend(batch, positions_B, self.users.valid)
        model: Any = self.model
        backbone = model.host if model.gated is None else model  # as it will be served
        beams = max(self.evaluation.beams, CUTOFF)
        return recommend(backbone, batch, CUTOFF, beams=beams, exclude_BS=exclude_BS).items_BK


def latest_rows(data: Interactions, rows: TrainingRows, count: int | None) -> TrainingRows:
    """The rows of each user's last ``count`` training moments (None: all)."""
    if count is None:
        return rows
    end = rows.begin + rows.length
    user = np.searchsorted(data.offsets, rows.begin, side="right") - 1
    kept = end - data.offsets[user] >= data.train_end[user] - count
    return TrainingRows(rows.begin[kept], rows.length[kept], rows.count[kept])
