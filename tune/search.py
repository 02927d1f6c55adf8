"""Which points are tried: a list, or Optuna's proposals; and ASHA, which stops what falls behind.

Both are fed from the sweep's records, so an interrupted sweep goes on as if it had never stopped, and neither is
ever saved by Tune: what Tune keeps of them is pickled and a few seconds old.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from types import SimpleNamespace
from typing import Any, Protocol

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from ray.tune.schedulers import AsyncHyperBandScheduler, TrialScheduler
from ray.tune.search import Searcher

from genrec.errors import SettingsError
from tune.records import DONE, Record, Records
from tune.sweep import Point, Sweep, is_integer
from tune.trial import EPOCH, FINISHED

DIGITS = 4
"""Significant digits of a proposed value: more cannot matter, and fewer are easier to type."""
_ASKS = 200


class Source(Protocol):
    """Where points come from.

    Attributes:
        left: points not handed out yet.
    """

    left: int

    def next(self) -> Point | None:
        """The next point to try; None if there is none left."""

    def told(self, record: Record) -> None:
        """A trial of this source is done."""


class Listed:
    """Given points, those that are done left out."""

    def __init__(self, points: Iterable[Point], records: Records) -> None:
        known = records.trials
        self.waiting = [p for p in points if p.key not in known or known[p.key].state not in DONE]
        self.left = len(self.waiting)

    def next(self) -> Point | None:
        """The next point to try."""
        if not self.waiting:
            return None
        self.left -= 1
        return self.waiting.pop(0)

    def told(self, record: Record) -> None:
        """Nothing follows from a result."""


class Proposed:
    """Optuna's proposals (TPE), under the constraint where the objective has one.

    Args:
        sweep: its space and objective.
        records: trials of earlier attempts, which the study learns from.
        required: the least value of ``objective.keep``; None: no constraint.
    """

    def __init__(self, sweep: Sweep, records: Records, required: float | None) -> None:
        self.sweep, self.records, self.required = sweep, records, required
        self.seed = sweep.definition.seeds[0]
        self.distributions = distributions(sweep)
        self.maximise = sweep.definition.objective.maximise
        tried = [record for record in records.of("search") if record.seed == self.seed]
        self.waiting = [record for record in tried if record.state not in DONE]
        self.left = max(sweep.definition.trials - len(tried), 0)
        self.asked: dict[str, optuna.Trial] = {}
        self.study = self._study(len(tried))
        for record in records.of("control", "defaults", "search"):
            if record.state in DONE and record.seed == self.seed:
                self._learn(record)

    def next(self) -> Point | None:
        """A point that was begun and not ended, else a new one."""
        if self.waiting:
            record = self.waiting.pop(0)
            self.asked[record.key] = self._ask_for(record.params)
            return self.sweep.point("search", record.params, self.seed)
        while self.left > 0:
            self.left -= 1
            point = self._propose()
            if point is not None:
                return point
        return None

    def told(self, record: Record) -> None:
        """Let the study learn from a trial."""
        trial = self.asked.pop(record.key, None)
        if trial is not None:
            self._tell(trial, record)

    def _study(self, begun: int) -> optuna.Study:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            sampler = optuna.samplers.TPESampler(
                n_startup_trials=max(4, self.sweep.definition.trials // 3),
                multivariate=True,
                constant_liar=True,  # trials run side by side
                seed=1000 * self.seed + begun,  # an interrupted search must not repeat its first proposals
            )
        optuna.logging.set_verbosity(optuna.logging.WARNING)
        return optuna.create_study(directions=["maximize"] * len(self.maximise), sampler=sampler)

    def _propose(self) -> Point | None:
        for _ in range(_ASKS):
            trial = self.study.ask(self.distributions)
            params = {key: rounded(value, self.distributions[key]) for key, value in trial.params.items()}
            try:
                point = self.sweep.point("search", params, self.seed)
            except SettingsError:  # values that do not go together, each of them sound
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            known = self.records.trials.get(point.key)
            if known is not None and known.state in DONE:
                self._tell(trial, known)
                continue
            if point.key in self.asked:
                self.study.tell(trial, state=TrialState.FAIL)
                continue
            self.asked[point.key] = trial
            return point
        self.left = 0
        return None  # a small space of whole values, all tried

    def _ask_for(self, params: Mapping[str, Any]) -> optuna.Trial:
        self.study.enqueue_trial(dict(params))
        return self.study.ask(self.distributions)

    def _learn(self, record: Record) -> None:
        leaves = self.sweep.leaves
        params = {key: record.params.get(key, leaves[key]) for key in self.distributions}
        others = set(record.params) - set(params)
        if others or not all(_within(params[key], self.distributions[key]) for key in params):
            return  # the control, where the space does not hold it
        self._tell(self._ask_for(params), record)

    def _tell(self, trial: optuna.Trial, record: Record) -> None:
        last = record.last
        if record.state == "failed" or any(name not in last for name in self.maximise):
            self.study.tell(trial, state=TrialState.FAIL)
            return
        if self.required is not None:
            keep = self.sweep.definition.objective.keep
            # At most 0 where the constraint holds.
            trial.set_constraint(str(keep), self.required - last.get(str(keep), 0.0))
        if record.state == "stopped" and len(self.maximise) == 1:
            for row in record.history:
                if self.maximise[0] in row:
                    trial.report(row[self.maximise[0]], int(row[EPOCH]))
            self.study.tell(trial, state=TrialState.PRUNED)
            return
        # Optuna knows no stopped trials of several objectives: what was reached until then stands for it.
        self.study.tell(trial, [last[name] for name in self.maximise])


class TuneSearcher(Searcher):
    """Hands a source's points to Tune.

    Args:
        source: where they come from.
        begin: makes a point's record and tells what the trial is given.
    """

    def __init__(self, source: Source, begin: Callable[[Point], dict[str, Any]]) -> None:
        super().__init__(metric=EPOCH, mode="max")
        self.source, self.begin = source, begin

    def suggest(self, trial_id: str) -> Any:
        """The next trial's configuration."""
        point = self.source.next()
        return Searcher.FINISHED if point is None else self.begin(point)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """The records tell the source."""

    def save(self, checkpoint_path: str) -> None:
        """Nothing: the records hold everything."""

    def restore(self, checkpoint_path: str) -> None:
        """Nothing."""

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())


class Asha(AsyncHyperBandScheduler):
    """ASHA that knows what it stopped, lets a trial in its last epoch finish, and learns from earlier trials.

    Args:
        metric: higher is better.
        epochs: most epochs of a trial.
        grace, reduction: of the settings.
    """

    def __init__(self, metric: str, epochs: int, grace: int, reduction: float) -> None:
        self.epochs, self.stopped = epochs, set[str]()
        super().__init__(
            time_attr=EPOCH,
            metric=metric,
            mode="max",
            max_t=max(epochs, grace) + 1,
            grace_period=grace,
            reduction_factor=reduction,
        )

    def learn(self, record: Record) -> None:
        """Let an earlier trial set the bar."""
        stub: Any = SimpleNamespace(trial_id=record.key)
        nobody: Any = None
        self.on_trial_add(nobody, stub)
        for row in record.history:
            if row[EPOCH] < self.epochs:
                super().on_trial_result(nobody, stub, row)

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """Stop, or go on."""
        if result.get(FINISHED) or result.get(EPOCH, 0) >= self.epochs:
            return str(TrialScheduler.CONTINUE)
        action = str(super().on_trial_result(tune_controller, trial, result))
        if action == TrialScheduler.STOP:
            self.stopped.add(trial.config["key"])
        return action

    def on_trial_complete(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> None:
        """Forget the trial; its rungs were filled as it went."""
        self._trial_info.pop(trial.trial_id, None)

    def __reduce__(self) -> tuple[type, tuple[()]]:
        return (object, ())


def distributions(sweep: Sweep) -> dict[str, BaseDistribution]:
    """Optuna's view of the space."""
    found: dict[str, BaseDistribution] = {}
    for key, parameter in sweep.definition.space.items():
        if parameter.values is not None:
            found[key] = CategoricalDistribution(parameter.values)
            continue
        low, high = parameter.low, parameter.high
        assert low is not None
        assert high is not None
        if is_integer(parameter, sweep.leaves[key]):
            found[key] = IntDistribution(int(low), int(high), log=parameter.log)
        else:
            found[key] = FloatDistribution(float(low), float(high), log=parameter.log)
    return found


def rounded(value: Any, distribution: BaseDistribution) -> Any:
    """A proposed value, short enough to type and still in its range."""
    if not isinstance(distribution, FloatDistribution):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), distribution.low), distribution.high)


def _within(value: Any, distribution: BaseDistribution) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return not isinstance(value, str | bool | None) and distribution._contains(distribution.to_internal_repr(value))
