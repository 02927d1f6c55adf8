"""Connecting to Ray, at most once a process and only when a stage is really made."""

from __future__ import annotations

import logging
import socket

from genrec.config import RaySettings
from genrec.errors import SettingsError

logger = logging.getLogger(__name__)
PROBE_S = 10.0


def connect(settings: RaySettings) -> None:
    """Connect to the cluster of the settings, or start a local one; nothing if there is a connection.

    Raises:
        SettingsError: no cluster answers at ``ray.address``.
    """
    import ray

    if ray.is_initialized():
        return
    if settings.address is not None:
        try:
            _probe(settings.address)
            ray.init(address=settings.address, log_to_driver=False)
        except (OSError, RuntimeError, ValueError) as error:
            raise SettingsError(
                f"ray.address: no cluster at {settings.address!r} ({error}); null starts one"
            ) from error
        return
    logger.info("starting a local Ray cluster")
    ray.init(
        address="local",  # never another cluster that happens to run on this machine
        num_cpus=settings.num_cpus,
        object_store_memory=settings.object_store_mib * 2**20,
        include_dashboard=settings.dashboard,
        dashboard_host="127.0.0.1",
        log_to_driver=False,
        logging_level=logging.WARNING,
    )


def _probe(address: str) -> None:
    """Raise OSError at once if nothing listens at ``host:port``; Ray itself would try for minutes."""
    host, colon, port = address.rpartition("://")[2].rpartition(":")
    if colon and port.isdecimal():
        socket.create_connection((host.strip("[]"), int(port)), timeout=PROBE_S).close()
