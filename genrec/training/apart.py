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
from pathlib import Path

from genrec.artifacts import ArtifactStore, read_manifest
from genrec.config import TrainingSettings
from genrec.errors import ArtifactError
from genrec.remote import Place
from genrec.training.attempts import WORKERS_FILE
from genrec.training.curves import METRICS_FILE
from genrec.training.loop import Reporter, checkpoints, mirror_of

logger = logging.getLogger(__name__)

COPIED = (METRICS_FILE, WORKERS_FILE, "mlflow_run.txt")
"""Small files of a run's directory; TensorBoard's stay on the node of rank 0."""


class Apart:
    """How the workers of one training get what they read; picklable.

    Args:
        store: at a URI.
        inputs: stage and key of each artifact that the task is built from.
    """

    def __init__(self, store: ArtifactStore, inputs: list[tuple[str, str]]) -> None:
        self.store, self.inputs = store, inputs

    def fetch_inputs(self) -> None:
        """Bring the artifacts to this node."""
        for stage, key in self.inputs:
            self.store.open(stage, key)

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
                if not _whole(store.root / name):
                    mirror.fetch(name, store.root)
                if _whole(store.root / name):
                    best = store.path(store.load(store.root / name)[0].best_step).name
                    if best in copied and not _whole(store.root / best):
                        mirror.fetch(best, store.root)
                    break
            place = Place(str(settings.upload))
            for name in COPIED:
                if place.has(f"{_name(work_dir)}/{name}"):
                    place.fetch(f"{_name(work_dir)}/{name}", work_dir / name)

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
                    Place(str(settings.upload)).send(work_dir / name, f"{_name(work_dir)}/{name}")
        except ArtifactError as error:
            logger.warning("curves could not be copied (%s); going on", error)


def _name(work_dir: Path) -> str:
    return f"{work_dir.parent.name}/{work_dir.name.lstrip('.').removesuffix('.scratch')}"


def _whole(checkpoint: Path) -> bool:
    try:
        read_manifest(checkpoint)
    except ArtifactError:
        return False
    return True
