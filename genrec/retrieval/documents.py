"""A user's document: the texts of the last items of a history, as a bag of words.

Words are counted once per item; the bag of a history is the sum of its items' bags, one sparse product
for any number of users. What a document may hold is decided by the history given: the documents of
indexed users are made of their training items alone, a query of what was known at that moment.

Shape letters: B histories, T history items, N items, W words, U users.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from sklearn.feature_extraction.text import CountVectorizer

from genrec.data.interactions import Interactions
from genrec.errors import DataError

WORD = r"(?u)\b\w\w+\b"
PAD = -1  # genrec.models.contracts.PAD_ITEM, written here so that text search needs no torch


@dataclass(frozen=True, eq=False)
class ItemBags:
    """Word counts of every item.

    Attributes:
        counts_NW: float64 CSR [N, W].
    """

    counts_NW: sp.csr_matrix

    @classmethod
    def fit(cls, item_texts: Sequence[str]) -> ItemBags:
        """Count the words (lower case, two letters or more) of the catalog's texts.

        Args:
            item_texts: N texts.

        Raises:
            DataError: no text holds a word.
        """
        try:
            counts = CountVectorizer(token_pattern=WORD).fit_transform(item_texts)
        except ValueError as error:
            raise DataError(f"retrieval: the catalog's {len(item_texts)} texts hold no words ({error})") from error
        counts_NW = sp.csr_matrix(counts, dtype=np.float64)
        counts_NW.sort_indices()
        return cls(counts_NW)

    @property
    def n_items(self) -> int:
        """N, the number of items."""
        return int(self.counts_NW.shape[0])

    def documents(self, histories_BT: NDArray[np.int64]) -> sp.csr_matrix:
        """float64 CSR [B, W], word counts of histories padded with -1; indices sorted."""
        rows, steps = np.nonzero(histories_BT != PAD)
        items = histories_BT[rows, steps]
        counts_BN = sp.csr_matrix((np.ones(len(items)), (rows, items)), shape=(len(histories_BT), self.n_items))
        documents_BW = (counts_BN @ self.counts_NW).tocsr()
        documents_BW.sort_indices()
        return documents_BW


def known_histories(
    interactions: Interactions, users_B: NDArray[np.int64], positions_B: NDArray[np.int64], max_history: int
) -> NDArray[np.int64]:
    """What was known of a user at a position of its sequence.

    Args:
        interactions: the prepared data.
        users_B: int64 [B], user indices.
        positions_B: int64 [B]; the first ``positions_B`` items of the user are known.
        max_history: T; of those the last T are taken.

    Returns:
        int64 [B, T'], T' <= T the longest row, oldest first, padded right with -1.
    """
    positions_B = np.maximum(np.asarray(positions_B, dtype=np.int64), 0)
    lengths_B = np.minimum(positions_B, max_history)
    steps_T = np.arange(max(int(lengths_B.max(initial=0)), 1))
    inside_BT = steps_T < lengths_B[:, None]
    index_BT = (interactions.offsets[users_B] + positions_B - lengths_B)[:, None] + steps_T
    return np.where(inside_BT, interactions.items[np.where(inside_BT, index_BT, 0)], PAD).astype(np.int64)


def training_histories(interactions: Interactions, users_B: NDArray[np.int64], max_history: int) -> NDArray[np.int64]:
    """int64 [B, T'], the last ``max_history`` training items: all that an index may know of these users."""
    return known_histories(interactions, users_B, interactions.train_end[users_B].astype(np.int64), max_history)


def latest_items(histories_BT: NDArray[np.int64], max_history: int) -> NDArray[np.int64]:
    """int64 [B, T'], the last ``max_history`` items of histories padded right with -1."""
    lengths_B = (histories_BT != PAD).sum(axis=1)
    kept_B = np.minimum(lengths_B, max_history)
    steps_T = np.arange(max(int(kept_B.max(initial=0)), 1))
    inside_BT = steps_T < kept_B[:, None]
    index_BT = np.where(inside_BT, (lengths_B - kept_B)[:, None] + steps_T, 0)
    if histories_BT.shape[1] == 0:
        return np.full(index_BT.shape, PAD, dtype=np.int64)
    return np.where(inside_BT, np.take_along_axis(histories_BT, index_BT, axis=1), PAD)


def training_matrix(interactions: Interactions, *, recency: float = 1.0) -> sp.csr_matrix:
    """float32 CSR [U, N], which training items a user has.

    An item weighs ``recency`` to the power of its distance from the end of the training part; of an item
    taken twice the later counts.
    """
    lengths_U = np.diff(interactions.offsets)
    owner_E = np.repeat(np.arange(interactions.n_users), lengths_U)
    back_E = interactions.train_end[owner_E] - 1 - (np.arange(len(owner_E)) - interactions.offsets[owner_E])
    inside_E = back_E >= 0
    owner, item, back = owner_E[inside_E], interactions.items[inside_E].astype(np.int64), back_E[inside_E]
    order = np.lexsort((back, item, owner))
    owner, item, back = owner[order], item[order], back[order]
    first = np.ones(len(owner), dtype=bool)
    first[1:] = (owner[1:] != owner[:-1]) | (item[1:] != item[:-1])
    weight = (np.float64(recency) ** back[first]).astype(np.float32)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(owner[first], minlength=interactions.n_users))])
    shape = (interactions.n_users, interactions.n_items)
    return sp.csr_matrix((weight, item[first].astype(np.int32), indptr), shape=shape)
