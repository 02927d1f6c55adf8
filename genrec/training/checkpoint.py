"""Checkpoints: committed whole or not at all.

A checkpoint is a directory ``step-<N>/`` with the weights (safetensors), ``progress.json``, a ``resume/``
directory with the strategy's own state, and a manifest with the digest of every file, written last. It is
made in a hidden directory and appears by one rename. A reader verifies every byte and falls back to the
last one that is complete. The last two are kept, and the best one that each of these names.

Randomness needs no state here: order of data, dropout and sampling of a step are pure functions of
(seed, step, rank).
"""

from __future__ import annotations

import json
import logging
import os
import shutil
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from genrec.artifacts import Manifest, fsync, read_manifest, write_manifest
from genrec.errors import ArtifactError, VersionMismatchError
from genrec.training.mirror import Mirror
from genrec.training.strategies import Strategy

logger = logging.getLogger(__name__)

WEIGHTS_FILE = "weights.safetensors"
PROGRESS_FILE = "progress.json"
STAGE = "checkpoint"
KEPT = 2


@dataclass(frozen=True)
class Progress:
    """How far a run is.

    Attributes:
        step: optimizer steps done.
        epoch, step_in_epoch: where the next step's data comes from.
        best_metric, best_step: best validation so far (-1: none yet).
        bad_validations: validations since the best.
        seconds: wall time of training so far.
        stopped: why the run ended ("" while it goes on).
    """

    step: int = 0
    epoch: int = 0
    step_in_epoch: int = 0
    best_metric: float = -1.0
    best_step: int = -1
    bad_validations: int = 0
    seconds: float = 0.0
    stopped: str = ""


class CheckpointStore:
    """The checkpoints of one run, below one directory that all workers share."""

    def __init__(self, root: Path, sid_version: str | None = None) -> None:
        self.root = root
        self.sid_version = sid_version
        self.mirror: Mirror | None = None
        """Who copies committed checkpoints elsewhere; set on rank 0."""
        self._committer: ThreadPoolExecutor | None = None
        self._pending: Future[None] | None = None

    def path(self, step: int) -> Path:
        """Where the checkpoint after ``step`` steps is or would be."""
        return self.root / f"step-{step:08d}"

    def steps(self) -> list[int]:
        """Steps of the committed checkpoints, ascending; they may still prove damaged."""
        return sorted(int(path.name.removeprefix("step-")) for path in self.root.glob("step-*"))

    def save(self, progress: Progress, strategy: Strategy, *, background: bool = False) -> Path:
        """Write and commit a checkpoint; every rank calls it.

        Args:
            progress: how far the run is.
            strategy: gives weights and resume state.
            background: return once everything is written; a thread of rank 0 makes it durable, computes the
                digests and commits while training goes on. The next call, or :meth:`wait`, ends it.
        """
        self.wait()
        work, final = self.root / f".{self.path(progress.step).name}.partial", self.path(progress.step)
        if strategy.rank == 0:
            shutil.rmtree(work, ignore_errors=True)
            (work / "resume").mkdir(parents=True)
        strategy.barrier()
        strategy.save_resume_state(work / "resume")
        weights = strategy.export_weights()
        strategy.barrier()
        if strategy.rank == 0:
            save_file(weights, work / WEIGHTS_FILE, {"sid_version": self.sid_version or ""})
            if background:
                self._committer = self._committer or ThreadPoolExecutor(1, "checkpoint")
                self._pending = self._committer.submit(self._finish, work, final, progress)
            else:
                self._finish(work, final, progress)
        strategy.barrier()
        return final

    def wait(self, *, copies: bool = False) -> None:
        """Wait for a commit in the background, and for copies of all commits; raises what a commit raised."""
        pending, self._pending = self._pending, None
        try:
            if pending is not None:
                pending.result()
        finally:
            if copies and self.mirror is not None:
                self.mirror.wait()

    def _finish(self, work: Path, final: Path, progress: Progress) -> None:
        self._commit(work, final, progress)
        self._prune()
        if self.mirror is not None:
            self.mirror.take(final, lambda: [self.path(step).name for step in self.steps()])

    def _commit(self, work: Path, final: Path, progress: Progress) -> None:
        (work / PROGRESS_FILE).write_text(json.dumps(asdict(progress), indent=1) + "\n", encoding="utf-8")
        for path in sorted(work.rglob("*")):
            fsync(path)
        write_manifest(work, Manifest(stage=STAGE, key=final.name, sid_version=self.sid_version))
        fsync(work)
        if final.exists():  # a damaged one, or the same step with a newer verdict
            shutil.rmtree(final)
        os.rename(work, final)
        fsync(self.root)

    def _prune(self) -> None:
        kept: set[int] = set()
        for step in self.steps()[-KEPT:]:
            kept |= {step, _read_progress(self.path(step)).best_step}
        for step in self.steps():
            if step not in kept:
                shutil.rmtree(self.path(step))

    def latest(self) -> Path | None:
        """The newest checkpoint whose every byte is as written; damaged ones are passed over with a warning.

        Raises:
            VersionMismatchError: it was made with other semantic IDs.
        """
        for step in reversed(self.steps()):
            path = self.path(step)
            try:
                manifest = read_manifest(path)
            except ArtifactError as error:
                logger.warning("passing over a damaged checkpoint: %s", error)
                continue
            if manifest.sid_version != self.sid_version:
                raise VersionMismatchError(
                    f"{path} was made with semantic IDs {manifest.sid_version}, this run has {self.sid_version}. "
                    "Train in a new directory."
                )
            return path
        return None

    def recover(self) -> Path | None:
        """As :meth:`latest`; where there is none, the newest complete copy and the best one it names are brought here.

        Raises:
            ArtifactError: the copies cannot be read.
        """
        latest = self.latest()
        if latest is not None or self.mirror is None:
            return latest
        try:
            names = self.mirror.names()
            for name in reversed(names):
                self.mirror.fetch(name, self.root)
                latest = self.latest()
                if latest is not None:
                    best = self.path(_read_progress(latest).best_step).name
                    if best in names and best != name:
                        self.mirror.fetch(best, self.root)
                    logger.info("going on from the copy of %s in %s", name, self.mirror.where)
                    return latest
        except OSError as error:
            raise ArtifactError(
                f"training.upload: the copies in {self.mirror.where} cannot be read ({error})"
            ) from error
        return None

    def load(self, path: Path) -> tuple[Progress, dict[str, Tensor]]:
        """Progress and weights of a verified checkpoint."""
        return _read_progress(path), load_file(path / WEIGHTS_FILE)

    def weights(self, step: int) -> Path:
        """The weights file of the checkpoint after ``step`` steps."""
        return self.path(step) / WEIGHTS_FILE


def restore_weights(model: nn.Module, path: Path) -> None:
    """Load an exported weights file into a model, strictly.

    Raises:
        ArtifactError: the file is unreadable or does not fit the model.
    """
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path}: does not fit this model ({error}). Train again with these settings.") from error


def _read_progress(path: Path) -> Progress:
    return Progress(**json.loads((path / PROGRESS_FILE).read_text(encoding="utf-8")))
