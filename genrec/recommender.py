"""From a bundle to recommended items: what `recommend` prints and what `serve` answers with.

Everything that a request can get wrong is checked here, once, for the command line and the endpoint
alike. Requests are answered in batches; the beam width of a request depends on its own ``k`` alone, so
its list does not depend on which requests it shares a batch with, and it equals an offline
``generate`` of the same history. Where the bundle has neighbours, they have their vote; a user is never
among the own neighbours, so a request that sends a known user's history should name the user too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.bundle import Bundle, load_bundle
from genrec.decoding import recommend
from genrec.decoding.search import Ranked
from genrec.errors import GenrecError
from genrec.models.contracts import PAD_ITEM, Batch
from genrec.recommendation import Recommendation


class RequestError(GenrecError):
    """A request names an unknown user or item, or asks for what the model cannot give."""


class UnknownUserError(RequestError):
    """No history of that user is known."""


class UnknownItemError(RequestError):
    """The catalog has no such item."""


@dataclass(frozen=True)
class RecommendRequest:
    """One list asked for.

    Attributes:
        user_id: raw id of a known user, whose history is looked up; or None.
        history: raw item ids, oldest first, used in place of the known history; or None.
        k: length of the list.
        exclude: raw item ids that must not be listed, besides those of the history.
        recent: raw item ids that the user took up after the bundle's data ends, oldest first: they extend the
            known history, or are the history of a user whom the bundle does not know. Ids that the catalog
            lacks are passed over, for feedback outlives catalogs.
    """

    user_id: str | None
    history: tuple[str, ...] | None
    k: int
    exclude: tuple[str, ...] = ()
    recent: tuple[str, ...] = ()


class Recommender:
    """Answers requests from one bundle.

    Args:
        bundle: the verified bundle.
        device: where the model runs.
        batch_size: requests decoded at once.
    """

    def __init__(self, bundle: Bundle, *, device: str = "cpu", batch_size: int = 64) -> None:
        self.bundle = bundle
        self.device = torch.device(device)
        self.batch_size = batch_size
        backbone: Any = bundle.backbone().to(self.device).eval()
        self.backbone = backbone
        self.augmented = bundle.augmented(backbone)
        self._codes_NL = bundle.sid_table.codes_NL

    @classmethod
    def load(cls, path: Path, *, device: str = "cpu") -> Recommender:
        """Verify and load the bundle at ``path``.

        Raises:
            ArtifactError: the bundle is absent, incomplete or altered.
        """
        return cls(load_bundle(Path(path)), device=device)

    @property
    def version(self) -> str:
        """Version (hash) of the bundle."""
        return self.bundle.version

    @property
    def sid_version(self) -> str:
        """Version of the semantic IDs that the model speaks."""
        return self.bundle.sid_table.version

    @property
    def n_items(self) -> int:
        """N, the number of items of the catalog."""
        return self.bundle.sid_table.n_items

    @property
    def max_k(self) -> int:
        """Longest list that can be asked for: every item of the catalog."""
        return self.n_items

    @cached_property
    def _user_index(self) -> dict[str, int]:
        return {user: index for index, user in enumerate(self.bundle.interactions.user_ids)}

    def item(self, item_id: str) -> dict[str, Any]:
        """What the catalog and the table know of an item: id, title, text, semantic ID.

        Raises:
            UnknownItemError: no such item.
        """
        index, catalog = self._index_of(item_id), self.bundle.catalog
        return {
            "item_id": item_id,
            "title": catalog.titles[index],
            "text": catalog.texts[index],
            "semantic_id": [int(code) for code in self._codes_NL[index]],
        }

    def history_of(self, user_id: str) -> NDArray[np.int32]:
        """Item indices of everything a known user did, oldest first.

        Raises:
            UnknownUserError: no such user.
        """
        if user_id not in self._user_index:
            raise UnknownUserError(
                f"user_id: {user_id!r} is not among the {len(self._user_index)} known users; send a history instead"
            )
        return self.bundle.interactions.sequence(self._user_index[user_id])

    def recommend(
        self,
        histories: Sequence[NDArray[np.integer] | str],
        k: int,
        exclude: Sequence[Sequence[int]] | None = None,
    ) -> list[list[Recommendation]]:
        """Lists for histories given as item indices or as user ids.

        Args:
            histories: item indices (oldest first) or the id of a known user, one a list.
            k: length of each list; shorter where the catalog runs out of allowed items.
            exclude: item indices not to list, besides each history's own.

        Raises:
            RequestError: unknown user, empty history, or ``k`` out of range.
        """
        self._check_k(k)
        rows = [self.history_of(history) if isinstance(history, str) else history for history in histories]
        for row in rows:
            self._check_history(row)
        users = [self._user(history if isinstance(history, str) else None) for history in histories]
        extra: Sequence[Sequence[int]] = exclude if exclude is not None else [()] * len(rows)
        answers: list[list[Recommendation]] = []
        for begin in range(0, len(rows), self.batch_size):
            end = begin + self.batch_size
            answers += self._decode(rows[begin:end], users[begin:end], [k] * len(rows[begin:end]), extra[begin:end])
        return answers

    def recommend_batch(self, requests: Sequence[RecommendRequest]) -> list[list[Recommendation]]:
        """Answer many requests, in their order.

        Raises:
            RequestError: naming the field, the value and what it may be.
        """
        rows, users, extra = [], [], []
        for request in requests:
            self.check(request)
            rows.append(self._history(request))
            users.append(self._user(request.user_id))
            extra.append([self._index_of(item, "exclude") for item in request.exclude])
        answers: list[list[Recommendation]] = [[] for _ in requests]
        for members in self._equal_beams(requests):
            for begin in range(0, len(members), self.batch_size):
                part = members[begin : begin + self.batch_size]
                ks = [requests[i].k for i in part]
                lists = self._decode([rows[i] for i in part], [users[i] for i in part], ks, [extra[i] for i in part])
                for i, answer in zip(part, lists, strict=True):
                    answers[i] = answer
        return answers

    def check(self, request: RecommendRequest) -> None:
        """Raise RequestError if ``request`` cannot be answered (a batch must not fail for one of its members)."""
        self._check_k(request.k)
        self._check_history(self._history(request))
        for item in request.exclude:
            self._index_of(item, "exclude")

    def _history(self, request: RecommendRequest) -> NDArray[np.integer]:
        if request.history is not None:
            return np.asarray([self._index_of(item, "history") for item in request.history], dtype=np.int32)
        if request.user_id is None:
            raise RequestError("user_id, history: both are missing; send one of them")
        known = self.bundle.catalog.index
        recent = np.asarray([known[item] for item in request.recent if item in known], dtype=np.int32)
        if len(recent) and request.user_id not in self._user_index:
            return recent
        return np.concatenate([self.history_of(request.user_id), recent])

    def _user(self, user_id: str | None) -> int:
        return -1 if user_id is None else self._user_index.get(user_id, -1)

    def _index_of(self, item_id: str, field: str = "item_id") -> int:
        index = self.bundle.catalog.index.get(item_id)
        if index is None:
            raise UnknownItemError(f"{field}: item {item_id!r} is not in the catalog of {self.n_items} items")
        return int(index)

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.max_k:
            raise RequestError(f"k: {k} is out of range; ask for 1 to {self.max_k} items")

    def _check_history(self, history: NDArray[np.integer]) -> None:
        if len(history) == 0:
            raise RequestError("history: it is empty; send at least one item")
        if history.min() < 0 or history.max() >= self.n_items:
            raise UnknownItemError(f"history: item indices go from 0 to {self.n_items - 1}")

    def _beams(self, k: int) -> int:
        return max(self.bundle.settings.evaluation.beams, k)

    def _equal_beams(self, requests: Sequence[RecommendRequest]) -> list[list[int]]:
        groups: dict[int, list[int]] = {}
        for i, request in enumerate(requests):
            groups.setdefault(self._beams(request.k), []).append(i)
        return list(groups.values())

    def _decode(
        self,
        histories: Sequence[NDArray[np.integer]],
        users: Sequence[int],
        ks: Sequence[int],
        extra: Sequence[Sequence[int]],
    ) -> list[list[Recommendation]]:
        """Generate for rows that share a beam width; the seen items are excluded inside the beam."""
        longest = self.bundle.settings.data.max_history
        history_BT = _padded([row[-longest:] for row in histories])
        batch = Batch(history_BT, users_B=torch.tensor(users, dtype=torch.int64)).to(self.device)
        barred = [np.union1d(row, np.asarray(more, dtype=np.int64)) for row, more in zip(histories, extra, strict=True)]
        ranked, strongest_BK = self._ranked(batch, max(ks), _padded(barred).to(self.device))
        items_BK, scores_BK = ranked.items_BK.tolist(), ranked.scores_BK.tolist()
        return [
            [self._entry(*entry) for entry in zip(items[:k], scores[:k], names[:k], strict=True) if entry[0] >= 0]
            for items, scores, names, k in zip(items_BK, scores_BK, strongest_BK, ks, strict=True)
        ]

    def _ranked(self, batch: Batch, k: int, exclude_BS: torch.Tensor) -> tuple[Ranked, list[list[str | None]]]:
        """Lists, and which part of the mixture gave each item most of its probability (None: there is no mixture)."""
        beams, augmented = self._beams(k), self.augmented
        if augmented is None or augmented.gate is None:
            call = recommend if augmented is None else augmented.generate
            ranked = call(self.backbone, batch, k, beams=beams, exclude_BS=exclude_BS)
            return ranked, [[None] * k] * batch.size
        batch, votes = augmented.look_up(self.backbone, batch, exclude_BS)
        assert votes is not None
        ranked = augmented.generate(self.backbone, batch, k, beams=beams, exclude_BS=exclude_BS, votes=votes)
        parts_BK = augmented.shares(votes, ranked).argmax(dim=1).tolist()
        return ranked, [[augmented.parts[part] for part in row] for row in parts_BK]

    def _entry(self, item: int, score: float, strongest: str | None) -> Recommendation:
        catalog = self.bundle.catalog
        evidence: dict[str, Any] = {"semantic_id": [int(code) for code in self._codes_NL[item]]}
        if strongest is not None:
            evidence["strongest_source"] = strongest
        return Recommendation(
            item_id=catalog.item_ids[item], title=catalog.titles[item], score=score, evidence=evidence
        )


def _padded(rows: Sequence[NDArray[np.integer]]) -> torch.Tensor:
    """int64 [B, T], rows padded right with PAD_ITEM."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ITEM, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)
