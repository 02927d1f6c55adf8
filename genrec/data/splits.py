"""Leave-one-out and temporal splits, as positions in each user's own sequence."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.errors import DataError

FEWEST_FOR_TARGETS = 3
"""Leave-one-out: a user needs an item to learn from, one to validate and one to test."""


@dataclass(frozen=True, eq=False)
class SplitPositions:
    """int32 [U] each, as in Interactions; ``times`` are the temporal split's two borders, if any."""

    train_end: NDArray[np.int32]
    valid_at: NDArray[np.int32]
    test_at: NDArray[np.int32]
    times: tuple[int, int] | None = None


def leave_one_out(lengths: NDArray[np.int64]) -> SplitPositions:
    """Last item test, the one before validation, the rest training (``lengths``: int64 [U]).

    Users with fewer than three interactions have no targets and are training data throughout.
    """
    enough = lengths >= FEWEST_FOR_TARGETS
    return SplitPositions(
        np.where(enough, lengths - 2, lengths).astype(np.int32),
        np.where(enough, lengths - 2, -1).astype(np.int32),
        np.where(enough, lengths - 1, -1).astype(np.int32),
    )


def temporal(
    times: NDArray[np.int64], offsets: NDArray[np.int64], valid_share: float, test_share: float
) -> SplitPositions:
    """Two global moments part training, validation and test: nothing learnt from the future.

    The borders are the times at which the given shares of all interactions are still to come. A user's
    validation target is the first interaction in the validation time, the test target the first in the
    test time; a target without any history is none. Equal times fall on the same side.

    Args:
        times: int64 [E] seconds, rising within each user.
        offsets: int64 [U + 1].
        valid_share: share of all interactions in the validation time.
        test_share: share of all interactions in the test time.

    Raises:
        DataError: no two such moments exist (too many equal times).
    """
    last = len(times) - 1
    at = [min(int((1 - share) * len(times) + 1e-9), last) for share in (valid_share + test_share, test_share)]
    valid_from, test_from = (int(t) for t in np.partition(times, at)[at])
    if not times.min() < valid_from < test_from:
        raise DataError(
            f"split temporal: the times {times.min()}, {valid_from}, {test_from} of the first, the first validation "
            "and the first test interaction must differ; use split leave-one-out or other shares"
        )
    lengths = np.diff(offsets)
    before = [_counts_per_user(times < border, offsets) for border in (valid_from, test_from)]
    train_end, valid_end = before
    valid_at = np.where((train_end > 0) & (train_end < valid_end), train_end, -1)
    test_at = np.where((valid_end > 0) & (valid_end < lengths), valid_end, -1)
    return SplitPositions(
        train_end.astype(np.int32), valid_at.astype(np.int32), test_at.astype(np.int32), (valid_from, test_from)
    )


def _counts_per_user(mask: NDArray[np.bool_], offsets: NDArray[np.int64]) -> NDArray[np.int64]:
    total = np.concatenate([[0], np.cumsum(mask)])
    return total[offsets[1:]] - total[offsets[:-1]]
