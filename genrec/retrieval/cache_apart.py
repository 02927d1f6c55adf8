"""A retrieval cache on nodes that share no file system: every unit's file is sent to a place as soon as it is there.

Each node keeps the cache's directory at the same path, as far as it needs it: a worker fetches what its unit reads, the
driver all that was made, and a training worker the finished cache. So a unit is as durable as the place, and who
goes on elsewhere, after a node or the driver itself was lost, begins with what was sent. ``cache.json`` is sent last.
"""

from __future__ import annotations

import os
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path

from genrec.remote import Place
from genrec.retrieval.cache_table import CACHE_FILE
from genrec.retrieval.cache_units import WORK, Unit, Worker, unit_path


class CacheApart:
    """Where the files of one cache are; picklable.

    Args:
        place: of the cache, for all nodes.
        directory: of the cache on each node.
        fetch_inputs: brings to a node what the encoders read.
    """

    def __init__(self, place: Place, directory: Path, fetch_inputs: Callable[[], None]) -> None:
        self.place, self.directory, self.fetch_inputs = place, directory, fetch_inputs

    def around(self, worker: Worker) -> Worker:
        """The worker, its files fetched before each unit and sent after it."""
        return _Apart(worker, self)

    def bring(self, paths: Sequence[Path]) -> None:
        """Fetch those of these files that were sent and are not here."""
        absent = {self._name(path) for path in paths if not path.is_file()}
        for name in sorted(absent.intersection(self.place.names()) if absent else ()):
            self._fetch(name)

    def send(self, path: Path) -> None:
        """Let other nodes see a file."""
        self.place.send(path, self._name(path))

    def bring_finished(self) -> None:
        """Fetch the finished cache, if there is one and it is not here."""
        if (self.directory / CACHE_FILE).is_file() or not self.place.has(CACHE_FILE):
            return
        names = [name for name in self.place.names() if not name.startswith(f"{WORK}/")]
        for name in sorted(names, key=lambda name: name == CACHE_FILE):
            self._fetch(name)

    def send_finished(self) -> None:
        """Send what the driver itself made, ``cache.json`` last, and remove what only the work needed."""
        sent = set(self.place.names())
        if CACHE_FILE in sent:
            return
        paths = [path for path in self.directory.rglob("*") if path.is_file() and self._name(path) not in sent]
        for path in sorted(paths, key=lambda path: path.name == CACHE_FILE):
            self.send(path)
        self.place.delete(WORK)

    def _name(self, path: Path) -> str:
        return path.relative_to(self.directory).as_posix()

    def _fetch(self, name: str) -> None:
        """Whole or not at all, for workers of one node share the directory."""
        unfinished = self.directory.parent / f".{self.directory.name}.{uuid.uuid4().hex}"
        self.place.fetch(name, unfinished)
        path = self.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        os.replace(unfinished, path)


class _Apart:
    """See :meth:`CacheApart.around`."""

    def __init__(self, worker: Worker, cache: CacheApart) -> None:
        self.worker, self.cache, self.kind = worker, cache, worker.kind

    def reads(self, unit: Unit) -> list[Unit]:
        return self.worker.reads(unit)

    def __call__(self, unit: Unit) -> None:
        directory = self.cache.directory
        self.cache.bring([unit_path(directory, "text", read) for read in self.reads(unit)])
        self.worker(unit)
        self.cache.send(unit_path(directory, self.kind, unit))
