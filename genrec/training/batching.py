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

A worker holds the item column (4 bytes an interaction), 6 bytes a row and, during an epoch, 4 more for the order;
drawing that order takes 10 bytes a row for a moment. All workers draw the same order, so none has to be told its rows.

Shape letters as in genrec.models.contracts; R is the number of rows here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.data.interactions import Interactions, Split
from genrec.errors import DataError
from genrec.models.contracts import PAD_ITEM, Batch

IntArray = NDArray[np.int64]
USERS_AT_ONCE = 1 << 16


@dataclass(frozen=True, eq=False)
class TrainingRows:
    """R rows over the flat item array, in integers as small as they fit.

    Attributes:
        begin: int [R], where the row's history begins in ``Interactions.items``.
        length: int [R], items of history.
        count: int [R], targets: the items after the last ``count`` positions of the history; one read-only value
            repeated where every row has one.
    """

    begin: NDArray[np.integer]
    length: NDArray[np.integer]
    count: NDArray[np.integer]

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
    pairs = np.maximum(data.train_end.astype(np.int64) - 1, 0)
    bounds = np.concatenate([[0], np.cumsum(pairs)])
    begin = np.empty(bounds[-1], dtype=_smallest(len(data.items)))
    length = np.empty(bounds[-1], dtype=_smallest(max_history))
    for first in range(0, data.n_users, USERS_AT_ONCE):
        last = min(first + USERS_AT_ONCE, data.n_users)
        part, own = slice(bounds[first], bounds[last]), pairs[first:last]
        position = 1 + np.arange(part.start, part.stop) - np.repeat(bounds[first:last], own)
        length[part] = np.minimum(position, max_history)
        begin[part] = np.repeat(data.offsets[first:last], own) + position - length[part]
    return TrainingRows(begin, length, np.broadcast_to(np.int16(1), len(begin)))


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
    count = last_target - first_target + 1
    small = _smallest(H)
    return TrainingRows(begin.astype(_smallest(len(data.items))), length.astype(small), count.astype(small))


def _smallest(largest: int) -> np.dtype[np.signedinteger[Any]]:
    """A signed integer type for values up to ``largest``; int16, int32 or int64."""
    return np.result_type(np.int16, np.min_scalar_type(-largest - 1))


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

    def epoch(self, epoch: int) -> tuple[NDArray[np.integer], IntArray]:
        """Rows in their order [R], and the bounds [steps, 2] of each step's rows in it."""
        rng = np.random.default_rng([self.seed, epoch])
        order = rng.permutation(np.arange(len(self.rows), dtype=_smallest(len(self.rows))))
        order = order[np.argsort(self._sort_key[order], kind="stable")]
        cuts = np.arange(1, self.steps_per_epoch) * self._targets // self.steps_per_epoch
        if self._targets > len(self.rows):
            cuts = np.searchsorted(np.cumsum(self.rows.count[order], dtype=np.int64), cuts, side="right")
        bounds = np.concatenate([[0], cuts, [len(order)]])
        return order, np.stack([bounds[:-1], bounds[1:]], axis=1)[rng.permutation(self.steps_per_epoch)]

    @cached_property
    def _sort_key(self) -> NDArray[np.integer]:
        """By length, then number of targets; small integers sort fast."""
        lengths, most = self.rows.length, int(self.rows.count.max())
        if most == 1:
            return lengths
        key = lengths.astype(np.int64) * (most + 1) + self.rows.count
        return key.astype(_smallest(int(key.max())))

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

    def gather(self, row: NDArray[np.integer]) -> Batch:
        """The batch of these rows: histories, their targets and how much each target sees."""
        begin, length = self.rows.begin[row].astype(np.int64), self.rows.length[row].astype(np.int64)
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
