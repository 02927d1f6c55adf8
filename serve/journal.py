"""The store as the routes use it: without blocking the event loop, many requests a commit.

A commit costs a flush to disk, so what arrives while one is under way is committed together by the next
(group commit). A caller goes on only once its own entry is durable.
"""

import asyncio
import logging
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from sqlalchemy.exc import SQLAlchemyError

from serve.errors import ApiError, unavailable
from serve.shown import ShownList
from serve.store import STORE_TIMEOUT_S, Event, FeedbackStore, Session, Turn

logger = logging.getLogger(__name__)

_COMMIT_ENTRIES = 256
_Entry = ShownList | Turn | Sequence[Event]


class Journal:
    """Writes and reads one store for one event loop.

    Args:
        store: the open store.
    """

    def __init__(self, store: FeedbackStore) -> None:
        self.store = store
        self._writer = ThreadPoolExecutor(1, "store")
        self._waiting: list[tuple[_Entry, asyncio.Future[int]]] = []
        self._flusher: asyncio.Task[None] | None = None

    async def feedback(self, events: Sequence[Event]) -> int:
        """Store a batch.

        Returns:
            how many of the events are new.

        Raises:
            ApiError: 503; it is not known to be stored, and may be sent again.
        """
        try:
            return await self._write(events)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.error("%s: a batch of feedback is refused: %r", self.store.name, error)
            raise _not_stored() from None

    async def shown(self, shown: ShownList) -> None:
        """Log a list. A store that fails must not stop serving: the loss is logged instead."""
        try:
            await self._write(shown)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.error("%s: the list of request %s is not logged: %r", self.store.name, shown.request_id, error)

    async def recent(self, user_id: str) -> tuple[str, ...]:
        """Items that feedback adds to the user's history; none, with a log line, from a store that fails."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await asyncio.to_thread(self.store.recent, user_id)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.error("%s: a list is made without the user's feedback: %r", self.store.name, error)
            return ()

    async def made(self, user_id: str | None, session_id: str | None) -> tuple[str, ...]:
        """What a user or session had made and did not reject, newest first; nothing from a store that fails."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await asyncio.to_thread(self.store.made, user_id, session_id)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.error("%s: a list is made without what the user had made: %r", self.store.name, error)
            return ()

    async def session(self, session_id: str, list_id: str | None) -> Session:
        """What is known of a session; nothing, with a log line, from a store that fails."""
        try:
            async with asyncio.timeout(STORE_TIMEOUT_S):
                return await asyncio.to_thread(self.store.session, session_id, list_id)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.error("%s: an instruction is read without its session: %r", self.store.name, error)
            return Session()

    async def turn(self, turn: Turn) -> None:
        """Log a turn; as with lists, a store that fails must not stop serving."""
        try:
            await self._write(turn)
        except (SQLAlchemyError, TimeoutError) as error:
            logger.error("%s: turn %s is not logged: %r", self.store.name, turn.instruction_id, error)

    async def _write(self, entry: _Entry) -> int:
        loop = asyncio.get_running_loop()
        done: asyncio.Future[int] = loop.create_future()
        self._waiting.append((entry, done))
        if self._flusher is None or self._flusher.done():
            self._flusher = loop.create_task(self._flush())
        async with asyncio.timeout(STORE_TIMEOUT_S):
            return await done

    async def _flush(self) -> None:
        loop = asyncio.get_running_loop()
        while self._waiting:
            batch, self._waiting = self._waiting[:_COMMIT_ENTRIES], self._waiting[_COMMIT_ENTRIES:]
            try:
                new = await loop.run_in_executor(self._writer, self.store.write, [entry for entry, _ in batch])
            except SQLAlchemyError as error:
                for _, done in batch:
                    if not done.done():
                        done.set_exception(error)
            else:
                for (_, done), rows in zip(batch, new, strict=True):
                    if not done.done():  # whoever gave up waiting has cancelled it
                        done.set_result(rows)


def _not_stored() -> ApiError:
    return unavailable("the feedback store does not answer; send the batch again, no event is stored twice")
