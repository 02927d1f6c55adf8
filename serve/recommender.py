"""The deployment that holds the models: loads bundles, warms them up, answers in batches.

A replica counts as started only when ``__init__`` has returned, so Serve routes nothing to a cold model. Every request
says which bundle is to answer (its directory): a newer version, a canary or another catalog is loaded beside the
others when it is first asked for, at most ``serve.bundles_in_memory`` at a time, the longest unused leaves first.
Made items enter here: a replica looks each second whether the library has changed, builds a second state of each model
beside the one that answers (``Recommender.with_assets``), and swaps the reference.
What a request got wrong comes back as a value (:class:`Refusal`): an exception would be logged with its
stack by the replica, and would fail the batch that the request shares.
"""

import asyncio
import itertools
import logging
import math
import os
import sys
import threading
import time
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import torch
from pydantic import TypeAdapter
from ray import serve
from sqlalchemy.exc import SQLAlchemyError

from genrec.config import ContentSettings, ServeSettings
from genrec.content.library import Library
from genrec.errors import ArtifactError, GenrecError
from genrec.recommendation import Recommendation
from genrec.recommender import Recommender, RecommendRequest, RequestError, UnknownItemError, UnknownUserError
from serve.logs import join_serve_log
from serve.metrics import RecommenderMetrics
from serve.rollout import DEFAULT_CATALOG, Rollouts

logger = logging.getLogger(__name__)

LATEST_TITLES = 3
LAST = 19
LIBRARY_EVERY_S = 1.0
_SERIAL = itertools.count()
_ITEMS = TypeAdapter(list[Recommendation])
Packed = tuple[bytes, str, str]


@dataclass(frozen=True)
class Answer:
    """A list and what made it.

    Attributes:
        items: best first.
        version: of the bundle.
        sid_version: of the semantic IDs.
    """

    items: list[Recommendation]
    version: str
    sid_version: str

    def packed(self) -> Packed:
        """To be kept: 3 KB of JSON for a list of ten in place of 18 KB of objects."""
        return _ITEMS.dump_json(self.items), self.version, self.sid_version

    @classmethod
    def unpacked(cls, packed: Packed) -> Self:
        """What was kept."""
        items, version, sid_version = packed
        return cls(_ITEMS.validate_json(items), version, sid_version)


@dataclass(frozen=True)
class Refusal:
    """What a request got wrong, for the client to mend."""

    status: int
    code: str
    field: str | None
    message: str


def refuse(error: RequestError) -> Refusal:
    """The refusal that stands for ``error``; its text begins with the field."""
    field, colon, _ = str(error).partition(":")
    status, code = 422, "invalid_request"
    if isinstance(error, UnknownUserError):
        status, code = 404, "unknown_user"
    elif isinstance(error, UnknownItemError):
        status, code = 404, "unknown_item"
    named = colon and field.replace(".", "_").isidentifier()
    return Refusal(status, code, field if named else None, str(error))


class RecommenderLogic:
    """The replica's work without Ray: plain methods, so that they run in a test as they are.

    Args:
        recommender: the loaded model.
        limits: settings.serve.
        content: settings.content; how made items are tried out.
    """

    def __init__(self, recommender: Recommender, limits: ServeSettings, content: ContentSettings | None = None) -> None:
        self.recommender = recommender
        self.limits = limits
        self.content = ContentSettings() if content is None else content
        self.serial = next(_SERIAL)

    def with_assets(self, library: Library) -> "RecommenderLogic":
        """The same with what the library holds now; this one stays as it is."""
        return RecommenderLogic(self.recommender.with_assets(library), self.limits, self.content)

    def check(self, request: RecommendRequest) -> Refusal | None:
        """What is wrong with ``request``; a batch must not fail for one of its members."""
        try:
            self.recommender.check(request)
        except RequestError as error:
            return refuse(error)
        return None

    def answer(self, requests: Sequence[RecommendRequest]) -> list[Answer]:
        """Answer requests that passed :meth:`check`."""
        version, sid_version = self.recommender.version, self.recommender.sid_version
        return [Answer(items, version, sid_version) for items in self.recommender.recommend_batch(requests)]

    @property
    def has_assets(self) -> bool:
        """True if made items are among those that can be listed."""
        return self.recommender.inserted is not None and bool(self.recommender.inserted.assets)

    def tried(self, request: RecommendRequest, answer: Answer) -> Answer:
        """The answer, perhaps with a made item on trial in it; each made item tells where its file is."""
        items = self.recommender.tried(request, answer.items, self.content.library)
        return replace(answer, items=[_with_file(entry) for entry in items])

    def explain(self, request: RecommendRequest, item_id: str) -> dict[str, Any] | Refusal:
        """The explanation as :class:`serve.models.Explanation` has it."""
        try:
            seen, told = self.recommender.explain(request, item_id)
        except RequestError as error:
            return refuse(error)
        bundle = self.recommender.bundle
        catalog, users = bundle.catalog, bundle.interactions.user_ids
        history = [
            {"item_id": catalog.item_ids[item], "title": catalog.titles[item], "influence": influence}
            for item, influence in zip(seen, told.influence_T, strict=True)
        ]
        history.sort(key=lambda entry: -(entry["influence"] or 0.0))
        return {
            "item_id": item_id,
            "title": catalog.titles[catalog.index[item_id]],
            "score": told.score,
            "history": history,
            "sources": told.shares,
            "retrieved_users": [
                {"user_id": str(users[one.user]), "path": one.path, "weight": one.weight, "vote": one.vote}
                for one in told.voters
            ],
            "bundle_version": bundle.version,
            "sid_version": bundle.sid_table.version,
        }

    def find_items(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Items as :class:`serve.models.FoundItem` has them."""
        catalog, inserted = self.recommender.bundle.catalog, self.recommender.inserted
        hidden = {} if inserted is None else inserted.on_trial
        found = [index for index in self.recommender.finder.items(query, limit + len(hidden)) if index not in hidden]
        return [
            {
                "item_id": catalog.item_ids[index],
                "title": catalog.titles[index],
                "categories": list(catalog.categories[index]),
            }
            for index in found[:limit]
        ]

    def find_users(self, query: str, limit: int) -> list[dict[str, Any]]:
        """Users as :class:`serve.models.KnownUser` has them."""
        interactions, titles = self.recommender.bundle.interactions, self.recommender.bundle.catalog.titles
        found = []
        for index in self.recommender.finder.users(query, limit):
            history = interactions.sequence(index)
            latest = [titles[item] for item in history[-LATEST_TITLES:][::-1]]
            found.append({"user_id": str(interactions.user_ids[index]), "history": len(history), "latest": latest})
        return found

    def item(self, item_id: str) -> dict[str, Any] | Refusal:
        """The item as :class:`serve.models.Item` has it."""
        try:
            return {**self.recommender.item(item_id), "sid_version": self.recommender.sid_version}
        except RequestError as error:
            return refuse(error)

    def card(self) -> dict[str, Any]:
        """The loaded bundle as :class:`serve.models.ModelCard` has it."""
        bundle = self.recommender.bundle
        return {
            "bundle_version": bundle.version,
            "sid_version": bundle.sid_table.version,
            "items": bundle.sid_table.n_items,
            "users": len(bundle.interactions.user_ids),
            "levels": list(bundle.sid_table.level_sizes),
            "max_history": bundle.settings.data.max_history,
            "card": dict(bundle.card),
        }

    def warm_up(self) -> None:
        """Answer one request and one full batch, so that no client pays for first-use costs.

        Raises:
            ArtifactError: the answer is no list: empty, unordered or not of numbers.
        """
        items = self.recommender.bundle.catalog.item_ids
        history = tuple(items[: min(2, len(items))])
        k = min(10, self.limits.max_k, self.recommender.max_k)
        request = RecommendRequest(user_id=None, history=history, k=k)
        for answer in (*self.answer([request]), *self.answer([request] * self.limits.batch_size)):
            scores = [entry.score for entry in answer.items]
            wanted = min(k, len(items) - len(history))
            if len(scores) != wanted or not all(map(math.isfinite, scores)) or scores != sorted(scores, reverse=True):
                raise ArtifactError(
                    f"{self.recommender.bundle.path}: the bundle answers a history of two items with scores {scores}, "
                    f"not with {wanted} in falling order; train and bundle it anew"
                )


def _loader() -> ThreadPoolExecutor:
    """A thread that reads a bundle and warms it up, after all that answers: requests do not wait for a new replica or
    version, nor does it starve."""

    def begin() -> None:
        torch.set_num_threads(1)
        if sys.platform == "linux":  # where niceness is of a thread
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), LAST)

    return ThreadPoolExecutor(1, "load", initializer=begin)


def _with_file(entry: Recommendation) -> Recommendation:
    if entry.source not in {"created", "edited"}:
        return entry
    return entry.model_copy(update={"evidence": {**entry.evidence, "url": f"/v1/media/{entry.item_id}"}})


class Loaded:
    """A bundle that a replica holds; its logic is replaced when the library of made items has changed.

    Attributes:
        bundle: its directory.
        logic: that answers now.
        revision: of the library, as it was when the logic was made.
    """

    def __init__(self, bundle: str, logic: RecommenderLogic) -> None:
        self.bundle, self.logic = bundle, logic
        self.revision: tuple[int, ...] = (0, 0, 0)


class RecommenderReplica:
    """One replica. Decoding runs in one worker thread, so that the next batch fills meanwhile.

    Args:
        bundle: directory of the bundle to begin with.
        limits: settings.serve.
        rollouts: file that says which bundle serves by now, if that is another.
        content: settings.content.
        library: directory of the made items; None: there are none.
    """

    def __init__(
        self,
        bundle: str,
        limits: ServeSettings,
        rollouts: str,
        content: ContentSettings | None = None,
        library: str | None = None,
    ) -> None:
        join_serve_log()
        threads = max(1, int(limits.cpus_per_replica))  # more threads than the replica's share slow everyone down
        torch.set_num_threads(threads)
        self._worker = ThreadPoolExecutor(1, "decode", initializer=torch.set_num_threads, initargs=(threads,))
        self._limits = limits
        self._metrics = RecommenderMetrics()
        self._cache: OrderedDict[tuple[int, RecommendRequest], Packed] = OrderedDict()
        self._rollouts = Rollouts(Path(rollouts))
        self._content = content
        self._library = None if library is None else Library(Path(library))
        self._held: weakref.WeakSet[Loaded] = weakref.WeakSet()
        self._inserting = threading.Lock()
        self._bundle = self._rollouts.stable(bundle)
        with _loader() as loader:
            self._first = loader.submit(self._loaded, self._bundle).result()
        if self._library is not None:
            threading.Thread(target=self._follow_library, name="library", daemon=True).start()
        batching: Any = self._answer_batch
        batching.set_max_batch_size(limits.batch_size)
        batching.set_batch_wait_timeout_s(limits.batch_wait_s)

    def _loaded(self, bundle: str) -> Loaded:
        logic = RecommenderLogic(Recommender.load(bundle), self._limits, self._content)
        logic.warm_up()
        loaded = Loaded(bundle, logic)
        with self._inserting:
            self._held.add(loaded)
            self._insert_assets(loaded)
        return loaded

    def _follow_library(self) -> None:
        torch.set_num_threads(1)
        while True:
            time.sleep(LIBRARY_EVERY_S)
            with self._inserting:
                for loaded in list(self._held):
                    self._insert_assets(loaded)

    def _insert_assets(self, loaded: Loaded) -> None:
        """Bring a bundle of the run's own catalog up to date with the library; what answers goes on meanwhile."""
        if self._library is None:
            return
        try:
            revision = self._library.revision()
            if revision == loaded.revision:
                return
            loaded.revision = revision  # what cannot be taken in is tried again when the library changes
            others = (one for name, one in self._rollouts.read().items() if name != DEFAULT_CATALOG)
            if not any(loaded.bundle in {one.stable, one.canary, one.previous, one.wanted} for one in others):
                loaded.logic = loaded.logic.with_assets(self._library)
        # A list without the newest made item is better than none.
        except (GenrecError, OSError, SQLAlchemyError):
            logger.exception("%s: made items are not taken in", loaded.bundle)

    async def _load_bundle(self, bundle: str) -> Loaded:
        if bundle == self._bundle:
            return self._first
        with _loader() as loader:
            return await asyncio.get_running_loop().run_in_executor(loader, self._loaded, bundle)

    async def _model(self, bundle: str | None) -> RecommenderLogic:
        if bundle is None or bundle == self._bundle:
            return self._first.logic
        return (await self._load_bundle(bundle)).logic

    async def prepare(self, bundle: str) -> tuple[str, str] | str:
        """Load, verify and warm a bundle up beside the others: its versions, or why it cannot serve."""
        try:
            logic = await self._model(bundle)
        except GenrecError as error:
            return str(error)
        return logic.recommender.version, logic.recommender.sid_version

    async def recommend(self, request: RecommendRequest, bundle: str | None = None) -> Answer | Refusal:
        """One list; requests that wait at the same time are decoded together."""
        logic = await self._model(bundle)
        refusal = logic.check(request)
        if refusal is not None:
            return refusal
        answer = await self._ranked(logic, request)
        if request.trial is None or not logic.has_assets:
            return answer
        return await asyncio.get_running_loop().run_in_executor(self._worker, logic.tried, request, answer)

    async def _ranked(self, logic: RecommenderLogic, request: RecommendRequest) -> Answer:
        """The ranking of a request, kept for equal ones: what is tried out in a list changes from list to list."""
        trial = None if request.trial is None else replace(request.trial, draw="")
        key = (logic.serial, replace(request, trial=trial))
        known = self._cache.get(key)
        self._metrics.cached(known is not None)
        if known is not None:
            self._cache.move_to_end(key)
            return Answer.unpacked(known)
        answer: Answer = await self._answer_batch((logic, request))
        if request.diversity == 0 and self._limits.cached_lists:
            self._cache[key] = answer.packed()
            while len(self._cache) > self._limits.cached_lists:
                self._cache.popitem(last=False)
        return answer

    @serve.batch
    async def _answer_batch(self, requests: list[tuple[RecommenderLogic, RecommendRequest]]) -> list[Answer]:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._answer, requests)

    def _answer(self, requests: list[tuple[RecommenderLogic, RecommendRequest]]) -> list[Answer]:
        """Answers in the order of the requests, each bundle's together."""
        began = time.perf_counter()
        answers: dict[int, Answer] = {}
        for logic in {id(one): one for one, _ in requests}.values():
            members = [place for place, (one, _) in enumerate(requests) if one is logic]
            answers |= zip(members, logic.answer([requests[place][1] for place in members]), strict=True)
        self._metrics.decoded(len(requests), time.perf_counter() - began)
        return [answers[place] for place in range(len(requests))]

    async def explain(
        self, request: RecommendRequest, item_id: str, bundle: str | None = None
    ) -> dict[str, Any] | Refusal:
        """What a recommendation leans on."""
        logic = await self._model(bundle)
        return await asyncio.get_running_loop().run_in_executor(self._worker, logic.explain, request, item_id)

    async def item(self, item_id: str, bundle: str | None = None) -> dict[str, Any] | Refusal:
        """An item of the catalog."""
        return (await self._model(bundle)).item(item_id)

    async def find_items(self, query: str, limit: int, bundle: str | None = None) -> list[dict[str, Any]]:
        """Items by title."""
        return (await self._model(bundle)).find_items(query, limit)

    async def find_users(self, query: str, limit: int, bundle: str | None = None) -> list[dict[str, Any]]:
        """Users by id."""
        return (await self._model(bundle)).find_users(query, limit)

    async def card(self, bundle: str | None = None) -> dict[str, Any]:
        """A loaded bundle."""
        return (await self._model(bundle)).card()

    async def versions(self, bundle: str | None = None) -> tuple[str, str]:
        """Versions of bundle and semantic IDs: the cheapest proof that a warm replica answers."""
        recommender = (await self._model(bundle)).recommender
        return recommender.version, recommender.sid_version

    async def threads(self) -> int:
        """Threads that a decoding step uses."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, torch.get_num_threads)


def recommender_class(limits: ServeSettings) -> type[RecommenderReplica]:
    """The class with Serve's own cache of models, as large as the settings say; it tells the router who holds which."""
    multiplexed: Any = serve.multiplexed(max_num_models_per_replica=limits.bundles_in_memory)
    members = {"_load_bundle": multiplexed(RecommenderReplica._load_bundle), "__doc__": RecommenderReplica.__doc__}
    return type("SizedRecommenderReplica", (RecommenderReplica,), members)
