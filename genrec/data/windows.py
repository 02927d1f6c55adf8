"""Histories of many users at once, as arrays: the windows a model sees and the items already seen.

U' selected users, T history items.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from genrec.data.interactions import Interactions

PAD_ITEM = -1
"""The models' padding (genrec.models.contracts.PAD_ITEM), named here because imports go down only."""

Moment = Literal["train", "valid", "test", "all"]
"""Up to where a history goes: the training part, the validation or test target, or everything."""


@dataclass(frozen=True, eq=False)
class SeenItems:
    """Items per user in compressed rows: user row u owns items[offsets[u]:offsets[u + 1]], oldest first.

    ``offsets`` is int64 [U' + 1], ``items`` int32; repetitions stay.
    """

    offsets: NDArray[np.int64]
    items: NDArray[np.int32]

    def __len__(self) -> int:
        return len(self.offsets) - 1

    def __getitem__(self, row: int) -> NDArray[np.int32]:
        """The items of one of the selected users (its row, not its user index)."""
        return self.items[self.offsets[row] : self.offsets[row + 1]]


def padded_histories(
    interactions: Interactions, users: ArrayLike, split: Moment, max_history: int | None
) -> NDArray[np.int64]:
    """int64 [U', T]: each user's last ``max_history`` items (None: all) before the moment, oldest first, padded right.

    T is the longest of these histories, and 1 if all are empty. A user without a target in that split has none.
    """
    begin, end = _bounds(interactions, users, split)
    lengths = end - begin if max_history is None else np.minimum(end - begin, max_history)
    steps_T = np.arange(max(int(lengths.max(initial=0)), 1))
    inside_UT = steps_T < lengths[:, None]
    index_UT = np.where(inside_UT, (end - lengths)[:, None] + steps_T, 0)
    return np.where(inside_UT, interactions.items[index_UT], PAD_ITEM).astype(np.int64)


def seen_items(interactions: Interactions, users: ArrayLike, split: Moment) -> SeenItems:
    """Everything that each of the users had before the moment."""
    begin, end = _bounds(interactions, users, split)
    lengths = end - begin
    offsets = np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)
    rows = np.arange(offsets[-1]) + np.repeat(begin - offsets[:-1], lengths)
    return SeenItems(offsets, interactions.items[rows])


def _bounds(interactions: Interactions, users: ArrayLike, split: Moment) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    chosen = np.asarray(users, dtype=np.int64)
    begin = interactions.offsets[chosen]
    if split == "all":
        return begin, interactions.offsets[chosen + 1]
    ends = {"train": interactions.train_end, "valid": interactions.valid_at, "test": interactions.test_at}
    return begin, begin + np.maximum(ends[split][chosen], 0)
