"""Running a sweep: shared stages once, the control and the defaults, the search, then the confirmation of the best.

Tune starts, retries and stops the trials; what is known of them is in the records (docs/decisions/ has why). So a
sweep that was killed at any point is run again by the same command: what is finished is not touched, what was
running goes on after its last checkpoint.
"""

from __future__ import annotations

import fcntl
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ray import tune
from ray.tune.execution.placement_groups import PlacementGroupFactory
from ray.util.metrics import Gauge

from genrec.artifacts import ArtifactStore
from genrec.errors import GenrecError
from genrec.stages import STAGES, Pipeline, Reporter, plan
from genrec.stages.ray_session import connect
from genrec.training.ray_train import require_resources, room_for, worker_resources
from tune.logs import Log, MlflowLog, TensorBoardLog
from tune.records import Record, Records
from tune.result import Result
from tune.search import Asha, Listed, Proposed, Source, TuneSearcher
from tune.sweep import Point, Sweep
from tune.trial import EPOCH, FINISHED, HISTORY, run_trial

logger = logging.getLogger(__name__)

Told = Callable[[Record, Mapping[str, Record]], None]
"""Called with a trial that changed, and all of them."""


class SweepError(GenrecError):
    """A sweep cannot go on; the text says why."""


def run_sweep(sweep: Sweep, *, told: Told | None = None, reporter: Reporter | None = None) -> Result:
    """Run a sweep to its end, or go on with it.

    Args:
        sweep: what to run.
        told: who watches the trials.
        reporter: who watches the shared stages.

    Raises:
        SettingsError: something asked for is not there; nothing was started.
        SweepError: another process runs this sweep, or the control failed.
        KeyboardInterrupt: Tune was interrupted; run again to go on.
    """
    with _held(sweep.directory):
        records = Records(sweep.directory, sweep.identity())
        logs = _logs(sweep, records)
        try:
            connect(sweep.base.ray)
            require_resources(sweep.base.training)
            _make_shared(sweep, reporter)
            driver = _Driver(sweep, records, logs, told)
            return driver.run()
        finally:
            for log in logs:
                log.close()


class _Driver:
    def __init__(self, sweep: Sweep, records: Records, logs: list[Log], told: Told | None) -> None:
        self.sweep, self.records, self.logs, self.told = sweep, records, logs, told
        self.began = time.monotonic()

    def run(self) -> Result:
        definition, seeds = self.sweep.definition, self.sweep.definition.seeds
        if definition.search == "grid":
            points = self.sweep.grid()
            self._phase("grid", Listed(self._noted([*points, *self.sweep.references(seeds)]), self.records))
        else:
            first = self.sweep.references(seeds[:1])
            self._phase("references", Listed(self._noted(first), self.records))
            required = Result(self.sweep, self.records).required
            if definition.objective.keep is not None and required is None:
                raise SweepError(
                    f"sweep {self.sweep.name}: the control failed, so nothing says what {definition.objective.keep} "
                    f"must reach: {self.records.trials[first[0].key].error}"
                )
            self._phase("search", Proposed(self.sweep, self.records, required), self._asha())
            self._confirm(seeds[1:])
        result = Result(self.sweep, self.records)
        result.save_best()
        self._tidy()
        return result

    def _confirm(self, seeds: tuple[int, ...]) -> None:
        """The best point, the defaults and the control with the seeds that did not choose."""
        best = Result(self.sweep, self.records).best
        if best is None or not seeds:
            return
        points = [self.sweep.point("confirm", best.params, seed) for seed in seeds]
        self._phase("confirm", Listed(self._noted([*self.sweep.references(seeds), *points]), self.records))

    def _noted(self, points: list[Point]) -> list[Point]:
        """Each trial once; a record knows all that its trial is for."""
        for point in points:
            self.records.begin(point.key, point.params, point.seed, point.role)
        return list({point.key: point for point in reversed(points)}.values())[::-1]

    def _asha(self) -> Asha | None:
        stopping = self.sweep.definition.stopping
        if stopping is None:
            return None
        metric = self.sweep.definition.objective.maximise[0]
        asha = Asha(metric, self.sweep.epochs, stopping.grace_epochs, stopping.reduction)
        for record in self.records.trials.values():
            if record.state in ("finished", "stopped") and record.seed == self.sweep.definition.seeds[0]:
                asha.learn(record)
        return asha

    def _phase(self, name: str, source: Source, asha: Asha | None = None) -> None:
        """Try all points of a source."""
        if isinstance(source, Listed) and not source.waiting:
            return
        definition = self.sweep.definition
        budget = None
        if definition.max_minutes is not None:
            budget = max(60 * definition.max_minutes - (time.monotonic() - self.began), 1.0)
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # the records are the log
        os.environ["TUNE_DISABLE_STRICT_METRIC_CHECKING"] = "1"  # a segment without users has no metric
        os.environ["RAY_CHDIR_TO_TRIAL_DIR"] = "0"
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # what Tune prints whatever its verbosity
        logging.getLogger("ray.tune").setLevel(logging.ERROR)
        watcher = _Watcher(self.records, self.logs, source, asha, self.told)
        tuner = tune.Tuner(
            tune.with_resources(run_trial, trial_resources(self.sweep)),
            tune_config=tune.TuneConfig(
                search_alg=TuneSearcher(source, self._begin),
                scheduler=asha,
                num_samples=-1,
                max_concurrent_trials=concurrency(self.sweep),
                time_budget_s=budget,
                trial_dirname_creator=lambda trial: str(trial.config["key"]),
            ),
            run_config=tune.RunConfig(
                name=f"{name}-{os.getpid()}",
                storage_path=str((self.sweep.directory / "ray").resolve()),
                failure_config=tune.FailureConfig(max_failures=definition.retries),
                callbacks=[watcher],
                verbose=0,
            ),
        )
        tuner.fit()
        self._discard_stopped()
        left = source.left + sum(record.state == "running" for record in self.records.trials.values())
        minutes = definition.max_minutes
        if left and minutes is not None and time.monotonic() - self.began >= 60 * minutes:
            raise SweepError(
                f"sweep {self.sweep.name}: {minutes:g} minutes (max_minutes) are over and {left} trials not done; "
                "run the same command to go on"
            )
        if left:
            raise KeyboardInterrupt

    def _begin(self, point: Point) -> dict[str, Any]:
        """What Tune gives a trial."""
        record = self.records.begin(point.key, point.params, point.seed, point.role)
        return {
            "key": record.key,
            "settings": point.settings.model_dump_json(),
            "stage": self.sweep.definition.stage,
            "frame": str(self.records.frame(record.key).resolve()),
            "directory": str(Path.cwd()),
        }

    def _discard_stopped(self) -> None:
        """Delete the checkpoints of stopped trials; nobody will go on with them."""
        store, stage = ArtifactStore(Path(self.sweep.base.run.directory) / "artifacts"), "pretrain"
        for record in self.records.trials.values():
            if record.state == "stopped":
                key = plan(STAGES, self.sweep.point("search", record.params, record.seed).settings)[stage].key
                if store.scratch_path(stage, key).exists():
                    with store.locked(stage, key):  # its process is ended by now, or about to be
                        store.tidy(stage, key)
                        shutil.rmtree(store.work_path(stage, key), ignore_errors=True)

    def _tidy(self) -> None:
        """What Tune wrote for itself; all of it is in the records."""
        shutil.rmtree(self.sweep.directory / "ray", ignore_errors=True)


class _Watcher(tune.Callback):
    """Keeps the records, the logs, the search and whoever watches up to date with Tune."""

    def __init__(self, records: Records, logs: list[Log], source: Source, asha: Asha | None, told: Told | None) -> None:
        self.records, self.logs, self.source, self.asha, self.told = records, logs, source, asha, told
        self._since: dict[str, float] = {}
        sweep = {"sweep": records.directory.name}
        self._states = Gauge("genrec_sweep_trials", "trials of a sweep by state", tag_keys=("sweep", "state"))
        self._best = Gauge("genrec_sweep_best", "best value so far of a metric", tag_keys=("sweep", "metric"))
        for gauge in (self._states, self._best):
            gauge.set_default_tags(sweep)

    def on_trial_start(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        record.state = "running"
        record.attempts += 1
        self._since[record.key] = time.monotonic() - record.seconds
        self._changed(record)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        record = self._record(trial)
        record.process = f"{result.get('node_ip', '')}:{result.get('pid', '')}"
        if result.get(FINISHED):
            record.history = result[HISTORY]
            record.metrics = _metrics(result)
        elif "ndcg@10" in result:
            record.told({EPOCH: result[EPOCH], "step": result["step"], **_metrics(result)})
        self._changed(record)

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        if record.metrics:
            record.state = "finished"
        elif self.asha is not None and record.key in self.asha.stopped:
            record.state = "stopped"
        else:  # the budget of time is over, or Tune was interrupted: it stays to be gone on with
            return
        self._changed(record)
        self.source.told(record)

    def on_trial_recover(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        record.error = _cause(trial)
        logger.warning("trial %d crashed and is started again: %s", record.order, record.error)
        self._changed(record)

    def on_trial_error(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        record = self._record(trial)
        record.state, record.error = "failed", _cause(trial)
        self._changed(record)
        self.source.told(record)

    def _record(self, trial: Any) -> Record:
        return self.records.trials[trial.config["key"]]

    def _changed(self, record: Record) -> None:
        if record.key in self._since:
            record.seconds = round(time.monotonic() - self._since[record.key], 1)
        for log in self.logs:  # before the record: a trial whose record says that it is done is not looked at again
            log.update(record)
        self.records.save(record)
        self._measure()
        if self.told is not None:
            self.told(record, self.records.trials)

    def _measure(self) -> None:
        """How the sweep is, for Prometheus."""
        trials = list(self.records.trials.values())
        for state in ("running", "finished", "stopped", "failed"):
            self._states.set(sum(trial.state == state for trial in trials), tags={"state": state})
        for metric in {name for trial in trials for name in trial.metrics}:
            values = [trial.metrics[metric] for trial in trials if metric in trial.metrics]
            self._best.set(max(values), tags={"metric": metric})

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (tune.Callback, ())


def trial_resources(sweep: Sweep) -> PlacementGroupFactory:
    """What Tune reserves for a trial: the process that trains, or next to nothing for a driver of Ray Train."""
    if sweep.base.training.strategy == "single":
        return PlacementGroupFactory([worker_resources(sweep.base.training)])
    return PlacementGroupFactory([{"memory": 1}])  # its workers have their own group


def concurrency(sweep: Sweep) -> int:
    """Trials at once: as many as the connected cluster holds, and no more than the settings allow."""
    training = sweep.base.training
    fits = max(room_for(worker_resources(training)) // training.workers, 1)
    return min(fits, sweep.definition.concurrency or fits)


def _make_shared(sweep: Sweep, reporter: Reporter | None) -> None:
    """The stages that no swept key touches, once for each seed."""
    for seed in sweep.definition.seeds:
        pipeline = Pipeline(sweep.point("defaults", {}, seed).settings, reporter=reporter, keep_folder=False)
        for name in sweep.shared:
            pipeline.ensure(name)


def _logs(sweep: Sweep, records: Records) -> list[Log]:
    logs: list[Log] = [TensorBoardLog(sweep.directory / "tensorboard")]
    if sweep.definition.mlflow:
        logs.append(MlflowLog(sweep.name, sweep.definition.mlflow_uri, records))
    return logs


def _metrics(result: Mapping[str, Any]) -> dict[str, float]:
    return {name: float(value) for name, value in result.items() if name.endswith("@10")}


def _cause(trial: Any) -> str:
    """The last line that says what a trial died of."""
    try:
        error: Any = trial.get_error()
    except (OSError, EOFError, ImportError, AttributeError):  # an exception of a class that is not here
        error = None
    lines = [line.strip() for line in str(error or "its process ended").splitlines() if line.strip()]
    return (lines[-1] if lines else type(error).__name__)[:500]


@contextmanager
def _held(directory: Path) -> Iterator[None]:
    """Only one driver at a time; the lock ends with the process, however it ends."""
    directory.mkdir(parents=True, exist_ok=True)
    with (directory / ".lock").open("w") as stream:
        try:
            fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            raise SweepError(f"{directory}: another process runs this sweep; wait for it or end it") from error
        yield
