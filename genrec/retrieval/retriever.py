"""The whole retrieval for a batch of histories: both paths, merge and re-rank, votes.

One class answers the caches (offline, in blocks) and a request (online, one history), so they cannot
differ. It holds what does not depend on the query; the encoders of queries are passed along, since each
process loads its own.

Shape letters: B queries, T history items, U users, D width.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from genrec.config import RetrievalSettings
from genrec.data.interactions import Interactions
from genrec.errors import SettingsError
from genrec.models.dense import DenseScorer
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.collaborative_path import CollaborativeUsers
from genrec.retrieval.documents import latest_items
from genrec.retrieval.merge import CentredSpace, merge_paths
from genrec.retrieval.neighbours import Neighbours
from genrec.retrieval.representations import HistoryEncoder
from genrec.retrieval.votes import NeighbourVotes, SparseItems, scorer_votes

COLLABORATIVE = "collaborative"
REPRESENTATION = "representation"
SCORERS = {"item-knn": "item-kNN", "content-knn": "content-kNN", "linear": "the linear model", "sasrec": "SASRec"}
"""Vote sources that score the whole catalog, and what each needs."""


@dataclass(frozen=True, eq=False)
class Retrieved:
    """What was found for each query.

    Attributes:
        neighbours: the v users kept.
        votes: source -> distribution over items.
        paths: path -> its own z candidates.
    """

    neighbours: Neighbours
    votes: Mapping[str, SparseItems]
    paths: Mapping[str, Neighbours] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Retriever:
    """Fitted retrieval.

    Attributes:
        settings: which paths, how many, how merged.
        n_items: N.
        text: the BM25 path, None if not among ``settings.paths`` (or its results are handed in).
        collaborative: the path by user vectors, likewise.
        representations: the space of the re-ranking; None if it uses the paths' ranks only.
        voters: training items of the users, weighted.
        scorers: dense scorers that vote, by the source's name.
    """

    settings: RetrievalSettings
    n_items: int
    text: Bm25Users | None
    collaborative: CollaborativeUsers | None
    representations: CentredSpace | None
    voters: NeighbourVotes
    scorers: Mapping[str, DenseScorer]

    @classmethod
    def fit(
        cls,
        interactions: Interactions,
        settings: RetrievalSettings,
        *,
        user_vectors: Mapping[str, NDArray[np.float32]] | None = None,
        scorers: Mapping[str, DenseScorer] | None = None,
        text: Bm25Users | None = None,
    ) -> Retriever:
        """Index the training part of all users.

        Args:
            interactions: the prepared data.
            settings: the retrieval section.
            user_vectors: "collaborative" and "representation" -> float [U, D], made of the training items alone.
            scorers: fitted on the training part, for the vote sources of :data:`SCORERS`.
            text: the text path, fitted; None: its results will be handed to :meth:`retrieve`.

        Raises:
            SettingsError: the settings ask for a path or a source that was given nothing to work with.
        """
        vectors = {} if user_vectors is None else user_vectors
        _check(settings, vectors)
        given = {} if scorers is None else scorers
        require_scorers(settings, given)
        collaborative = (
            CollaborativeUsers.fit(vectors[COLLABORATIVE], settings) if COLLABORATIVE in settings.paths else None
        )
        representations = None if settings.rerank == "paths" else CentredSpace.of(vectors[REPRESENTATION])
        return cls(
            settings,
            interactions.n_items,
            text,
            collaborative,
            representations,
            NeighbourVotes.fit(interactions, settings),
            {source: given[source] for source in settings.vote_sources if source in SCORERS},
        )

    def retrieve(
        self,
        histories_BT: NDArray[np.int64],
        users_B: NDArray[np.int64],
        encoders: Mapping[str, HistoryEncoder],
        *,
        seen_BT: NDArray[np.int64] | None = None,
        text: Neighbours | None = None,
    ) -> Retrieved:
        """Neighbours and votes for histories.

        Args:
            histories_BT: int64 [B, T], what is known at the moment asked about, padded right with -1.
            users_B: int64 [B], whose histories they are (never retrieved); -1: none of the indexed users.
            encoders: "collaborative" and "representation" -> encoder of histories, as far as needed.
            seen_BT: int64 [B, S], items not to vote for; None: votes may name any item.
            text: results of the text path, if it was searched elsewhere.
        """
        settings = self.settings
        recent_BT = latest_items(histories_BT, settings.max_history)
        paths: dict[str, Neighbours] = {}
        for path in settings.paths:
            paths[path] = (
                self._collaborative(recent_BT, users_B, encoders)
                if path == COLLABORATIVE
                else self._text(recent_BT, users_B, text)
            )
        space = self.representations
        neighbours = merge_paths(
            paths,
            settings.neighbours,
            rule=settings.merge,
            order=settings.rerank,
            queries_BD=None if space is None else space.place(encoders[REPRESENTATION](recent_BT)),
            vectors_UD=None if space is None else space.vectors_UD,
        )
        votes: dict[str, SparseItems] = {
            source: self._votes(source, recent_BT, users_B, seen_BT, {**paths, "neighbours": neighbours})
            for source in settings.vote_sources
        }
        return Retrieved(neighbours, votes, paths)

    def _text(self, recent_BT: NDArray[np.int64], users_B: NDArray[np.int64], text: Neighbours | None) -> Neighbours:
        if text is not None:
            return text
        assert self.text is not None, "fitted without the text path: hand in its results"
        return self.text.search(recent_BT, users_B, self.settings.candidates)

    def _collaborative(
        self, recent_BT: NDArray[np.int64], users_B: NDArray[np.int64], encoders: Mapping[str, HistoryEncoder]
    ) -> Neighbours:
        assert self.collaborative is not None, "fitted without the collaborative path"
        return self.collaborative.search(encoders[COLLABORATIVE](recent_BT), users_B, self.settings.candidates)

    def _votes(
        self,
        source: str,
        recent_BT: NDArray[np.int64],
        users_B: NDArray[np.int64],
        seen_BT: NDArray[np.int64] | None,
        found: Mapping[str, Neighbours],
    ) -> SparseItems:
        m = self.settings.vote_items
        if source not in self.scorers:
            return self.voters.vote(found[source], m, seen_BT)
        return scorer_votes(self.scorers[source], recent_BT, users_B, m, n_items=self.n_items, seen_BT=seen_BT)


def needed_spaces(settings: RetrievalSettings) -> tuple[str, ...]:
    """The vector spaces that the settings ask for."""
    collaborative = (COLLABORATIVE,) if COLLABORATIVE in settings.paths else ()
    return (*collaborative, *(() if settings.rerank == "paths" else (REPRESENTATION,)))


def require_scorers(settings: RetrievalSettings, scorers: Mapping[str, DenseScorer]) -> None:
    """Raises SettingsError for a vote source without its scorer."""
    for source in settings.vote_sources:
        if source in SCORERS and source not in scorers:
            raise SettingsError(f"retrieval.vote_sources: {source!r} needs a fitted {SCORERS[source]}")


def _check(settings: RetrievalSettings, vectors: Mapping[str, NDArray[np.float32]]) -> None:
    for space in needed_spaces(settings):
        if space not in vectors:
            key = "paths" if space == COLLABORATIVE else "rerank"
            raise SettingsError(f"retrieval.{key}: {getattr(settings, key)!r} needs {space} vectors of the users")
