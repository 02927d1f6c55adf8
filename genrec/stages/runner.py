"""Bringing stages up to date: what is finished is verified and skipped, what is missing is made.

An altered artifact is refused, never silently made again: something outside genrec changed it, and its
owner should know before hours of training are spent. The error says what to delete.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, Protocol

from genrec.artifacts import Manifest, local_root, store_at
from genrec.config import Settings
from genrec.errors import ArtifactError, SettingsError
from genrec.stages.declared import STAGES
from genrec.stages.folder import RESERVED, RunFolder
from genrec.stages.ray_session import connect
from genrec.stages.stage import Context, Plan, Stage, Watch, plan

logger = logging.getLogger(__name__)

State = Literal["up to date", "made", "resumed"]


class Reporter(Protocol):
    """Who is told how the stages go on."""

    def begin(self, stage: Stage, *, resumed: bool) -> None:
        """A stage starts working."""

    def end(self, stage: Stage, key: str, state: State, seconds: float) -> None:
        """A stage's artifact is there."""

    def stop(self) -> None:
        """Nothing works any more, for whatever reason."""


class Silent:
    """Tells nobody."""

    def begin(self, stage: Stage, *, resumed: bool) -> None:
        """Say nothing."""

    def end(self, stage: Stage, key: str, state: State, seconds: float) -> None:
        """Say nothing."""

    def stop(self) -> None:
        """Say nothing."""


class Pipeline:
    """All stages of one run.

    Args:
        settings: the resolved tree.
        stages: by name, in order.
        reporter: who is told.
        watch: who hears how trainings go on.
        keep_folder: False leaves no run folder, only artifacts (a sweep's trials).

    Raises:
        SettingsError: the run has the name of a folder that genrec uses itself.
        DataError: the raw files cannot be found.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        stages: Mapping[str, Stage] = STAGES,
        reporter: Reporter | None = None,
        watch: Watch | None = None,
        keep_folder: bool = True,
    ) -> None:
        if settings.run.name in RESERVED:
            raise SettingsError(f"run.name: {settings.run.name!r} is a folder that genrec uses itself; take another")
        self.settings = settings
        self.reporter, self.watch, self.keep_folder = reporter or Silent(), watch or Watch(), keep_folder
        self.directory = local_root(settings.run.directory, settings.run.mirror)
        self.store = store_at(settings.run.directory, settings.run.mirror)
        self.plans = plan(stages, settings)
        self.folder = RunFolder(settings, self.store, self.plans)
        self._opened: dict[str, tuple[Path, Manifest]] = {}

    def status(self) -> dict[str, bool]:
        """Stage -> True if its artifact is finished; nothing is verified or run."""
        return {name: self.store.has(name, item.key) for name, item in self.plans.items()}

    def ensure(self, name: str) -> Path:
        """Bring a stage up to date, and before it whatever it needs; returns its artifact.

        The inputs of a finished artifact are not looked at.

        Raises:
            ArtifactError: a finished artifact was altered.
            GenrecError: what the stage itself finds wrong with settings or files.
        """
        if name not in self._opened:
            item = self.plans[name]
            if not self.store.has(name, item.key):
                for source in item.stage.inputs:
                    self.ensure(source)
            with self.store.locked(name, item.key):
                began = time.monotonic()
                # Asked again under the lock: another process may have made it while we waited.
                try:
                    state: State = "up to date" if self.store.has(name, item.key) else self._make(item)
                finally:
                    self.reporter.stop()
                self._opened[name] = self.store.open(name, item.key)
                self.store.tidy(name, item.key)
            self.reporter.end(item.stage, item.key, state, time.monotonic() - began)
            if self.keep_folder:
                self.folder.update()
        return self._opened[name][0]

    def manifest(self, name: str) -> Manifest:
        """Manifest of a stage that :meth:`ensure` was called for."""
        return self._opened[name][1]

    def _make(self, item: Plan) -> State:
        stage = item.stage
        for source in stage.inputs:  # finished by another process in the meantime, or deleted
            self._opened.setdefault(source, self.store.open(source, self.plans[source].key))
        scratch = self.store.scratch_path(stage.name, item.key)
        resumed = stage.resumable and scratch.exists()
        self.reporter.begin(stage, resumed=resumed)
        logger.info("%s %s: %s", stage.name, item.key, "resumed" if resumed else "begun")
        if stage.spread and self.settings.training.strategy != "single":
            connect(self.settings.ray)
        out = self.store.begin(stage.name, item.key)
        if stage.resumable:
            scratch.mkdir(exist_ok=True)
        began = time.monotonic()
        outcome = stage.make(
            Context(
                settings=self._where_it_runs(),
                out=out,
                scratch=scratch,
                inputs={source: self._opened[source][0] for source in stage.inputs},
                manifests={source: self._opened[source][1] for source in stage.inputs},
                cache=self.directory / "cache",
                watch=self.watch,
                store=self.store,
            )
        )
        manifest = Manifest(
            stage=stage.name,
            key=item.key,
            inputs=item.inputs,
            settings=item.settings,
            metrics={**outcome.metrics, "seconds": round(time.monotonic() - began, 3)},
            sid_version=outcome.sid_version,
        )
        self.store.commit(manifest)
        return "resumed" if resumed else "made"

    def _where_it_runs(self) -> Settings:
        """The settings; with storage by URI, checkpoints are copied there, for another machine may have to go on."""
        if self.store.uploads is None or self.settings.training.upload is not None:
            return self.settings
        training = self.settings.training.model_copy(update={"upload": self.store.uploads})
        return self.settings.model_copy(update={"training": training})


def open_stage(directory: str | Path, name: str, stage: str, mirror: str | None = None) -> Path:
    """The verified artifact of a stage of an earlier run, by the run's name.

    Args:
        directory: of the runs, or their URI.
        name: of the run.
        stage: wanted.
        mirror: ``run.mirror``.

    Raises:
        ArtifactError: no such run, or its stage is not finished.
    """
    store = store_at(directory, mirror)
    keys = RunFolder.read_keys(store, name)
    if stage not in keys:
        raise ArtifactError(
            f"{store.where(store.root.parent / name)}: {stage} is not finished in that run. Run it: "
            f"python -m genrec {stage}"
        )
    return store.open(stage, keys[stage])[0]
