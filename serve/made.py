"""What people do with made items decides whether they are retired, or ranked like any other.

One loop an ingress: after new feedback it counts the reactions to each made item in the store and hands the verdicts to
the library. Nothing is kept between the rounds, so it goes on after a restart, and many may run at once.
"""

from __future__ import annotations

import asyncio
import logging

from ray.exceptions import RayError
from ray.serve.exceptions import RayServeException
from sqlalchemy.exc import SQLAlchemyError

from genrec.config.content import LibrarySettings
from genrec.content.library.exploration import to_prove, to_retire
from serve.content import ContentBackend
from serve.errors import ApiError
from serve.store import FeedbackStore

logger = logging.getLogger(__name__)

JUDGE_EVERY_S = 2.0


async def judge_made(
    store: FeedbackStore, content: ContentBackend, settings: LibrarySettings, every_s: float = JUDGE_EVERY_S
) -> None:
    """Judge the made items after new feedback, for as long as the replica lives."""
    seen, decided = -1, (dict[str, str](), list[str]())
    while True:
        try:
            newest = await asyncio.to_thread(store.newest)
            if newest != seen:
                counts = await asyncio.to_thread(store.reactions)
                verdicts = to_retire(counts, settings), to_prove(counts, settings)
                if verdicts != decided:
                    await content.judge(*verdicts)
                decided, seen = verdicts, newest
        # A round that fails (a store that is away, a part that is started anew) must not end the loop.
        except (ApiError, RayError, RayServeException, SQLAlchemyError):
            logger.exception("made items are not judged at this moment")
        await asyncio.sleep(every_s)
