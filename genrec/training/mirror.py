"""Copies of a run's checkpoints in another place, made while training goes on.

``training.upload`` names a folder or a URI of pyarrow's (``s3://``, ``gs://``, ``file://``). Each committed checkpoint
is held by hard links, so that training may drop it, and copied by a thread of its own; one that training has dropped
before its turn came is not copied. The manifest is copied last: without it nobody takes a copy for complete. A run
whose own folder holds no checkpoint goes on from the copies, every byte verified as always.

Ray Train's ``report(..., checkpoint_upload_mode=ASYNC)`` is not used: it uploads what is reported under
names of its own for this one run of workers, knows nothing of what was committed, and the single process has none.
"""

from __future__ import annotations

import logging
import os
import shutil
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

from pyarrow import ArrowException
from pyarrow.fs import FileSelector, FileSystem, FileType

from genrec.artifacts import MANIFEST
from genrec.errors import SettingsError

logger = logging.getLogger(__name__)

Kept = Callable[[], Iterable[str]]
"""Names of the checkpoints that the run keeps now."""


class Mirror:
    """The copies of one run's checkpoints.

    Args:
        where: folder or URI (``training.upload``).
        run: the run's name below it.

    Raises:
        SettingsError: ``where`` is no place that pyarrow knows.
    """

    def __init__(self, where: str, run: str) -> None:
        try:
            filesystem, root = FileSystem.from_uri(where if "://" in where else Path(where).absolute().as_uri())
        except (ArrowException, OSError) as error:
            raise SettingsError(
                f"training.upload: {where!r} is no folder or URI that can be opened ({error})"
            ) from error
        self.where = where
        self._files, self._root = filesystem, f"{root.rstrip('/')}/{run}"
        self._thread = ThreadPoolExecutor(1, "upload")
        self._jobs: list[Future[None]] = []
        self._taken = 0

    def take(self, checkpoint: Path, kept: Kept) -> None:
        """Hold a committed checkpoint and copy it when its turn comes; a copy that fails is a warning.

        Args:
            checkpoint: its directory.
            kept: what the run keeps by then; other copies are deleted.
        """
        self._taken += 1  # the last checkpoint of a run may be committed twice
        held = checkpoint.with_name(f".{checkpoint.name}.{self._taken}.upload")
        shutil.copytree(checkpoint, held, copy_function=os.link)
        self._jobs = [job for job in self._jobs if not job.done()]
        self._jobs.append(self._thread.submit(self._copy, held, checkpoint.name, kept))

    def wait(self) -> None:
        """Wait until everything is copied or given up."""
        for job in self._jobs:
            job.result()
        self._jobs = []

    def names(self) -> list[str]:
        """Copied checkpoints, complete by their manifest, the newest last."""
        found = self._files.get_file_info(FileSelector(self._root, allow_not_found=True, recursive=True))
        whole = [Path(info.path).parent.name for info in found if info.base_name == MANIFEST]
        return sorted(whole)

    def manifest(self, name: str) -> bytes:
        """The manifest of a copy, which holds the digests of its files."""
        with self._files.open_input_stream(f"{self._root}/{name}/{MANIFEST}") as source:
            return bytes(source.read())

    def fetch(self, name: str, into: Path) -> Path:
        """Bring a copy into the directory ``into``, to be verified there; returns its path."""
        final, work = into / name, into / f".{name}.partial"
        shutil.rmtree(work, ignore_errors=True)
        for info in self._files.get_file_info(FileSelector(f"{self._root}/{name}", recursive=True)):
            if info.type == FileType.File:
                path = work / Path(info.path).relative_to(f"{self._root}/{name}")
                path.parent.mkdir(parents=True, exist_ok=True)
                with self._files.open_input_stream(info.path) as source, path.open("wb") as target:
                    shutil.copyfileobj(source, target)
        shutil.rmtree(final, ignore_errors=True)
        os.rename(work, final)
        return final

    def _copy(self, held: Path, name: str, kept: Kept) -> None:
        try:
            wanted = set(kept())
            if name in wanted:
                self._send(held, name)
            for other in set(self.names()) - wanted:
                self._files.delete_dir(f"{self._root}/{other}")
        except OSError as error:
            logger.warning("training.upload: %s could not be copied to %s (%s); going on", name, self.where, error)
        finally:
            shutil.rmtree(held, ignore_errors=True)

    def _send(self, held: Path, name: str) -> None:
        target = f"{self._root}/{name}"
        if self._files.get_file_info(target).type != FileType.NotFound:  # of an earlier attempt
            self._files.delete_dir(target)
        files = [path for path in sorted(held.rglob("*")) if path.is_file() and path != held / MANIFEST]
        for path in [*files, held / MANIFEST]:
            place = f"{target}/{path.relative_to(held).as_posix()}"
            self._files.create_dir(place.rpartition("/")[0], recursive=True)
            with path.open("rb") as source, self._files.open_output_stream(place) as sink:
                shutil.copyfileobj(source, sink)


def run_name(work_dir: Path) -> str:
    """The run of a working directory, as its copies and its metrics name it: ``stage/key``."""
    return f"{work_dir.parent.name}/{work_dir.name.lstrip('.').removesuffix('.scratch')}"


def clear_held(root: Path) -> None:
    """Drop what an earlier attempt of the run still held for copying."""
    for path in root.glob(".*.upload"):
        shutil.rmtree(path, ignore_errors=True)
