"""The in-memory form of a prepared data set, which every later floor reads.

Sequences are flat arrays with offsets, so two million of them cost no Python objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Split = Literal["valid", "test"]


@dataclass(frozen=True, eq=False)
class Interactions:
    """Chronological item sequences of U users over N items, with their split.

    Attributes:
        items: int32 [E], item indices of all users, user after user, oldest first.
        offsets: int64 [U + 1], user u owns items[offsets[u]:offsets[u+1]].
        train_end: int32 [U], the first ``train_end`` interactions of a user are training data.
        valid_at, test_at: int32 [U], position of the validation / test target in the user's own
            sequence, -1 for none. A target's history is all that stands before it.
        n_items: N; the catalog may hold items that never occur.
        head_items: bool [N], True for head items (by the rule of the settings).
        times: int64 [E], Unix seconds, or None.
        user_ids: raw ids of the users, by index.
    """

    items: NDArray[np.int32]
    offsets: NDArray[np.int64]
    train_end: NDArray[np.int32]
    valid_at: NDArray[np.int32]
    test_at: NDArray[np.int32]
    n_items: int
    head_items: NDArray[np.bool_]
    times: NDArray[np.int64] | None = None
    user_ids: Sequence[str] = ()

    @property
    def n_users(self) -> int:
        """U, the number of users."""
        return len(self.offsets) - 1

    def sequence(self, user: int) -> NDArray[np.int32]:
        """All items of a user, oldest first."""
        return self.items[self.offsets[user] : self.offsets[user + 1]]

    def train_sequence(self, user: int) -> NDArray[np.int32]:
        """The training items of a user, oldest first."""
        begin = self.offsets[user]
        return self.items[begin : begin + self.train_end[user]]

    def users_with(self, split: Split) -> NDArray[np.int64]:
        """Indices of the users that have a target in that split."""
        return np.flatnonzero(self._at(split) >= 0)

    def targets(self, split: Split) -> NDArray[np.int32]:
        """int32 [U], the target item of each user in that split, -1 for none."""
        at = self._at(split)
        safe = np.minimum(self.offsets[:-1] + np.maximum(at, 0), len(self.items) - 1)
        return np.where(at >= 0, self.items[safe], -1).astype(np.int32)

    def history(self, user: int, split: Split) -> NDArray[np.int32]:
        """Everything before the user's target in that split, oldest first."""
        begin = self.offsets[user]
        return self.items[begin : begin + max(int(self._at(split)[user]), 0)]

    @cached_property
    def train_counts(self) -> NDArray[np.int64]:
        """int64 [N], how often each item occurs in the training part."""
        # A step up where a user begins, one down where the training part ends: one byte an interaction, not eight.
        begin = self.offsets[:-1]
        edges = np.zeros(len(self.items) + 1, dtype=np.int8)
        np.add.at(edges, begin, 1)
        np.subtract.at(edges, begin + self.train_end, 1)
        in_train = np.cumsum(edges[:-1], dtype=np.int8).view(np.bool_)
        return np.bincount(self.items[in_train], minlength=self.n_items)

    @property
    def n_train_prefixes(self) -> int:
        """Number of (non-empty history, next item) pairs within the training part."""
        return int(np.maximum(self.train_end - 1, 0).sum())

    def _at(self, split: Split) -> NDArray[np.int32]:
        return self.valid_at if split == "valid" else self.test_at
