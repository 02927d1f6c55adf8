"""Our own log lines beside Serve's: one JSON object a line, with the id of the request that they are about."""

from __future__ import annotations

import logging

SERVE_LOGGER = "ray.serve"
OURS = ("serve", "genrec")


def join_serve_log() -> None:
    """In a replica: what our modules log goes where Serve's own lines go, formatted alike."""
    handlers = list(logging.getLogger(SERVE_LOGGER).handlers)
    for name in OURS:
        logger = logging.getLogger(name)
        logger.handlers = handlers
        logger.setLevel(logging.INFO)
        logger.propagate = not handlers
