"""Whose representations a history's memory holds: its neighbours', or for a control another user's neighbours'.

The control (``plugin.memory.neighbours: shuffled``) answers what the neighbours add beyond having a memory at
all, at equal steps. Which other user stands in follows from history and user alone, so it does not depend on
how queries are batched, and training, evaluation and serving agree.

Shape letters: B queries, T history items, R retrieved users, U users, Q users that may stand in.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.numpy import load_file, save_file

from genrec.errors import ArtifactError
from genrec.models.contracts import Memory
from genrec.retrieval.neighbours import PAD_USER, Neighbours
from genrec.retrieval.representations import users_memory

SHUFFLED = "shuffled_users.safetensors"
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
"""Odd, its bits well mixed (2**64 / golden ratio): Fibonacci hashing."""


@dataclass(frozen=True, eq=False)
class OthersNeighbours:
    """Neighbours of users that may stand in for others.

    Attributes:
        owners_Q: int64, whose neighbours a row holds.
        users_QR: int64 [Q, R], these neighbours, PAD_USER where fewer were found.
    """

    owners_Q: NDArray[np.int64]
    users_QR: NDArray[np.int64]

    def instead_of(self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64]) -> NDArray[np.int64]:
        """int64 [B, R]: neighbours of another user than each asked about, who is not among them either."""
        row_B = (_hashes(histories_BT, users_B) % np.uint64(len(self.owners_Q))).astype(np.int64)
        row_B = np.where(self.owners_Q[row_B] == users_B, (row_B + 1) % len(self.owners_Q), row_B)
        users_BR = self.users_QR[row_B]
        own_BR = (users_BR == users_B[:, None]) | (self.owners_Q[row_B] == users_B)[:, None]
        return np.where(own_BR, PAD_USER, users_BR)

    def save(self, directory: Path) -> None:
        """Write them below ``directory``."""
        save_file({"owners": self.owners_Q, "users": self.users_QR}, directory / SHUFFLED)

    @classmethod
    def load(cls, directory: Path) -> OthersNeighbours:
        """Read what :meth:`save` wrote.

        Raises:
            ArtifactError: absent or damaged.
        """
        try:
            arrays = load_file(directory / SHUFFLED)
            return cls(arrays["owners"], arrays["users"])
        except (OSError, SafetensorError, KeyError) as error:
            raise ArtifactError(f"{directory / SHUFFLED}: not readable ({error}). Run `finetune` again.") from error


@dataclass(frozen=True, eq=False)
class UserMemory:
    """Turns neighbours into what the decoder attends to.

    Attributes:
        vectors_UD: float32 [U, D], the users' mean-pooled representations, made of their training items alone.
        others: neighbours of stand-ins, for the control; None: the real neighbours.
    """

    vectors_UD: NDArray[np.float32]
    others: OthersNeighbours | None = None

    def of(self, neighbours: Neighbours, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64]) -> Memory:
        """The memory of each query.

        Args:
            neighbours: found for the queries.
            histories_BT: int64 [B, T], what the queries know, padded right with -1.
            users_B: int64 [B], who asks; -1: unknown.
        """
        if self.others is not None:
            users_BR = self.others.instead_of(histories_BT, users_B)
            neighbours = Neighbours(users_BR, (users_BR != PAD_USER).astype(np.float32))
        return users_memory(neighbours, self.vectors_UD)


def _hashes(histories_BT: NDArray[np.int64], users_B: NDArray[np.int64]) -> NDArray[np.uint64]:
    """uint64 [B]; padding at the right changes nothing."""
    found = users_B.astype(np.uint64) * MULTIPLIER
    for item_B in histories_BT.T:
        mixed = (found ^ (item_B.astype(np.uint64) + np.uint64(1))) * MULTIPLIER
        found = np.where(item_B >= 0, mixed ^ (mixed >> np.uint64(29)), found)
    return found
