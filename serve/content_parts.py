"""The content deployments: instructor, creator, editor, fidelity; and how the ingress reaches them."""

from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

from ray.serve.handle import DeploymentHandle

from genrec.config import ServeSettings, Settings
from serve.content import Decided, InstructionCall, Made, MediaFile, Progress
from serve.recommender import Refusal

PARTS = ("instructor", "creator", "editor", "fidelity")


def content_wanted(settings: Settings) -> bool:
    """True if the application is to have the content deployments."""
    return False


def bind_content(settings: Settings, bundle: str, deployment: Callable[..., Any]) -> dict[str, Any]:
    """The deployments, bound, by name."""
    raise NotImplementedError


class HandleContent:
    """The content deployments behind their handles."""

    def __init__(self, limits: ServeSettings, parts: Mapping[str, DeploymentHandle[Any]]) -> None:
        self._limits, self._parts = limits, parts

    async def decide(self, call: InstructionCall) -> Decided | Refusal:
        raise NotImplementedError

    async def make(self, call: InstructionCall, decided: Decided) -> AsyncIterator[Progress | Made]:
        raise NotImplementedError
        yield

    async def media(self, asset_id: str) -> MediaFile | None:
        raise NotImplementedError

    async def provenance(self, asset_id: str) -> dict[str, Any] | None:
        raise NotImplementedError
