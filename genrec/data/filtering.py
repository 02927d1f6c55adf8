"""The pure core of preparation, on integer arrays: order, repetitions, k-core, head and tail.

No files, no Ray, no Python loop over rows. E interactions, U users, N items.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.data.interactions import Interactions


@dataclass(frozen=True, eq=False)
class Log:
    """Interactions as parallel arrays: int32 [E], int32 [E], int64 [E] seconds and bool [E] (time known)."""

    user: NDArray[np.int32]
    item: NDArray[np.int32]
    time: NDArray[np.int64]
    timed: NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.user)

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> Log:
        """These rows (indices or a mask)."""
        return Log(self.user[rows], self.item[rows], self.time[rows], self.timed[rows])


def by_user_and_time(log: Log, *, keep_order: bool) -> Log:
    """Sort by user, then time; equal times (or all, with ``keep_order``) stay in the order given."""
    keys = (log.user,) if keep_order else (log.time, log.user)
    return log.take(np.lexsort(keys))


def without_repetitions(log: Log) -> Log:
    """Drop what is given twice: same user, item and second. The first stays.

    The log must be sorted by user and time. A repeated item at another time is a new interaction.
    """
    if len(log) < 2:
        return log
    tied = (log.user[1:] == log.user[:-1]) & (log.time[1:] == log.time[:-1])
    # Only runs of equal (user, time) can repeat; they are few, and only they are sorted by item.
    in_run = np.append(tied, False) | np.append(False, tied)
    rows = np.flatnonzero(in_run)
    run = np.cumsum(~np.append(False, tied))[rows]
    order = np.lexsort((log.item[rows], run))
    rows, run = rows[order], run[order]
    again = (run[1:] == run[:-1]) & (log.item[rows[1:]] == log.item[rows[:-1]])
    keep = np.ones(len(log), np.bool_)
    keep[rows[1:][again]] = False
    return log.take(keep)


def k_core(
    user: NDArray[np.int32], item: NDArray[np.int32], min_user: int, min_item: int
) -> tuple[NDArray[np.bool_], int]:
    """The largest part in which each user and item has enough interactions.

    Too rare users and items are dropped together, again and again until none is left; the result does
    not depend on the order of dropping.

    Returns:
        bool [E] of what stays, and the number of rounds that dropped something.
    """
    rows = np.arange(len(user))
    rounds = 0
    while len(rows):
        users, items = user[rows], item[rows]
        enough = (np.bincount(users) >= min_user)[users] & (np.bincount(items) >= min_item)[items]
        if enough.all():
            break
        rows = rows[enough]
        rounds += 1
    keep = np.zeros(len(user), np.bool_)
    keep[rows] = True
    return keep, rounds


def relabelled(codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], NDArray[np.int64]]:
    """Codes without gaps, in the same order, and the old code of each new one."""
    used = np.bincount(codes) > 0
    return (np.cumsum(used, dtype=np.int32) - 1).astype(np.int32)[codes], np.flatnonzero(used)


def head_items(counts: NDArray[np.int64], share: float) -> NDArray[np.bool_]:
    """bool [N], the ``share`` (rounded down) most frequent items; ties go to the smaller index.

    An item that never occurs is not head, however few the others are. With counts over all interactions
    and share 0.2 this is the published GENPLUGIN grouping of Amazon Beauty, user for user.
    """
    size = int(share * len(counts) + 1e-9)
    head = np.zeros(len(counts), np.bool_)
    head[np.argsort(-counts, kind="stable")[:size]] = True
    return head & (counts > 0)


def cold_items(interactions: Interactions) -> NDArray[np.bool_]:
    """bool [N], True for items without a single training interaction."""
    return interactions.train_counts == 0
