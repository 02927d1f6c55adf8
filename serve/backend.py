"""How the ingress reaches the recommender: one call, a time limit, and Ray's failures put into words."""

import asyncio
from typing import Any, Protocol

from ray.exceptions import RayActorError
from ray.serve.exceptions import BackPressureError, DeploymentUnavailableError, ReplicaUnavailableError
from ray.serve.handle import DeploymentHandle

from genrec.recommender import RecommendRequest
from serve.errors import overloaded, timed_out, unavailable
from serve.recommender import Answer, Refusal


class Backend(Protocol):
    """What the routes need; each call raises :class:`serve.errors.ApiError` when it gets no answer."""

    async def recommend(self, request: RecommendRequest) -> Answer | Refusal:
        """One list."""

    async def item(self, item_id: str) -> dict[str, Any] | Refusal:
        """One item."""

    async def card(self) -> dict[str, Any]:
        """The loaded bundle."""

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        """Versions of bundle and semantic IDs, or a timeout."""


class HandleBackend:
    """The recommender deployment behind its Serve handle.

    Args:
        handle: of the recommender deployment.
        timeout_s: longest wait for an answer; the work is cancelled then.
    """

    def __init__(self, handle: DeploymentHandle[Any], timeout_s: float) -> None:
        self._handle = handle
        self._timeout_s = timeout_s

    async def recommend(self, request: RecommendRequest) -> Answer | Refusal:
        """One list."""
        return await self._call("recommend", request)

    async def item(self, item_id: str) -> dict[str, Any] | Refusal:
        """One item."""
        return await self._call("item", item_id)

    async def card(self) -> dict[str, Any]:
        """The loaded bundle."""
        return await self._call("card")

    async def versions(self, timeout_s: float) -> tuple[str, str]:
        """Versions of bundle and semantic IDs."""
        return await self._call("versions", timeout_s=timeout_s)

    async def _call(self, method: str, *arguments: Any, timeout_s: float | None = None) -> Any:
        limit = self._timeout_s if timeout_s is None else timeout_s
        response = getattr(self._handle, method).remote(*arguments)
        try:
            async with asyncio.timeout(limit):
                return await response
        except TimeoutError:
            response.cancel()
            raise timed_out(limit) from None
        except BackPressureError:
            raise overloaded() from None
        except DeploymentUnavailableError:
            raise unavailable("the recommender failed to start; its log says why") from None
        except (RayActorError, ReplicaUnavailableError):
            raise unavailable("the replica that held this request went away; send it again") from None
