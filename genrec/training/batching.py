"""Training rows and the batches of an epoch, as flat arrays.

A training pair is (non-empty history, next item) within the training part of a user. A *row* trains one
or several pairs that share a history:

* ``prefix_rows``: one row a pair, the history cut to the last ``max_history`` items. For a host that
  reads a history in both directions.
* ``window_rows``: windows of up to ``max_history + 1`` consecutive training items; each position
  predicts the item after it. For causal models: all pairs of a user in one pass. Windows overlap, so
  that a target beyond the first window still sees at least half of ``max_history`` items; every pair is
  the target of exactly one row.

An epoch is a pure function of (seed, epoch). Rows are sorted by length with ties in random order, cut
into global batches and these are shuffled, so almost nothing is padding. The rows of a global batch do
not depend on the number of workers: worker r takes every world-th row, so 1, 2 or N workers train
alike, no row is dropped and none is repeated. Workers whose part is smaller (or empty, at the tail) carry
a ``share`` that makes the mean over workers the mean over the global batch.

Shape letters as in genrec.models.contracts; R is the number of rows here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.data.interactions import Interactions, Split
from genrec.errors import DataError
from genrec.models.contracts import PAD_ITEM, Batch

IntArray = NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """R rows over the flat item array.

    Attributes:
        begin: int64 [R], where the row's history begins in ``Interactions.items``.
        length: int32 [R], items of history.
        count: int32 [R], targets: the items after the last ``count`` positions of the history.
    """

    begin: IntArray
    length: NDArray[np.int32]
    count: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.begin)


@dataclass(frozen=True)
class WorkerBatch:
    """One worker's part of a global batch.

    Attributes:
        batch: the part; never empty (a worker without a row gets one row and ``share`` 0).
        share: world * (targets here / targets of the global batch). The mean loss here times ``share``,
            averaged over the workers, is the mean loss of the global batch.
    """

    batch: Batch
    share: float = 1.0


def prefix_rows(data: Interactions, max_history: int) -> TrainingRows:
    """One row per training pair; histories keep the last ``max_history`` items."""
    user_begin, position = _pairs(data)
    length = np.minimum(position, max_history)
    begin = user_begin + position - length
    return TrainingRows(begin, length.astype(np.int32), np.ones(len(begin), dtype=np.int32))


def window_rows(data: Interactions, max_history: int) -> TrainingRows:
    """Overlapping windows; each training pair is the target of exactly one.

    A user's first window holds targets 1 .. H. Each later one adds up to ``H - ceil(H / 2) + 1``
    targets, of which the first sees at least ``ceil(H / 2)`` items; the user's last window ends at the
    last target and so sees more.
    """
    H = max_history
    context = (H + 1) // 2
    stride = H - context + 1
    pairs = np.maximum(data.train_end.astype(np.int64) - 1, 0)
    later = np.maximum(-(-(pairs - H) // stride), 0)
    windows = np.where(pairs > 0, 1 + later, 0)
    user = np.repeat(np.arange(data.n_users), windows)
    order = np.arange(len(user)) - np.repeat(np.cumsum(windows) - windows, windows)
    first_target = np.where(order == 0, 1, H + 1 + (order - 1) * stride)
    last_target = np.minimum(np.where(order == 0, H, first_target + stride - 1), pairs[user])
    length = np.minimum(last_target, H)
    begin = data.offsets[:-1][user] + last_target - length
    return TrainingRows(begin, length.astype(np.int32), (last_target - first_target + 1).astype(np.int32))


def _pairs(data: Interactions) -> tuple[IntArray, IntArray]:
    """Start of the user's sequence and position in it, for the target of every training pair."""
    pairs = np.maximum(data.train_end.astype(np.int64) - 1, 0)
    position = 1 + np.arange(pairs.sum()) - np.repeat(np.cumsum(pairs) - pairs, pairs)
    return np.repeat(data.offsets[:-1], pairs), position


class EpochBatches:
    """The global batches of every epoch, and each worker's part of them.

    Args:
        data: whose training part is used.
        rows: from :func:`prefix_rows` or :func:`window_rows`.
        batch_size: targets of a global batch. The targets of an epoch are spread evenly over its steps, so no
            step is much smaller than another; a step of rows with several targets may exceed it by a row.
        seed: with the epoch's number it determines order and composition.
        aligned: one target slot per history position (P = T, slot t is what comes after position t); else
            targets are packed.
    """

    def __init__(
        self, data: Interactions, rows: TrainingRows, batch_size: int, seed: int, *, aligned: bool = False
    ) -> None:
        self.data = data
        self.rows = rows
        self.batch_size = batch_size
        self.seed = seed
        self.aligned = aligned
        self._targets = int(rows.count.sum(dtype=np.int64))
        if self._targets == 0:
            raise DataError("the training part holds no (history, next item) pair; every user has fewer than 2 items")
        self.steps_per_epoch = min(-(-self._targets // batch_size), self._targets // int(rows.count.max()))

    def epoch(self, epoch: int) -> tuple[IntArray, IntArray]:
        """Rows in their order [R], and the bounds [steps, 2] of each step's rows in it."""
        rng = np.random.default_rng([self.seed, epoch])
        shuffled = rng.permutation(len(self.rows))
        order = shuffled[np.argsort(self._sort_key[shuffled], kind="stable")]
        cuts = np.arange(1, self.steps_per_epoch) * self._targets // self.steps_per_epoch
        ends = np.cumsum(self.rows.count[order], dtype=np.int64)
        bounds = np.concatenate([[0], np.searchsorted(ends, cuts, side="right"), [len(order)]])
        return order, np.stack([bounds[:-1], bounds[1:]], axis=1)[rng.permutation(self.steps_per_epoch)]

    @cached_property
    def _sort_key(self) -> NDArray[np.integer]:
        """By length, then number of targets; small integers sort fast."""
        lengths, counts = self.rows.length, self.rows.count
        if counts.max() == 1 and lengths.max() < 2**15:
            return lengths.astype(np.int16)
        return lengths.astype(np.int64) * (int(counts.max()) + 1) + counts

    def batches(self, epoch: int, rank: int = 0, world: int = 1, start_step: int = 0) -> Iterator[WorkerBatch]:
        """This worker's part of each step of an epoch, from ``start_step`` on."""
        order, steps = self.epoch(epoch)
        for begin, end in steps[start_step:]:
            mine = order[begin:end][rank::world]
            total = int(self.rows.count[order[begin:end]].sum())
            if len(mine) == 0:
                yield WorkerBatch(self.gather(order[begin : begin + 1]), 0.0)
            else:
                yield WorkerBatch(self.gather(mine), world * int(self.rows.count[mine].sum()) / total)

    def gather(self, row: IntArray) -> Batch:
        """The batch of these rows: histories, their targets and how much each target sees."""
        begin, length = self.rows.begin[row], self.rows.length[row].astype(np.int64)
        count = self.rows.count[row].astype(np.int64)
        items = self.data.items
        t = np.arange(length.max())
        inside = t < length[:, None]
        history = np.where(inside, items[np.where(inside, begin[:, None] + t, 0)], PAD_ITEM)
        if self.aligned:
            visible = np.broadcast_to(t + 1, inside.shape)
            has_target = inside & (t >= (length - count)[:, None])
        else:
            visible = (length - count)[:, None] + 1 + np.arange(count.max())
            has_target = visible <= length[:, None]
        target = np.where(has_target, items[np.where(has_target, begin[:, None] + visible, 0)], PAD_ITEM)
        users = np.searchsorted(self.data.offsets, begin, side="right") - 1
        return Batch(
            history_BT=torch.from_numpy(history.astype(np.int64)),
            targets_BP=torch.from_numpy(target.astype(np.int64)),
            visible_BP=torch.from_numpy(np.minimum(visible, length[:, None])),
            users_B=torch.from_numpy(users),
        )


def evaluation_batch(data: Interactions, users: IntArray, split: Split, max_history: int) -> Batch:
    """Histories of these users before their target in a split, cut to the last ``max_history`` items; padded right."""
    at = (data.valid_at if split == "valid" else data.test_at)[users].astype(np.int64)
    length = np.minimum(at, max_history)
    t = np.arange(max(int(length.max()), 1))
    inside = t < length[:, None]
    index = np.where(inside, (data.offsets[users] + at - length)[:, None] + t, 0)
    history = np.where(inside, data.items[index], PAD_ITEM).astype(np.int64)
    return Batch(torch.from_numpy(history), users_B=torch.from_numpy(users))
