"""The deployment that holds the model: loads a bundle, warms it up, answers in batches.

A replica counts as started only when ``__init__`` has returned, so Serve routes nothing to a cold model.
What a request got wrong comes back as a value (:class:`Refusal`): an exception would be logged with its
stack by the replica, and would fail the batch that the request shares.
"""

import asyncio
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from ray import serve

from genrec.config import ServeSettings
from genrec.recommendation import Recommendation
from genrec.recommender import Recommender, RecommendRequest, RequestError, UnknownItemError, UnknownUserError


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
    return Refusal(status, code, field if colon and field.isidentifier() else None, str(error))


class RecommenderLogic:
    """The replica's work without Ray: plain methods, so that they run in a test as they are.

    Args:
        recommender: the loaded model.
        limits: settings.serve.
    """

    def __init__(self, recommender: Recommender, limits: ServeSettings) -> None:
        self.recommender = recommender
        self.limits = limits

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
        """Answer one request and one full batch, so that no client pays for first-use costs."""
        items = self.recommender.bundle.catalog.item_ids
        history = tuple(items[: min(2, len(items))])
        k = min(10, self.limits.max_k, self.recommender.max_k)
        request = RecommendRequest(user_id=None, history=history, k=k)
        self.answer([request])
        self.answer([request] * self.limits.batch_size)


class RecommenderReplica:
    """One replica. Decoding runs in one worker thread, so that the next batch fills meanwhile.

    Args:
        bundle: directory of the bundle.
        limits: settings.serve.
    """

    def __init__(self, bundle: str, limits: ServeSettings) -> None:
        threads = max(1, int(limits.cpus_per_replica))  # more threads than the replica's share slow everyone down
        torch.set_num_threads(threads)
        self._worker = ThreadPoolExecutor(1, "decode", initializer=torch.set_num_threads, initargs=(threads,))
        self._logic = RecommenderLogic(Recommender.load(Path(bundle)), limits)
        batching: Any = self._answer_batch
        batching.set_max_batch_size(limits.batch_size)
        batching.set_batch_wait_timeout_s(limits.batch_wait_s)
        self._worker.submit(self._logic.warm_up).result()

    async def recommend(self, request: RecommendRequest) -> Answer | Refusal:
        """One list; requests that wait at the same time are decoded together."""
        return self._logic.check(request) or await self._answer_batch(request)

    @serve.batch
    async def _answer_batch(self, requests: list[RecommendRequest]) -> list[Answer]:
        return await asyncio.get_running_loop().run_in_executor(self._worker, self._logic.answer, requests)

    async def item(self, item_id: str) -> dict[str, Any] | Refusal:
        """An item of the catalog."""
        return self._logic.item(item_id)

    async def card(self) -> dict[str, Any]:
        """The loaded bundle."""
        return self._logic.card()

    async def versions(self) -> tuple[str, str]:
        """Versions of bundle and semantic IDs: the cheapest proof that a warm replica answers."""
        return self._logic.recommender.version, self._logic.recommender.sid_version

    async def threads(self) -> int:
        """Threads that a decoding step uses."""
        return await asyncio.get_running_loop().run_in_executor(self._worker, torch.get_num_threads)
