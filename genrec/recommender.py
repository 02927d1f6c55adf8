"""From a bundle to recommended items: what `recommend` prints and what `serve` answers with.

Everything that a request can get wrong is checked here, once, for the command line and the endpoint
alike. Requests are answered in batches; the beam width of a request depends on its own ``k`` alone, so
its list does not depend on which requests it shares a batch with, and it equals an offline
``generate`` of the same history. Where the bundle has neighbours, they have their vote; a user is never
among the own neighbours, so a request that sends a known user's history should name the user too.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.bundle import Bundle, load_bundle
from genrec.config.content import LibrarySettings
from genrec.content.library.asset import is_asset
from genrec.content.library.exploration import explore
from genrec.content.library.insertion import CATEGORY, CatalogRetriever, Inserted, insert, placed_assets
from genrec.content.library.placement import Placement
from genrec.content.library.store import Library
from genrec.decoding import recommend
from genrec.decoding import score as scored
from genrec.decoding.search import Ranked
from genrec.diversity import diversify
from genrec.errors import GenrecError
from genrec.finding import NO_FILTER, Filter, Finder
from genrec.models.contracts import PAD_ITEM, Batch
from genrec.models.item_knn import ItemKNN
from genrec.models.spoken import speaking
from genrec.reasons import Explained, explain, likeness, sentence, strongest
from genrec.recommendation import Recommendation

REASONS = 2
"""Items of the history that an entry names as its reason."""
LEAST_CANDIDATES = 50
"""A varied list is drawn from four times its length, and from no fewer than these."""


class RequestError(GenrecError):
    """A request names an unknown user or item, or asks for what the model cannot give."""


class UnknownUserError(RequestError):
    """No history of that user is known."""


class UnknownItemError(RequestError):
    """The catalog has no such item."""


@dataclass(frozen=True)
class Trial:
    """That made items are tried out in a list, under a budget, until their worth is known.

    Attributes:
        draw: id of the list; what is tried follows from it.
        own: ids of made items that the user had made and did not react to yet, newest first; the newest is shown in
            any case.
    """

    draw: str
    own: tuple[str, ...] = ()


@dataclass(frozen=True)
class RecommendRequest:
    """One list asked for.

    Attributes:
        user_id: raw id of a known user, whose history is looked up; or None.
        history: raw item ids, oldest first, used in place of the known history; or None.
        k: length of the list.
        exclude: raw item ids that must not be listed, besides those of the history; made items may be gone.
        recent: raw item ids that the user took up after the bundle's data ends, oldest first: they extend the
            known history, or are the history of a user whom the bundle does not know. Ids that the catalog
            lacks are passed over, for feedback outlives catalogs.
        where: which items may be listed.
        diversity: 0: the most probable items; up to 1: a list drawn from more candidates (genrec.diversity), whose
            propensities stand in each entry's evidence.
        seed: of that draw.
        trial: how made items are tried out; None: all of them are ranked like the rest, on trial or not.
    """

    user_id: str | None
    history: tuple[str, ...] | None
    k: int
    exclude: tuple[str, ...] = ()
    recent: tuple[str, ...] = ()
    where: Filter = NO_FILTER
    diversity: float = 0.0
    seed: int = 0
    trial: Trial | None = None

    @property
    def candidates(self) -> int:
        """How many items are decoded for the list."""
        return self.k if self.diversity == 0 else max(4 * self.k, LEAST_CANDIDATES)


@dataclass(frozen=True, eq=False)
class _Row:
    """What was decoded for one request, best first: item indices, log-probabilities, shares by part (or none)."""

    items: list[int]
    scores: list[float]
    shares_CK: NDArray[np.float32] | None


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
        self.inserted: Inserted | None = None
        self._base = self

    def with_assets(self, library: Library) -> Recommender:
        """A second recommender of the same weights whose catalog, trie and index hold the library's assets.

        This one stays as it is; whoever serves swaps the one for the other. Retired assets are not in it. The
        library keeps each asset's semantic ID, so that it has the same one after a restart.

        Raises:
            SettingsError: no semantic ID is free, or the catalog has several tables of them.
            ArtifactError: the library or the bundle's tokenizer was altered.
        """
        base = self._base
        assets = library.assets()
        placed = placed_assets(library, base.placement, assets)
        inserted = insert(base.bundle.catalog, base.bundle.sid_table, assets, placed, library.proved())
        other = copy.copy(base)
        other.__dict__.pop("finder", None)
        other.inserted = inserted
        other.bundle = replace(base.bundle, sid_table=inserted.table, catalog=inserted.catalog)
        other.backbone = speaking(base.backbone, inserted.table)
        other._codes_NL = inserted.table.codes_NL
        if base.augmented is not None:
            retriever: Any = CatalogRetriever(base.augmented.retriever, inserted)
            other.augmented = replace(base.augmented, retriever=retriever)
        return other

    @cached_property
    def placement(self) -> Placement:
        """Gives semantic IDs to made items."""
        bundle = self._base.bundle
        settings = bundle.settings
        return Placement.load(
            bundle.path, bundle.sid_table, bundle.catalog.texts, settings.tokenizer, settings.content.library.neighbours
        )

    def tried(
        self, request: RecommendRequest, ranked: Sequence[Recommendation], policy: LibrarySettings
    ) -> list[Recommendation]:
        """The ranked list of a request, perhaps with a made item on trial in it; propensities stand in the evidence.

        Lists that are filtered are left as they are.
        """
        trial = request.trial
        if self.inserted is None or trial is None or request.where != NO_FILTER:
            return list(ranked)
        barred = self._barred(request)
        on_trial = {asset.asset_id: asset for item, asset in self.inserted.on_trial.items() if item not in barred}
        explored = explore(
            ranked,
            [name for name, asset in on_trial.items() if not asset.personal],
            trial.draw,
            policy,
            lambda name: self.made_entries(request, (name,))[0],
            next((name for name in trial.own if name in on_trial), None),
        )
        result = []
        for entry, odds in zip(explored.entries, explored.propensities, strict=True):
            told = dict(entry.evidence)
            if odds < 1:
                told["propensity"] = odds * told.get("propensity", 1.0)
            if entry.item_id == explored.tried:
                told["on_trial"] = True
            result.append(entry.model_copy(update={"evidence": told}))
        return result

    @torch.inference_mode()
    def made_entries(self, request: RecommendRequest, only: Sequence[str] | None = None) -> list[Recommendation]:
        """Made items that may be listed for a user or history, likeliest first.

        Args:
            request: whom they are for; the length of the list does not matter.
            only: ids of the made items that are meant; None: all.
        """
        if self.inserted is None or not self.inserted.assets:
            return []
        barred, first = self._barred(request), self.inserted.n_catalog
        items = [
            item
            for item, asset in enumerate(self.inserted.assets, first)
            if item not in barred and (only is None or asset.asset_id in only)
        ]
        if not items:
            return []
        history = self._history(request)
        history_BT = _padded([history[-self.bundle.settings.data.max_history :]])
        batch = Batch(history_BT, users_B=torch.tensor([self._user(request.user_id)])).to(self.device)
        scores = scored(self.backbone, batch, torch.tensor([items], device=self.device))[0].tolist()
        ordered = sorted(zip(items, scores, strict=True), key=lambda entry: -entry[1])
        row = _Row([item for item, _ in ordered], [value for _, value in ordered], None)
        return self._entries(row, history)

    def _barred(self, request: RecommendRequest) -> set[int]:
        """Items that a list must not hold: those of the history, those excluded, those that its filter leaves out."""
        barred = {*self._history(request).tolist(), *self._excluded(request)}
        if request.where != NO_FILTER:
            barred.update(self.finder.left_out(request.where).tolist())
        return barred

    def _excluded(self, request: RecommendRequest) -> list[int]:
        """Indices of what is excluded; made items come and go, so that one that is not here is passed over."""
        index = self.bundle.catalog.index
        here = (item for item in request.exclude if item in index or not is_asset(item))
        return [self._index_of(item, "exclude") for item in here]

    def _kept_back(self, request: RecommendRequest) -> list[int]:
        """Made items on trial, which are not ranked unless they are asked for; others' personal ones never are."""
        if self.inserted is None or request.trial is None:
            return []
        asked, own = set(request.where.items or ()), set(request.trial.own)
        of_kind = any(name.casefold() == CATEGORY for name in request.where.categories)
        return [
            item
            for item, asset in self.inserted.on_trial.items()
            if not (asset.asset_id in own if asset.personal else of_kind or asset.asset_id in asked)
        ]

    @classmethod
    def load(cls, path: str | Path, *, device: str = "cpu") -> Recommender:
        """Verify and load the bundle at ``path``, a directory or a URI.

        Raises:
            ArtifactError: the bundle is absent, incomplete or altered.
        """
        return cls(load_bundle(path), device=device)

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
            "categories": list(catalog.categories[index]),
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
            decoded = self._decode(rows[begin:end], users[begin:end], [k] * len(rows[begin:end]), extra[begin:end])
            answers += [self._entries(row, history) for row, history in zip(decoded, rows[begin:end], strict=True)]
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
            extra.append([*self._barred(request), *self._kept_back(request)])
        answers: list[list[Recommendation]] = [[] for _ in requests]
        for members in self._equal_beams(requests):
            for begin in range(0, len(members), self.batch_size):
                part = members[begin : begin + self.batch_size]
                ks = [requests[i].candidates for i in part]
                decoded = self._decode([rows[i] for i in part], [users[i] for i in part], ks, [extra[i] for i in part])
                for i, row in zip(part, decoded, strict=True):
                    answers[i] = self._listed(row, requests[i], rows[i])
        return answers

    def check(self, request: RecommendRequest) -> None:
        """Raise RequestError if ``request`` cannot be answered (a batch must not fail for one of its members)."""
        self._check_k(request.k)
        self._check_history(self._history(request))
        self._excluded(request)
        for item in request.where.items or ():
            self._index_of(item, "filters.items")
        if not 0 <= request.diversity <= 1:
            raise RequestError(f"diversity: {request.diversity} is out of range; give 0 to 1")

    @cached_property
    def finder(self) -> Finder:
        """Search over the items and users of the bundle."""
        return Finder(self.bundle.catalog, self.bundle.interactions.user_ids)

    def explain(self, request: RecommendRequest, item_id: str) -> tuple[NDArray[np.integer], Explained]:
        """What the recommendation of an item would lean on, for the user or history of ``request``.

        Returns:
            the items of the history that the model sees, oldest first, and the measured reasons.

        Raises:
            RequestError: as :meth:`check`, or the item is unknown.
        """
        self._check_history(history := self._history(request))
        item, seen = self._index_of(item_id), history[-self.bundle.settings.data.max_history :]
        made = self.inserted is not None and self.inserted.asset(item) is not None
        augmented = None if made else self.augmented  # nobody voted for what was just made
        return seen, explain(self.backbone, augmented, seen, self._user(request.user_id), item, history.tolist())

    def _history(self, request: RecommendRequest) -> NDArray[np.integer]:
        if request.history is not None:
            return np.asarray([self._index_of(item, "history") for item in request.history], dtype=np.int32)
        if request.user_id is None:
            raise RequestError("user_id, history: both are missing; send one of them")
        known = self.bundle.catalog.index
        recent = np.asarray([known[item] for item in request.recent if item in known], dtype=np.int32)
        if len(recent) and request.user_id not in self._user_index:
            return recent
        history = self.history_of(request.user_id)
        # A bundle that was trained with the endpoint's feedback has the older of it in the histories already.
        overlaps = range(min(len(recent), len(history)), 0, -1)
        known_already = next((m for m in overlaps if np.array_equal(history[-m:], recent[:m])), 0)
        return np.concatenate([history, recent[known_already:]])

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
        return max(self.bundle.settings.evaluation.beams, min(k, self.n_items))

    def _equal_beams(self, requests: Sequence[RecommendRequest]) -> list[list[int]]:
        groups: dict[tuple[int, bool], list[int]] = {}
        for i, request in enumerate(requests):
            # Apart where many items are barred: the others should not carry such wide rows along.
            key = (self._beams(request.candidates), request.where != NO_FILTER)
            groups.setdefault(key, []).append(i)
        return list(groups.values())

    def _decode(
        self,
        histories: Sequence[NDArray[np.integer]],
        users: Sequence[int],
        ks: Sequence[int],
        extra: Sequence[Sequence[int]],
    ) -> list[_Row]:
        """Generate for rows that share a beam width; the seen items are excluded inside the beam."""
        longest = self.bundle.settings.data.max_history
        history_BT = _padded([row[-longest:] for row in histories])
        batch = Batch(history_BT, users_B=torch.tensor(users, dtype=torch.int64)).to(self.device)
        barred = [np.union1d(row, np.asarray(more, dtype=np.int64)) for row, more in zip(histories, extra, strict=True)]
        widest = min(max(ks), self.n_items)
        ranked, shares_BCK = self._ranked(batch, widest, _padded(barred).to(self.device))
        rows = []
        for place, (items, scores) in enumerate(zip(ranked.items_BK.tolist(), ranked.scores_BK.tolist(), strict=True)):
            there = sum(item >= 0 for item in items[: ks[place]])  # what is missing stands at the end
            shares_CK = None if shares_BCK is None else shares_BCK[place, :, :there]
            rows.append(_Row(items[:there], scores[:there], shares_CK))
        return rows

    def _ranked(self, batch: Batch, k: int, exclude_BS: torch.Tensor) -> tuple[Ranked, NDArray[np.float32] | None]:
        """Lists, and how much of each item's probability each part of the mixture gave (None: there is no mixture)."""
        beams, augmented = self._beams(k), self.augmented
        if augmented is None or augmented.gate is None:
            call = recommend if augmented is None else augmented.generate
            return call(self.backbone, batch, k, beams=beams, exclude_BS=exclude_BS), None
        batch, votes = augmented.look_up(self.backbone, batch, exclude_BS)
        assert votes is not None
        ranked = augmented.generate(self.backbone, batch, k, beams=beams, exclude_BS=exclude_BS, votes=votes)
        shares_BCK = augmented.shares(votes, ranked)
        total_B1K = shares_BCK.sum(dim=1, keepdim=True).clamp(min=torch.finfo(torch.float32).tiny)
        return ranked, (shares_BCK / total_B1K).float().cpu().numpy()

    def _listed(self, row: _Row, request: RecommendRequest, history: NDArray[np.integer]) -> list[Recommendation]:
        if request.diversity == 0 or not row.items:
            return self._entries(row, history)
        drawn, propensities = diversify(
            np.asarray(row.scores), self._codes_NL[row.items], request.k, request.diversity, request.seed
        )
        shares_CK = None if row.shares_CK is None else row.shares_CK[:, drawn]
        chosen = _Row([row.items[i] for i in drawn], [row.scores[i] for i in drawn], shares_CK)
        return self._entries(chosen, history, propensities)

    def _entries(
        self, row: _Row, history: NDArray[np.integer], propensities: Sequence[float] | None = None
    ) -> list[Recommendation]:
        """The entries of a list with what is known of each."""
        catalog, seen = self.bundle.catalog, history[-self.bundle.settings.data.max_history :]
        weights_TK, counted_K = self._spoken(seen, row.items)
        entries = []
        for place, (item, score) in enumerate(zip(row.items, row.scores, strict=True)):
            because = strongest(weights_TK[:, place], seen, REASONS)
            titles = [catalog.titles[index] for index, _ in because]
            evidence: dict[str, Any] = {
                "semantic_id": [int(code) for code in self._codes_NL[item]],
                "because": [
                    {"item_id": catalog.item_ids[index], "title": title, "share": round(share, 4)}
                    for (index, share), title in zip(because, titles, strict=True)
                ],
                "reason": sentence(titles, bool(counted_K[place])),
            }
            if row.shares_CK is not None and self.augmented is not None:
                shares = dict(zip(self.augmented.parts, row.shares_CK[:, place].tolist(), strict=True))
                evidence["shares"] = {part: round(share, 4) for part, share in shares.items()}
                evidence["strongest_source"] = max(shares, key=lambda part: shares[part])
            if propensities is not None:
                evidence["propensity"] = propensities[place]
            entries.append(
                Recommendation(
                    item_id=catalog.item_ids[item],
                    title=catalog.titles[item],
                    score=score,
                    evidence=evidence,
                    **self._origin(item),
                )
            )
        return entries

    def _origin(self, item: int) -> dict[str, Any]:
        """Source and report of a made item; nothing for one of the catalog."""
        asset = None if self.inserted is None else self.inserted.asset(item)
        return {} if asset is None else {"source": asset.source, "fidelity": asset.report.model_dump(mode="json")}

    def _spoken(self, seen: NDArray[np.integer], items: Sequence[int]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """How much each item of the history speaks for each listed one [T, K], and of which that was counted [K].

        Where nobody took two items together, likeness of their texts speaks; in a bundle without either, their codes.
        """
        counts, texts = self._neighbours("item-knn"), self._neighbours("content-knn")
        if self.inserted is not None and (counts is not None or texts is not None):
            seen, items = self.inserted.known(seen), self.inserted.known(np.asarray(items)).tolist()
        if counts is None:
            return likeness(seen, items, self._codes_NL, texts), np.zeros(len(items), dtype=bool)
        weights_TK = likeness(seen, items, self._codes_NL, counts)
        counted_K = np.asarray(weights_TK.any(axis=0))
        if texts is not None and not counted_K.all():
            weights_TK = np.where(counted_K, weights_TK, likeness(seen, items, self._codes_NL, texts))
        return weights_TK, counted_K

    def _neighbours(self, source: str) -> ItemKNN | None:
        """The items that ``source`` goes by, if it votes in this bundle."""
        scorer = None if self.augmented is None else self.augmented.retriever.scorers.get(source)
        return scorer if isinstance(scorer, ItemKNN) else None


def _padded(rows: Sequence[NDArray[np.integer]]) -> torch.Tensor:
    """int64 [B, T], rows padded right with PAD_ITEM."""
    padded = np.full((len(rows), max(map(len, rows))), PAD_ITEM, dtype=np.int64)
    for i, row in enumerate(rows):
        padded[i, : len(row)] = row
    return torch.from_numpy(padded)
