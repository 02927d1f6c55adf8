"""Training on nodes that share no file system: what a worker's node fetches first, and what comes back at the end.

With storage by URI every node has a mirror of its own (genrec.remote) at the same path. Before the loop starts each
node takes the checkpoints that were copied (``training.upload``) for the only ones there are: a newer one that only one
node has is dropped, since the others could not go on from it. So a lost node costs the steps since the last finished
copy. Curves are copied beside the checkpoints and brought to the node that works on.
"""

from __future__ import annotations

import fcntl
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from genrec.artifacts import MANIFEST, ArtifactStore, read_manifest
from genrec.config import TrainingSettings
from genrec.errors import ArtifactError
from genrec.remote import Place
from genrec.retrieval.cache_apart import CacheApart
from genrec.training.attempts import WORKERS_FILE
from genrec.training.curves import METRICS_FILE
from genrec.training.loop import Reporter, checkpoints, mirror_of
from genrec.training.mirror import Mirror, run_name

logger = logging.getLogger(__name__)

COPIED = (METRICS_FILE, WORKERS_FILE, "mlflow_run.txt")
"""Small files of a run's directory; TensorBoard's stay on the node of rank 0."""


class Apart:
    """How the workers of one training get what they read; picklable.

    Args:
        store: at a URI.
        inputs: stage and key of each artifact that the task is built from.
        cache: the retrieval cache that the task reads; None: it reads none.
    """

    def __init__(
        self, store: ArtifactStore, inputs: Sequence[tuple[str, str]], cache: CacheApart | None = None
    ) -> None:
        self.store, self.inputs, self.cache = store, inputs, cache

    def fetch_inputs(self) -> None:
        """Bring the artifacts, and the cache, to this node."""
        for stage, key in self.inputs:
            self.store.open(stage, key)
        if self.cache is not None:
            self.cache.bring_finished()

    def fetch_state(self, work_dir: Path, settings: TrainingSettings) -> None:
        """Make this node's checkpoints those that were copied: the newest whole one, and the best that it names."""
        mirror, store = mirror_of(work_dir, settings), checkpoints(work_dir)
        assert mirror is not None, "storage by URI has training.upload"
        store.root.mkdir(parents=True, exist_ok=True)
        with (work_dir / ".fetch.lock").open("w") as stream:
            fcntl.flock(stream, fcntl.LOCK_EX)  # workers of one node share the folder
            copied = mirror.names()
            for step in store.steps():
                if store.path(step).name not in copied:
                    shutil.rmtree(store.path(step))
            for name in reversed(copied):
                if _bring(mirror, name, store.root):
                    best = store.path(store.load(store.root / name)[0].best_step).name
                    if best in copied:
                        _bring(mirror, best, store.root)
                    break
            place = Place(str(settings.upload))
            for name in COPIED:
                if place.has(f"{run_name(work_dir)}/{name}"):
                    place.fetch(f"{run_name(work_dir)}/{name}", work_dir / name)

    def reporting(self, work_dir: Path, settings: TrainingSettings, report: Reporter, rank: int) -> Reporter:
        """The reporter that copies the curves of rank 0, too."""
        if rank:
            return report

        def send(metrics: dict[str, float]) -> None:
            self.send_curves(work_dir, settings)
            report(metrics)

        return send

    def send_curves(self, work_dir: Path, settings: TrainingSettings) -> None:
        """Copy the curves so far, and who trained."""
        try:
            for name in COPIED:
                if (work_dir / name).is_file():
                    Place(str(settings.upload)).send(work_dir / name, f"{run_name(work_dir)}/{name}")
        except ArtifactError as error:
            logger.warning("curves could not be copied (%s); going on", error)


def _bring(mirror: Mirror, name: str, root: Path) -> bool:
    """Make a local checkpoint the copy, byte for byte; a node that was away may hold another of the same step."""
    if not _same(mirror, name, root):
        mirror.fetch(name, root)
    return _same(mirror, name, root)


def _same(mirror: Mirror, name: str, root: Path) -> bool:
    try:
        read_manifest(root / name)
    except ArtifactError:
        return False
    return (root / name / MANIFEST).read_bytes() == mirror.manifest(name)
