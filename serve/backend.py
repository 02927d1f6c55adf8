"""How the ingress reaches the recommender: one call, a time limit, and Ray's failures put into words.

Which bundle answers is decided here, by the catalog asked for and the rollout (:mod:`serve.rollout`). A bundle on
probation (a canary, or a stable one with an earlier one behind it) that raises is answered for by the one that stood
before, and after ``serve.canary_errors`` of its failures it is rolled back.
"""

import asyncio
import functools
import logging
import zlib
from collections import Counter
from collections.abc import Callable
from typing import Any, Protocol

from ray.exceptions import RayActorError, RayError, RayTaskError
from ray.serve.exceptions import (
    BackPressureError,
    DeploymentUnavailableError,
    RayServeException,
    ReplicaUnavailableError,
    RequestCancelledError,
)
from ray.serve.handle import DeploymentHandle

from genrec.errors import GenrecError
from genrec.recommender import RecommendRequest
from serve.errors import ApiError, ReplicaGoneError, overloaded, timed_out, unavailable
from serve.recommender import Answer, Refusal
from serve.rollout import DEFAULT_CATALOG, Rollout, Rollouts

logger = logging.getLogger(__name__)

PREPARE_TIMEOUT_S = 120.0


def granted(answer: Any) -> Any:
    """The answer, unless it is a refusal, which is raised for the client to mend."""
    if isinstance(answer, Refusal):
        raise ApiError(answer.status, answer.code, answer.message, field=answer.field)
    return answer


class Backend(Protocol):
    """What the routes need; each call raises :class:`serve.errors.ApiError` when it gets no answer."""

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        """One list."""

    async def explain(
        self, request: RecommendRequest, item_id: str, catalog: str | None = None
    ) -> dict[str, Any] | Refusal:
        """What a recommendation leans on."""

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        """One item."""

    async def find_items(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        """Items by title."""

    async def find_users(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        """Users by id."""

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        """The loaded bundle."""

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        """Versions of bundle and semantic IDs, or a timeout."""


class HandleBackend:
    """The recommender deployment behind its Serve handle.

    Args:
        handle: of the recommender deployment.
        timeout_s: longest wait for an answer; the work is cancelled then.
        rollouts: which bundle answers; None: the one that the deployment was started with.
        most_errors: failures after which a bundle on probation is rolled back.
    """

    def __init__(
        self,
        handle: DeploymentHandle[Any],
        timeout_s: float,
        rollouts: Rollouts | None = None,
        most_errors: int = 3,
    ) -> None:
        self._handle = handle
        self._timeout_s = timeout_s
        self._rollouts = rollouts
        self._most_errors = most_errors
        self._current: dict[str, Rollout] = {} if rollouts is None else rollouts.read()
        self._failures: Counter[str] = Counter()

    async def recommend(self, request: RecommendRequest, catalog: str | None = None) -> Answer | Refusal:
        """One list."""
        who = request.user_id or "".join(request.history or ())
        return await self._routed("recommend", (request,), catalog, zlib.crc32(who.encode("utf-8", "replace")))

    async def explain(
        self, request: RecommendRequest, item_id: str, catalog: str | None = None
    ) -> dict[str, Any] | Refusal:
        """What a recommendation leans on."""
        return await self._routed("explain", (request, item_id), catalog)

    async def item(self, item_id: str, catalog: str | None = None) -> dict[str, Any] | Refusal:
        """One item."""
        return await self._routed("item", (item_id,), catalog)

    async def find_items(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        """Items by title."""
        return await self._routed("find_items", (query, limit), catalog)

    async def find_users(self, query: str, limit: int, catalog: str | None = None) -> list[dict[str, Any]]:
        """Users by id."""
        return await self._routed("find_users", (query, limit), catalog)

    async def card(self, catalog: str | None = None) -> dict[str, Any]:
        """The loaded bundle."""
        return await self._routed("card", (), catalog)

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        """Versions of bundle and semantic IDs."""
        rollout = self._current.get(DEFAULT_CATALOG)
        stable = None if rollout is None else rollout.stable
        versions: tuple[str, str] = await self._call("versions", stable, timeout_s=timeout_s)
        return versions

    async def follow(self, every_s: float = 0.5, newest: Callable[[], str | None] | None = None) -> None:
        """Follow the rollout file for as long as the replica lives: verify what is wanted, then route to it.

        Args:
            every_s: how often the file is read.
            newest: the run's newest bundle, for who follows that too.
        """
        assert self._rollouts is not None
        last = newest() if newest else None
        for catalog, rollout in self._current.items():
            if catalog != DEFAULT_CATALOG:
                await self._warm(rollout.stable)
        while True:
            try:
                self._current = self._rollouts.read()
                found = newest() if newest else None
                if found is not None and found != last:
                    last = found
                    self._rollouts.change(DEFAULT_CATALOG, functools.partial(Rollout.want, bundle=found, share=1.0))
                for catalog, rollout in self._current.items():
                    if rollout.wanted is not None:
                        await self._verify(catalog, rollout.wanted)
            # A round that fails (a file system away for a moment) must not end the watch.
            except (OSError, GenrecError, RayError, RayServeException):
                logger.exception("the rollout is not followed at this moment")
            await asyncio.sleep(every_s)

    async def _warm(self, bundle: str) -> None:
        """Have a further catalog loaded before it is asked for; one that cannot be is told of in the log."""
        try:
            told = await self._call("prepare", bundle, timeout_s=PREPARE_TIMEOUT_S, model=bundle)
        except (ApiError, RayError, RayServeException) as error:
            told = repr(error)
        if isinstance(told, str):
            logger.error("%s: a further catalog is not loaded: %s", bundle, told)

    async def _verify(self, catalog: str, bundle: str) -> None:
        assert self._rollouts is not None
        try:
            told = await self._call("prepare", bundle, timeout_s=PREPARE_TIMEOUT_S)
        except ApiError as error:
            if error.status == 503:  # no replica had room or lived long enough: that says nothing of the bundle
                logger.warning("%s: not verified yet: %s", bundle, error.message)
                return
            told = error.message
        except RayTaskError as error:
            told = f"loading it raised {error.cause!r}"
        if not isinstance(told, str):
            self._failures.pop(bundle, None)
            logger.warning("%s: version %s passed its checks", bundle, told[0])
        else:
            logger.error("%s: refused: %s", bundle, told)

        def step(rollout: Rollout) -> Rollout:
            if rollout.wanted != bundle:  # something else is wanted by now
                return rollout
            return rollout.refuse(bundle, told) if isinstance(told, str) else rollout.accept()

        self._current[catalog] = self._rollouts.change(catalog, step)

    async def _routed(self, method: str, arguments: tuple[Any, ...], catalog: str | None, whose: int = 0) -> Any:
        name = catalog or DEFAULT_CATALOG
        rollout = self._current.get(name)
        if rollout is None:
            if catalog is not None and catalog != DEFAULT_CATALOG:
                raise ApiError(404, "unknown_catalog", f"catalog: {catalog!r} is not served here", field="catalog")
            return await self._call(method, *arguments)
        # The same user or history stays with the same version while the share stays.
        chosen, fallback = rollout.stable, rollout.previous
        if rollout.canary is not None and whose % 10_000 < rollout.share * 10_000:
            chosen, fallback = rollout.canary, rollout.stable
        try:
            return await self._call(method, *arguments, chosen, model=None if name == DEFAULT_CATALOG else chosen)
        except RayTaskError as error:
            if fallback is None or self._rollouts is None:
                raise
            logger.error("%s: a request failed, %s answers it: %r", chosen, fallback, error.cause)
            self._failures[chosen] += 1
            if self._failures[chosen] >= self._most_errors:
                reason = f"{self._failures[chosen]} requests failed, the last with {error.cause!r}"
                self._current[name] = self._rollouts.change(name, lambda one: one.refuse(chosen, reason))
                self._failures.pop(chosen)
            return await self._call(method, *arguments, fallback, model=None if name == DEFAULT_CATALOG else fallback)

    async def _call(
        self, method: str, *arguments: Any, timeout_s: float | None = None, model: str | None = None
    ) -> Any:
        limit = self._timeout_s if timeout_s is None else timeout_s
        handle = self._handle if model is None else self._handle.options(multiplexed_model_id=model)
        try:
            return await answered(getattr(handle, method).remote(*arguments), limit, "recommender")
        except ReplicaGoneError:  # the recommender stores nothing, so another replica may be asked
            return await answered(getattr(handle, method).remote(*arguments), limit, "recommender")


async def answered(response: Any, limit: float, name: str) -> Any:
    """The result of a call to a deployment.

    Raises:
        ApiError: 503 or 504, in place of Ray's own errors.
        RayTaskError: the deployment's code raised.
    """
    try:
        async with asyncio.timeout(limit):
            return await response
    except TimeoutError:
        response.cancel()
        raise timed_out(limit) from None
    except asyncio.CancelledError:
        response.cancel()
        raise
    except (
        BackPressureError,
        DeploymentUnavailableError,
        RayActorError,
        ReplicaUnavailableError,
        RequestCancelledError,
    ) as error:
        raise as_api_error(error, name) from None


def as_api_error(error: Exception, name: str) -> ApiError:
    """What Ray's word for a call that failed means to a client."""
    if isinstance(error, BackPressureError):
        return overloaded()
    if isinstance(error, DeploymentUnavailableError):
        return unavailable(f"the {name} failed to start; its log says why")
    return ReplicaGoneError()
