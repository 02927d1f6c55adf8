"""The one train loop: epochs, validation, keep-best, early stopping, checkpoints, resume, curves.

It knows neither model nor strategy nor Ray. A run is a directory; started again in the same directory it
goes on after its last complete checkpoint. On one process the result is the same bit for bit as without
the interruption, since everything random in a step follows from (seed, step, rank).
"""

from __future__ import annotations

import json
import logging
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from genrec.config import TrainingSettings
from genrec.errors import GenrecError
from genrec.training.checkpoint import CheckpointStore, Progress
from genrec.training.curves import Curves, read_curves
from genrec.training.holdings import told
from genrec.training.mirror import Mirror, clear_held, run_name
from genrec.training.optim import learning_rate
from genrec.training.strategies import Strategy
from genrec.training.task import KEY_METRIC, Task

logger = logging.getLogger(__name__)

CHECKPOINTS = "checkpoints"
MEMORY_FILE = "memory.json"
"""Bytes that each worker held after its first step (:class:`genrec.training.holdings.Holdings`)."""

Reporter = Callable[[dict[str, float]], None]
"""Called on every rank after each checkpoint with the metrics so far; Ray Train's ``report`` hides behind it."""


@dataclass(frozen=True)
class FitResult:
    """What a run came to.

    Attributes:
        best_metric: validation ``KEY_METRIC`` of the best weights.
        best_step, steps: when they were made, and how many steps were done.
        weights: safetensors file of the best weights (:func:`~genrec.training.checkpoint.restore_weights`).
        history: the rows of metrics.jsonl.
        seconds: wall time of training, earlier attempts of the same run included.
        stopped: "epochs", "patience", "max_steps" or "max_minutes".
    """

    best_metric: float
    best_step: int
    steps: int
    weights: Path
    history: list[dict[str, Any]]
    seconds: float
    stopped: str


def fit(
    task: Task,
    settings: TrainingSettings,
    seed: int,
    work_dir: Path,
    strategy: Strategy,
    *,
    reporter: Reporter | None = None,
) -> FitResult:
    """Train ``task`` in ``work_dir``, going on from its last complete checkpoint if there is one.

    Raises:
        GenrecError: the loss is no longer a number, or a checkpoint does not fit.
    """
    return _Run(task, settings, seed, work_dir, strategy, reporter).fit()


class _Run:
    def __init__(
        self,
        task: Task,
        settings: TrainingSettings,
        seed: int,
        work_dir: Path,
        strategy: Strategy,
        reporter: Reporter | None,
    ) -> None:
        self.task, self.settings, self.seed = task, settings, seed
        self.work_dir, self.strategy, self.reporter = work_dir, strategy, reporter
        self.steps_per_epoch = task.steps_per_epoch()
        planned = settings.epochs * self.steps_per_epoch
        self.total_steps = min(planned, settings.max_steps or planned)
        self.progress = Progress()
        self.validation: dict[str, float] = {}
        self.weighed = False
        work_dir.mkdir(parents=True, exist_ok=True)
        self.store = checkpoints(work_dir, task.sid_version)
        if strategy.rank == 0:
            self.store.mirror = mirror_of(work_dir, settings)

    def fit(self) -> FitResult:
        self.strategy.setup(self.task, self.settings)
        self._resume()
        first = self.strategy.rank == 0
        self.curves = Curves(self.work_dir, self.settings, self.task.name, self.progress.step, active=first)
        self.meter = _Meter()
        self.clock = time.monotonic() - self.progress.seconds
        try:
            with _bar(self.task.name, self.total_steps, self.progress.step, first) as advance:
                while not self.progress.stopped:
                    self._epoch(advance)
        finally:
            self.store.wait(copies=True)
            self.curves.close()
        return result_of(self.work_dir, self.progress)

    def _resume(self) -> None:
        latest = self.store.recover() if self.strategy.rank == 0 else None
        step = self.strategy.decide(-1 if latest is None else int(latest.name.removeprefix("step-")))
        if step < 0:
            return
        path = self.store.path(step)
        self.progress, weights = self.store.load(path)
        self.strategy.load_resume_state(path / "resume", weights)
        logger.info("%s: going on after step %d of %d", self.task.name, step, self.total_steps)

    def _epoch(self, advance: Callable[[int, str], None]) -> None:
        """Train to the end of the present epoch, or until the run stops."""
        begin = self.progress
        parts = self.task.batches(begin.epoch, self.strategy.rank, self.strategy.world, begin.step_in_epoch)
        for part in parts:
            self._step(part, advance)
            progress = self.progress
            ended = progress.step_in_epoch == self.steps_per_epoch
            stopped = self._stop_reason()
            if ended:
                self.progress = replace(progress, epoch=progress.epoch + 1, step_in_epoch=0)
            if ended or stopped:
                self._turn(stopped)
                return
            every = self.settings.checkpoint_steps
            if every is not None and progress.step % every == 0:
                self._checkpoint()

    def _step(self, part: Any, advance: Callable[[int, str], None]) -> None:
        step = self.progress.step
        torch.manual_seed(step_seed(self.seed, step, self.strategy.rank))
        rate = learning_rate(step, self.total_steps, self.settings)
        self.meter.add(self.strategy.train_step(part, step, rate))
        if not self.weighed:
            self._weigh()
        self.progress = replace(self.progress, step=step + 1, step_in_epoch=self.progress.step_in_epoch + 1)
        if (step + 1) % self.settings.log_every == 0 or step + 1 == self.total_steps:
            self._log(rate)
        advance(step + 1, f"loss {self.meter.last:.3f}")

    def _weigh(self) -> None:
        """Tell once what the workers hold, in the log and in memory.json."""
        self.weighed = True
        workers = self.strategy.holdings()
        if self.strategy.rank == 0:
            logger.info("%s: %s", self.task.name, told(workers))
            rows = [worker.as_dict() for worker in workers]
            (self.work_dir / MEMORY_FILE).write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")

    def _log(self, rate: float) -> None:
        """Write the mean losses since the last row; they are means over the workers too."""
        count, world = self.meter.count, self.strategy.world
        sums = self.strategy.sum(self.meter.take())
        values = {name: value / (count * world) for name, value in sums.items()}
        self.meter.last = values["loss"]
        if not math.isfinite(values["loss"]):
            raise GenrecError(
                f"{self.task.name}: the loss is {values['loss']} at step {self.progress.step}; "
                f"lower training.learning_rate ({self.settings.learning_rate}) or set training.clip_norm"
            )
        self.curves.write(
            self.progress.step, {**values, "learning_rate": rate}, epoch=self.progress.epoch, seconds=self._seconds()
        )

    def _stop_reason(self) -> str:
        """Why the run must stop now, besides patience; "" if it need not."""
        if self.progress.step >= self.total_steps:
            planned = self.settings.epochs * self.steps_per_epoch
            return "max_steps" if self.total_steps < planned else "epochs"
        minutes = self.settings.max_minutes
        if minutes is not None and self.strategy.decide(int(self._seconds() >= minutes * 60)):
            return "max_minutes"
        return ""

    def _turn(self, stopped: str) -> None:
        """At the end of an epoch or of the run: validate, judge, checkpoint."""
        epoch = self.progress.epoch
        improved = False
        if stopped or epoch % self.settings.validate_every == 0:
            improved = self._validate()
        patience = self.settings.patience
        if not stopped and patience is not None and self.progress.bad_validations >= patience:
            stopped = "patience"
        self.progress = replace(self.progress, stopped=stopped)
        if improved or stopped or epoch % self.settings.checkpoint_every == 0:
            self._checkpoint()

    def _validate(self) -> bool:
        with self.strategy.evaluating():
            sums = self.task.validate(self.strategy.device, self.strategy.rank, self.strategy.world)
        sums = self.strategy.sum({name: float(value) for name, value in sums.items()})
        counts = {name.removesuffix("users"): sums.pop(name) for name in list(sums) if name.endswith("users")}
        counted = {name: counts[name[: name.rfind("/") + 1]] for name in sums}
        # A segment without users has no mean; the whole has one always, for it chooses the weights.
        self.validation = {
            name: value / max(counted[name], 1) for name, value in sums.items() if counted[name] or "/" not in name
        }
        values = {f"validation/{name}": value for name, value in self.validation.items()}
        self.curves.write(self.progress.step, values, epoch=self.progress.epoch, seconds=self._seconds())
        metric = self.validation[KEY_METRIC]
        logger.info("%s: epoch %d, %s %.4f", self.task.name, self.progress.epoch, KEY_METRIC, metric)
        if metric > self.progress.best_metric:
            self.progress = replace(self.progress, best_metric=metric, best_step=self.progress.step, bad_validations=0)
            return True
        self.progress = replace(self.progress, bad_validations=self.progress.bad_validations + 1)
        return False

    def _checkpoint(self) -> None:
        if self.meter.count:  # rows must end where the checkpoint does, or a resumed curve would differ
            self._log(learning_rate(self.progress.step - 1, self.total_steps, self.settings))
        self.progress = replace(self.progress, seconds=self._seconds())
        self.store.save(self.progress, self.strategy, background=not self.progress.stopped)
        if self.reporter is not None:
            progress = self.progress
            told = {"epoch": progress.epoch, "step": progress.step, "best": progress.best_metric}
            self.reporter({**told, **self.validation})

    def _seconds(self) -> float:
        return round(time.monotonic() - self.clock, 3)


def result_of(work_dir: Path, progress: Progress) -> FitResult:
    """What the finished run in ``work_dir`` came to."""
    return FitResult(
        best_metric=progress.best_metric,
        best_step=progress.best_step,
        steps=progress.step,
        weights=checkpoints(work_dir).weights(progress.best_step),
        history=read_curves(work_dir),
        seconds=progress.seconds,
        stopped=progress.stopped,
    )


def checkpoints(work_dir: Path, sid_version: str | None = None) -> CheckpointStore:
    """The checkpoints of the run in ``work_dir``."""
    return CheckpointStore(work_dir / CHECKPOINTS, sid_version)


def mirror_of(work_dir: Path, settings: TrainingSettings) -> Mirror | None:
    """Who copies the run's checkpoints where ``training.upload`` says.

    Raises:
        SettingsError: that is no place.
    """
    if settings.upload is None:
        return None
    clear_held(work_dir / CHECKPOINTS)
    return Mirror(settings.upload, run_name(work_dir))


def step_seed(seed: int, step: int, rank: int) -> int:
    """Seed of everything random in one step on one worker."""
    return int(np.random.SeedSequence([seed, step, rank]).generate_state(1, np.uint64)[0] >> 1)


class _Meter:
    """Sums of a worker's losses since the last row; kept on the device, so that steps need not wait."""

    def __init__(self) -> None:
        self.sums: dict[str, Tensor] = {}
        self.count = 0
        self.last = math.nan

    def add(self, values: dict[str, Tensor]) -> None:
        for name, value in values.items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value.double()
        self.count += 1

    def take(self) -> dict[str, float]:
        sums = {name: float(value) for name, value in self.sums.items()}
        self.sums, self.count = {}, 0
        return sums


@contextmanager
def _bar(name: str, total: int, done: int, first: bool) -> Iterator[Callable[[int, str], None]]:
    """A progress bar on rank 0 when a terminal is attached."""
    if not (first and sys.stderr.isatty()):
        yield lambda step, text: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, TextColumn("{task.fields[text]}"), console=Console(stderr=True)) as progress:
        bar = progress.add_task(f"train {name}", total=total, completed=done, text="")
        yield lambda step, text: progress.update(bar, completed=step, text=text)
