"""BM25 user-kNN: what people with like texts in their history took. A dense scorer, for tables and blends.

A user's score for an item is the sum, over the neighbours whose training part holds the item, of the
neighbour's vote (see :mod:`genrec.retrieval.votes`). Alone it is weaker than item-kNN, but it finds other
items: standardised and added (``genrec.models.dense.Blend``), the two beat each one.

Shape letters: B queries, T history items, N items, U users, Z neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from genrec.config import RetrievalSettings
from genrec.data.interactions import Interactions
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.votes import NeighbourVotes


@dataclass(frozen=True, eq=False)
class UserKNN:
    """Text neighbours that vote for items.

    Attributes:
        users: the index of all users' training documents.
        votes: the weights of their items.
        neighbours: Z, users asked for each query.
    """

    users: Bm25Users
    votes: NeighbourVotes
    neighbours: int

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        item_texts: Sequence[str],
        settings: RetrievalSettings,
        *,
        neighbours: int = 100,
    ) -> UserKNN:
        """Index the training part of every user.

        Args:
            interactions: the data set; documents and votes know training items only.
            item_texts: N texts.
            settings: of BM25 and of the votes.
            neighbours: Z.

        Raises:
            DataError: texts and items differ in number, or there are no words to search.
        """
        users = Bm25Users.fit(interactions, item_texts, settings)
        return cls(users, NeighbourVotes.fit(interactions, settings), neighbours)

    def score_histories(
        self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64] | None = None
    ) -> NDArray[np.float32]:
        """float32 [B, N]; ``users_B`` (-1 or None: unknown) are never their own neighbours."""
        asked_B = np.full(len(histories_BT), -1, dtype=np.int64) if users_B is None else users_B
        found = self.users.search(histories_BT, asked_B, self.neighbours)
        return (self.votes.voters(found) @ self.votes.items_UN).toarray()
