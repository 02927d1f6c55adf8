"""The composed application: ingress (HTTP) -> instructor -> {recommender, editor, creator} -> fidelity -> reply.

Each is a deployment of its own with its own replicas; the ingress calls them, one hop each. Without content
(``serve.content``) there are ingress and recommender.

``build(settings, bundle)`` is what ``python -m serve`` runs; ``application`` is the same for Serve's own
config files (``import_path: serve.app:application``), whose schema takes misspelt keys in silence, so that
the settings pass through our strict tree here.

(No ``from __future__ import annotations`` here: with it Serve hands a typed builder a raw dict.)
"""

import asyncio
import functools
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.config import AutoscalingConfig, BackpressureConfig
from ray.serve.handle import DeploymentHandle

from genrec.bundle import bundle_place, published_path
from genrec.config import ContentSettings, PartSettings, ServeSettings, Settings, load_settings
from serve.api import create_api
from serve.backend import HandleBackend
from serve.clients import room_of
from serve.content_parts import CONTENT_FOLDER, PARTS, HandleContent, bind_content, content_wanted
from serve.errors import RETRY_AFTER_S
from serve.journal import Journal
from serve.keys import load_digests
from serve.logs import join_serve_log
from serve.made import judge_made
from serve.process import run_directory
from serve.ready import ReadyRoom
from serve.recommender import recommender_class
from serve.rollout import DEFAULT_CATALOG, ROLLOUT_FILE, Rollouts
from serve.store import FeedbackStore, store_url

ROOM_TO_REFUSE = 16
"""Requests that a replica of the ingress holds beyond those that can be answered or wait: to refuse them, or to say
that it is healthy. As many may wait in the proxy."""


class IngressReplica:
    """HTTP in front of the other deployments.

    Args:
        limits: settings.serve.
        recommender: handle of the recommender deployment.
        store: URL of the feedback store.
        keys: digests of the API keys.
        rollouts: file that says which bundle answers.
        newest: link to the run's newest bundle, if it is to be followed.
        made: settings.content; how made items are judged.
        parts: handles of the content deployments, by name; none: no content.
    """

    def __init__(
        self,
        limits: ServeSettings,
        recommender: DeploymentHandle[Any],
        store: str,
        keys: tuple[bytes, ...],
        rollouts: str,
        newest: str | None = None,
        made: ContentSettings | None = None,
        **parts: DeploymentHandle[Any],
    ) -> None:
        join_serve_log()
        self._limits = limits
        versions = Rollouts(Path(rollouts))
        self._backend = HandleBackend(recommender, limits.request_timeout_s, versions, limits.canary_errors)
        self._journal = Journal(FeedbackStore(store))
        self._keys = keys
        self._newest = None if newest is None else Path(newest)
        self._content = HandleContent(limits, parts) if parts else None
        self._made = ContentSettings() if made is None else made
        self._room = ReadyRoom(limits)

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve in the replica: the app is built from the settings, nothing at import."""
        api = create_api(self._limits, self._backend, self._journal, self._keys, self._content, self._room)
        newest = None if self._newest is None else functools.partial(_resolved, self._newest)

        @asynccontextmanager
        async def lifespan(_: FastAPI) -> AsyncIterator[None]:
            beside = [asyncio.ensure_future(self._backend.follow(newest=newest))]
            beside.append(asyncio.ensure_future(self._room.follow()))
            if self._content is not None:
                judging = judge_made(self._journal.store, self._content, self._made.library)
                beside.append(asyncio.ensure_future(judging))
            yield
            for one in beside:
                one.cancel()

        api.router.lifespan_context = lifespan
        return api


def build(settings: Settings, bundle: str | Path) -> Application:
    """Compose the deployments.

    Args:
        settings: the validated tree.
        bundle: directory of the bundle, visible to every node that runs a replica, or its URI.

    Raises:
        ApiKeysError: there is no usable key where settings.serve.api_keys says.
    """
    limits, keys = settings.serve, load_digests(settings.serve.api_keys)
    folder, start = run_directory(settings), bundle_place(bundle)
    rollouts = folder / ROLLOUT_FILE
    catalogs = {name: bundle_place(path) for name, path in limits.catalogs.items()}
    Rollouts(rollouts).begin({DEFAULT_CATALOG: start, **catalogs})
    # What waits for the recommender waits in its replicas: Serve's router asks full ones anew after 25, 50, 100 ms ...,
    # a call each time, and a place that falls free stays so for as long. How much may wait is said at the door.
    waiting = max(1, limits.max_queued_requests)
    part = PartSettings(
        cpus=limits.cpus_per_replica,
        replicas=limits.replicas,
        max_replicas=limits.max_replicas,
        max_ongoing_requests=limits.max_ongoing_requests,
        max_queued_requests=waiting,
    )
    wanted = content_wanted(settings)
    library = str(folder / CONTENT_FOLDER) if wanted else None
    recommender = _deployment("recommender", recommender_class(limits), part, limits, waiting).bind(
        start, limits, str(rollouts), settings.content, library
    )
    parts = bind_content(settings, start, _deployment) if wanted else {}
    # The ingress takes in a little more than the queues behind it hold: it is they that refuse first, in our words.
    # What comes faster than it can refuse is refused by Serve's proxy, which costs a tenth; else refusals would queue.
    room = room_of_all(settings) + ROOM_TO_REFUSE
    front = limits.ingress.model_copy(update={"max_ongoing_requests": room, "max_queued_requests": ROOM_TO_REFUSE})
    ingress = _deployment("ingress", serve.ingress()(IngressReplica), front, limits)
    newest = str(published_path(settings).absolute()) if limits.watch else None
    return ingress.bind(
        limits, recommender, store_url(settings), keys, str(rollouts), newest, settings.content, **parts
    )


def room_of_all(settings: Settings) -> int:
    """Requests that may be in flight in all: what the deployments behind the ingress work at, and what may wait."""
    limits = settings.serve
    parts = [getattr(limits, name) for name in PARTS] if content_wanted(settings) else []
    return sum(map(room_of, [limits, *parts]))


def cpus_needed(settings: Settings) -> float:
    """CPUs that the fewest replicas of all deployments take."""
    limits = settings.serve
    parts = [limits.ingress, *(getattr(limits, name) for name in PARTS if content_wanted(settings))]
    return limits.replicas * limits.cpus_per_replica + sum(part.replicas * part.cpus for part in parts)


def _deployment(name: str, replica: Any, part: PartSettings, limits: ServeSettings, waiting: int = 0) -> Any:
    """A deployment under its settings; replicas follow the load where there is a most.

    Args:
        name: of the deployment.
        replica: its class.
        part: its settings.
        limits: settings.serve.
        waiting: requests that may wait in a replica, beyond those that it works at.
    """
    many: dict[str, Any] = {"num_replicas": part.replicas}
    if part.max_replicas is not None:
        scaling = limits.autoscaling
        many = {
            "autoscaling_config": AutoscalingConfig(
                min_replicas=part.replicas,
                max_replicas=part.max_replicas,
                target_ongoing_requests=max(1.0, scaling.target_load * part.max_ongoing_requests),
                look_back_period_s=scaling.look_back_s,
                metrics_interval_s=min(1.0, scaling.look_back_s),
                upscale_delay_s=scaling.upscale_delay_s,
                downscale_delay_s=scaling.downscale_delay_s,
            )
        }
    return serve.deployment(
        name=name,
        max_ongoing_requests=part.max_ongoing_requests + waiting,
        max_queued_requests=part.max_queued_requests,
        backpressure_config=BackpressureConfig(retry_after_s=RETRY_AFTER_S),
        max_constructor_retry_count=3,
        graceful_shutdown_timeout_s=limits.drain_s,
        graceful_shutdown_wait_loop_s=0.5,
        health_check_period_s=2.0,
        ray_actor_options={"num_cpus": part.cpus},
        **many,
    )(replica)


def _resolved(link: Path) -> str | None:
    """Where the link points; None where there is none yet."""
    return str(link.resolve()) if link.is_dir() else None


class BuildArguments(BaseModel):
    """Arguments of :func:`application` in a Serve config file."""

    model_config = ConfigDict(extra="forbid")

    bundle: str
    config: str | None = None
    preset: str | None = None
    overrides: tuple[str, ...] = ()


def application(arguments: BuildArguments) -> Application:
    """Builder for Serve's config files."""
    settings = load_settings(arguments.config, preset=arguments.preset, overrides=arguments.overrides)
    return build(settings, arguments.bundle)
