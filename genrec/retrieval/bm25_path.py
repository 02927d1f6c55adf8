"""The text path: users whose document resembles the query's, by BM25.

Robertson's BM25 (Robertson & Zaragoza 2009): a word of a document weighs
``idf * tf / (tf + k1 * (1 - b + b * length / mean length))`` with ``idf = max(0, log((U - df + .5) / (df + .5)))``,
and a word counts as often as it stands in the query. bm25s calls it "robertson", rank_bm25 BM25Okapi with
epsilon 0 (times k1 + 1, a constant). Both are here and give one ranking:

* ``bm25s`` computes the weights of all documents once. A batch of queries is then answered from its
  postings, a word repeated in the query costing nothing more (benchmarks/retrieval.py).
* ``rank-bm25`` computes them at each query: the reference, and enough for a small corpus.

Scores are summed in float64 in the order of the words, then rounded to float32; equal scores rank by user
index. So neither shards nor batches change a result. A score of 0 (no word in common) is no neighbour.

Shape letters: B queries, T history items, W words, U users of the shard, Z kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Protocol

import bm25s
import numpy as np
import scipy.sparse as sp
from numpy.typing import NDArray
from rank_bm25 import BM25Okapi

from genrec.config import RetrievalSettings
from genrec.data.interactions import Interactions
from genrec.errors import DataError
from genrec.retrieval.documents import ItemBags, latest_items, training_histories
from genrec.retrieval.neighbours import Neighbours, top_positive

SCORES_AT_ONCE = 4_000_000
"""Scores held at once, which bounds the memory of a search."""


class Engine(Protocol):
    """Scores queries against the documents of a range of users."""

    def scores(self, words: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [U], for one query of distinct words, ascending, with their counts."""

    def part(self, begin: int, end: int) -> Engine:
        """The engine of documents ``begin`` to ``end`` alone, with the statistics of the whole corpus."""


@dataclass(frozen=True, eq=False)
class Bm25sEngine:
    """The weights that bm25s computed, word by word.

    Attributes:
        weights_WU: float64 CSR [W, U].
    """

    weights_WU: sp.csr_matrix

    @classmethod
    def fit(cls, documents_UW: sp.csr_matrix, k1: float, b: float) -> Bm25sEngine:
        """Index documents given as word counts."""
        n_users, n_words = documents_UW.shape
        words = np.repeat(documents_UW.indices, documents_UW.data.astype(np.int64))
        ends = np.concatenate([[0], np.cumsum(np.asarray(documents_UW.sum(axis=1)).ravel())]).astype(np.int64)
        index = bm25s.BM25(k1=k1, b=b, method="robertson", dtype="float64")
        tokens = [words[begin:end].tolist() for begin, end in pairwise(ends)]
        vocabulary = {str(word): word for word in range(n_words)}
        index.index((tokens, vocabulary), create_empty_token=False, show_progress=False)
        found = index.scores
        weights_WU = sp.csr_matrix((found["data"], found["indices"], found["indptr"]), shape=(n_words, n_users))
        weights_WU.eliminate_zeros()
        weights_WU.sort_indices()
        return cls(weights_WU)

    def scores(self, words: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [U], summed in the order of ``words``."""
        weights = self.weights_WU
        begins, ends = weights.indptr[words], weights.indptr[words + 1]
        spans = [slice(begin, end) for begin, end in zip(begins.tolist(), ends.tolist(), strict=True)]
        if not spans:
            return np.zeros(weights.shape[1])
        users = np.concatenate([weights.indices[span] for span in spans])
        summands = np.concatenate(
            [weights.data[span] * count for span, count in zip(spans, counts.tolist(), strict=True)]
        )
        return np.bincount(users, weights=summands, minlength=weights.shape[1]).astype(np.float64, copy=False)

    def part(self, begin: int, end: int) -> Bm25sEngine:
        """Columns ``begin`` to ``end``."""
        return Bm25sEngine(self.weights_WU[:, begin:end].tocsr())


@dataclass(frozen=True, eq=False)
class RankBm25Engine:
    """rank_bm25's index of the whole corpus, asked for some of its documents."""

    index: BM25Okapi
    begin: int
    end: int

    @classmethod
    def fit(cls, documents_UW: sp.csr_matrix, k1: float, b: float) -> RankBm25Engine:
        """Index documents given as word counts."""
        words = np.repeat(documents_UW.indices, documents_UW.data.astype(np.int64))
        ends = np.cumsum(np.asarray(documents_UW.sum(axis=1)).ravel()).astype(np.int64)
        tokens = [part.tolist() for part in np.split(words, ends[:-1])]
        return cls(BM25Okapi(tokens, k1=k1, b=b, epsilon=0.0), 0, len(tokens))

    def scores(self, words: NDArray[np.int64], counts: NDArray[np.float64]) -> NDArray[np.float64]:
        """float64 [U], on the scale of bm25s."""
        query = np.repeat(words, counts.astype(np.int64)).tolist()
        found = self.index.get_batch_scores(query, range(self.begin, self.end))
        return np.asarray(found, dtype=np.float64) / (self.index.k1 + 1)

    def part(self, begin: int, end: int) -> RankBm25Engine:
        """The same index, asked for documents ``begin`` to ``end`` alone."""
        return RankBm25Engine(self.index, self.begin + begin, self.begin + end)


@dataclass(frozen=True, eq=False)
class Bm25Users:
    """Users indexed by their documents.

    Attributes:
        bags: word counts of the items.
        engine: scores of the users ``first_user`` to ``first_user + n_users - 1``.
        n_users: U, users of this shard.
        first_user: index of its first user.
        max_history: items of a history that a query reads.
    """

    bags: ItemBags
    engine: Engine
    n_users: int
    first_user: int
    max_history: int

    @classmethod
    def fit(cls, interactions: Interactions, item_texts: Sequence[str], settings: RetrievalSettings) -> Bm25Users:
        """Index the training part of every user.

        Raises:
            DataError: texts and items differ in number, or there are no words to search.
        """
        if len(item_texts) != interactions.n_items:
            raise DataError(f"retrieval: {len(item_texts)} item texts for {interactions.n_items} items; give one each")
        bags = ItemBags.fit(item_texts)
        users = np.arange(interactions.n_users)
        documents_UW = bags.documents(training_histories(interactions, users, settings.max_history))
        if documents_UW.nnz == 0:
            raise DataError("retrieval: the training items' texts hold no words, BM25 has nothing to search")
        kind = Bm25sEngine if settings.bm25_engine == "bm25s" else RankBm25Engine
        engine = kind.fit(documents_UW, settings.bm25_k1, settings.bm25_b)
        return cls(bags, engine, interactions.n_users, 0, settings.max_history)

    def shard(self, begin: int, end: int) -> Bm25Users:
        """The users ``begin`` to ``end`` alone; :func:`merge_top` of all shards equals the whole."""
        end = min(end, self.n_users)
        return Bm25Users(
            self.bags, self.engine.part(begin, end), end - begin, self.first_user + begin, self.max_history
        )

    def search(self, histories_BT: NDArray[np.int64], users_B: NDArray[np.int64], z: int) -> Neighbours:
        """The ``z`` best users for each history.

        Args:
            histories_BT: int64 [B, T], oldest first, padded right with -1; the last ``max_history`` items count.
            users_B: int64 [B], the user asked about, who is never retrieved; -1: none.
            z: how many.
        """
        queries_BW = self.bags.documents(latest_items(histories_BT, self.max_history))
        rows = max(1, SCORES_AT_ONCE // max(self.n_users, 1))
        found = [
            self._search_rows(queries_BW[begin : begin + rows], users_B[begin : begin + rows], z)
            for begin in range(0, len(histories_BT), rows)
        ]
        if not found:
            return Neighbours.none(0, z)
        return Neighbours(np.concatenate([f.users_BZ for f in found]), np.concatenate([f.scores_BZ for f in found]))

    def _search_rows(self, queries_BW: sp.csr_matrix, users_B: NDArray[np.int64], z: int) -> Neighbours:
        scores_BU = np.empty((queries_BW.shape[0], self.n_users), dtype=np.float32)
        for row, (begin, end) in enumerate(pairwise(queries_BW.indptr)):
            words = queries_BW.indices[begin:end].astype(np.int64)
            scores_BU[row] = self.engine.scores(words, queries_BW.data[begin:end])
        asked = np.flatnonzero((users_B >= self.first_user) & (users_B < self.first_user + self.n_users))
        scores_BU[asked, users_B[asked] - self.first_user] = 0
        return top_positive(scores_BU, z, first=self.first_user)
