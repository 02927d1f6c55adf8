"""Replicas of the recommender that are ready, as Serve's controller tells: the room for lists follows them.

A room for all replicas that there may be would let in what the few that are there cannot answer: it would be refused
further in, at the price of a list, or wait.
"""

from __future__ import annotations

import asyncio
import logging

from ray import serve
from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException

from genrec.config import ServeSettings
from serve.clients import room_of

logger = logging.getLogger(__name__)

APP_NAME = "genrec"
EVERY_S = 1.0


class ReadyRoom:
    """The room for lists.

    Args:
        limits: settings.serve.
    """

    def __init__(self, limits: ServeSettings) -> None:
        self._limits = limits
        self._ready = limits.replicas

    def __call__(self) -> int:
        """As it was when last looked at."""
        return room_of(self._limits, self._ready)

    @property
    def moves(self) -> bool:
        """False where the number of replicas is fixed."""
        return self._limits.max_replicas not in {None, self._limits.replicas}

    def look(self) -> int:
        """Ask the controller, which takes some milliseconds; what it last said stands while it does not answer."""
        if self.moves:
            try:
                application = serve.status().applications[APP_NAME]
                states = application.deployments["recommender"].replica_states
                self._ready = sum(count for state, count in states.items() if state == "RUNNING")
            except (RayError, RayServeException, KeyError) as error:
                logger.warning("the room for lists stays as it is: %r", error)
        return self()

    async def follow(self) -> None:
        """Look for as long as the caller lives."""
        while self.moves:
            await asyncio.to_thread(self.look)
            await asyncio.sleep(EVERY_S)
