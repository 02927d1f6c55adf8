"""The composed application: ingress (HTTP) -> recommender (model), one hop between them.

``build(settings, bundle)`` is what ``python -m serve`` runs; ``application`` is the same for Serve's own
config files (``import_path: serve.app:application``), whose schema takes misspelt keys in silence, so that
the settings pass through our strict tree here.

(No ``from __future__ import annotations`` here: with it Serve hands a typed builder a raw dict.)
"""

from pathlib import Path
from typing import Any

from fastapi import FastAPI
from pydantic import BaseModel, ConfigDict
from ray import serve
from ray.serve import Application
from ray.serve.handle import DeploymentHandle

from genrec.config import ServeSettings, Settings, load_settings
from serve.api import create_api
from serve.backend import HandleBackend
from serve.journal import Journal
from serve.keys import load_digests
from serve.recommender import RecommenderReplica
from serve.store import FeedbackStore, store_url

APP_NAME = "genrec"
INGRESS_CPUS = 0.1


class IngressReplica:
    """HTTP in front of the recommender.

    Args:
        limits: settings.serve.
        recommender: handle of the recommender deployment.
        store: URL of the feedback store.
        keys: digests of the API keys.
    """

    def __init__(
        self, limits: ServeSettings, recommender: DeploymentHandle[Any], store: str, keys: tuple[bytes, ...]
    ) -> None:
        self._limits = limits
        self._backend = HandleBackend(recommender, limits.request_timeout_s)
        self._journal = Journal(FeedbackStore(store))
        self._keys = keys

    def __serve_build_asgi_app__(self) -> FastAPI:
        """Called by Serve in the replica: the app is built from the settings, nothing at import."""
        return create_api(self._limits, self._backend, self._journal, self._keys)


def build(settings: Settings, bundle: Path) -> Application:
    """Compose the deployments.

    Args:
        settings: the validated tree.
        bundle: directory of the bundle, visible to every node that runs a replica.

    Raises:
        ApiKeysError: there is no usable key where settings.serve.api_keys says.
    """
    limits, keys = settings.serve, load_digests(settings.serve.api_keys)
    recommender = serve.deployment(
        name="recommender",
        num_replicas=limits.replicas,
        max_ongoing_requests=limits.max_ongoing_requests,
        max_queued_requests=limits.max_queued_requests,
        max_constructor_retry_count=3,
        ray_actor_options={"num_cpus": limits.cpus_per_replica},
    )(RecommenderReplica).bind(str(bundle.resolve()), limits)
    # The ingress must take in more than the recommender's queue holds: then it is the queue that refuses, and
    # the refusal has our shape and Retry-After.
    room = 2 * (limits.replicas * limits.max_ongoing_requests + limits.max_queued_requests) + 64
    ingress = serve.deployment(
        name="ingress",
        num_replicas=1,
        max_ongoing_requests=room,
        max_constructor_retry_count=3,
        ray_actor_options={"num_cpus": INGRESS_CPUS},
    )(serve.ingress()(IngressReplica))
    return ingress.bind(limits, recommender, store_url(settings), keys)


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
    return build(settings, Path(arguments.bundle))
