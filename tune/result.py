"""What a sweep found: the best point under the constraint, the Pareto front, importances, curves, and how sure it is.

Points are groups of trials that differ in the seed alone. The search chooses by one seed, and the best of many is
flattered by the choice; so the best, the defaults and the control are trained with the other seeds too, and what
is said of them rests on those.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from optuna.trial import TrialState, create_trial

from genrec.artifacts import canonical_json
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.metrics import MetricRow, PairedDifference, evaluate_frames, paired_difference
from genrec.evaluation.rank import load_frame
from tune.records import Record, Records, write
from tune.search import distributions
from tune.sweep import Sweep

BEST = "best.json"
SEGMENTS = ("all", "head", "tail")


@dataclass
class Group:
    """One point with all its seeds.

    Attributes:
        params: swept settings key -> value.
        roles: of its trials.
        records: its trials, by seed.
    """

    params: dict[str, Any]
    roles: list[str] = field(default_factory=list)
    records: dict[int, Record] = field(default_factory=dict)

    def value(self, metric: str, seeds: Sequence[int] | None = None) -> float | None:
        """Mean over the finished seeds (of these); None without one."""
        found = [
            record.metrics[metric]
            for seed, record in self.records.items()
            if record.state == "finished" and metric in record.metrics and (seeds is None or seed in seeds)
        ]
        return float(np.mean(found)) if found else None


@dataclass(frozen=True)
class Verdict:
    """The best point against the defaults on seeds that did not choose it.

    Attributes:
        seeds: that it rests on; the choosing one only if there is no other.
        chosen_by_same_seed: True in that case: the difference is flattered by the choice.
        difference: paired over users and seeds; None where the best is the defaults or something is missing.
        chosen, again: the best point's value with the seed that chose it, and its mean with the others (None: none).
        noise: standard deviation over the seeds of the same settings, pooled over best, defaults and control.
    """

    seeds: list[int]
    chosen_by_same_seed: bool
    difference: PairedDifference | None
    chosen: float
    again: float | None
    noise: float | None


class Result:
    """A sweep's records, read as a result.

    Args:
        sweep: the definition.
        records: its trials.
    """

    def __init__(self, sweep: Sweep, records: Records) -> None:
        self.sweep, self.records = sweep, records
        self.objective = sweep.definition.objective
        self.metric = self.objective.maximise[0]
        self.groups = _groups(records)
        definition = sweep.definition
        self.seeds = list(definition.seeds)
        # A grid has every point with every seed; a search has one that chooses.
        self.choosing = self.seeds if definition.search == "grid" else self.seeds[:1]
        self.control = self._reference("control")
        self.defaults = self._reference("defaults")

    @property
    def required(self) -> float | None:
        """The least value of ``objective.keep``, from the control; None without a constraint or a control."""
        keep = self.objective.keep
        value = self.control.value(keep, self.choosing) if keep is not None and self.control is not None else None
        return None if value is None else value * self.objective.keep_share

    def feasible(self, group: Group) -> bool:
        """Does the point keep what must be kept?"""
        keep, required = self.objective.keep, self.required
        value = group.value(keep, self.choosing) if keep is not None else None
        return required is None or (value is not None and value >= required)

    @property
    def best(self) -> Group | None:
        """The finished point of highest objective among the feasible; None if there is none."""
        found = [g for g in self.groups if g.value(self.metric, self.choosing) is not None and self.feasible(g)]
        return max(found, key=lambda group: group.value(self.metric, self.choosing) or 0.0, default=None)

    def front(self, metrics: Sequence[str]) -> list[Group]:
        """Finished points that no other beats in one of the metrics without losing in another."""
        points = [g for g in self.groups if all(g.value(m, self.choosing) is not None for m in metrics)]
        table = np.array([[g.value(m, self.choosing) for m in metrics] for g in points], dtype=np.float64)
        return [point for point, member in zip(points, pareto(table), strict=True) if member]

    @property
    def axes(self) -> tuple[str, str]:
        """The two metrics of the Pareto plot."""
        wanted = [*self.objective.maximise, self.objective.keep or "", "head/ndcg@10", "tail/ndcg@10"]
        first, second = list(dict.fromkeys(name for name in wanted if name))[:2]
        return first, second

    def counts(self) -> dict[str, int]:
        """Trials by state."""
        states = [record.state for record in self.records.trials.values()]
        return {state: states.count(state) for state in ("finished", "stopped", "failed", "running", "waiting")}

    def spared_epochs(self) -> tuple[int, int]:
        """Epochs that early stopping spared, and those that all trials would have had."""
        rows = [r for r in self.records.trials.values() if r.state in ("finished", "stopped") and r.history]
        spared = sum(self.sweep.epochs - int(r.history[-1]["epoch"]) for r in rows if r.state == "stopped")
        return spared, self.sweep.epochs * len(rows)

    def importance(self) -> dict[str, float]:
        """Share of the objective's variance that each key explains (fANOVA); empty where too little is known."""
        space = distributions(self.sweep)
        study = optuna.create_study(direction="maximize")
        for group in self.groups:
            record = group.records.get(self.seeds[0])
            if record is None or self.metric not in record.last or record.state == "failed":
                continue
            params = {key: group.params.get(key) for key in space}
            if all(_fits(value, space[key]) for key, value in params.items()):
                study.add_trial(
                    create_trial(
                        state=TrialState.COMPLETE, params=params, distributions=space, value=record.last[self.metric]
                    )
                )
        return importances(study)

    def rows(self, group: Group) -> list[MetricRow]:
        """The point's metrics with bootstrap intervals over users and seeds."""
        frames = self.frames(group, self.seeds)
        return evaluate_frames(frames, self.sweep.name, self.sweep.base.evaluation) if frames else []

    def frames(self, group: Group, seeds: Sequence[int]) -> list[EvalFrame]:
        """Ranked lists of the finished trials with these seeds."""
        found = [group.records[seed] for seed in seeds if seed in group.records]
        paths = [self.records.frame(record.key) for record in found if record.state == "finished"]
        return [load_frame(path) for path in paths if path.is_file()]

    def difference(self, group: Group, other: Group, metric: str, seeds: Sequence[int]) -> PairedDifference | None:
        """Paired difference on the seeds that both finished; None without any."""
        common = [s for s in seeds if all(s in g.records and g.records[s].state == "finished" for g in (group, other))]
        ours, theirs = self.frames(group, common), self.frames(other, common)
        segment, slash, name = metric.rpartition("/")
        if not ours or len(ours) != len(theirs):
            return None
        return paired_difference(ours, theirs, name, segment if slash else "all", self.sweep.base.evaluation)

    def verdict(self) -> Verdict | None:
        """How the best stands against the defaults; None without a best."""
        best = self.best
        if best is None:
            return None
        others = [seed for seed in self.seeds if seed not in self.choosing]
        fresh = [seed for seed in others if seed in best.records and best.records[seed].state == "finished"]
        seeds = fresh or list(self.choosing)
        difference = None
        if self.defaults is not None and self.defaults is not best:
            difference = self.difference(best, self.defaults, self.metric, seeds)
        chosen = best.value(self.metric, self.choosing)
        assert chosen is not None
        again = best.value(self.metric, fresh) if fresh else None
        return Verdict(seeds, not fresh, difference, chosen, again, self._noise())

    def set_line(self, group: Group) -> str:
        """The point as options for the command line."""
        return " ".join(f"--set {shlex.quote(f'{key}={_plain(value)}')}" for key, value in group.params.items())

    def save_best(self) -> Path | None:
        """Write what ``genrec run --from-sweep`` reads; None without a best."""
        best, verdict = self.best, self.verdict()
        if best is None or verdict is None:
            return None
        definition = self.sweep.definition
        difference = asdict(verdict.difference) if verdict.difference else None
        path = self.records.directory / BEST
        write(
            path,
            {
                "schema": 1,
                "sweep": self.sweep.name,
                "preset": definition.preset,
                "overrides": definition.overrides,
                "given": list(self.sweep.overrides),
                "best": best.params,
                "set": self.set_line(best),
                "metric": self.metric,
                "value": verdict.chosen,
                "seeds": list(self.choosing),
                "against_defaults": difference,
            },
        )
        return path

    def _reference(self, role: str) -> Group | None:
        return next((group for group in self.groups if role in group.roles), None)

    def _noise(self) -> float | None:
        groups = [group for group in (self.best, self.defaults, self.control) if group is not None]
        spread, free = 0.0, 0
        for group in {id(group): group for group in groups}.values():
            values = [r.metrics[self.metric] for r in group.records.values() if self.metric in r.metrics]
            if len(values) > 1:
                spread += float(np.var(values)) * len(values)
                free += len(values) - 1
        return float(np.sqrt(spread / free)) if free else None


def pareto(table: np.ndarray[Any, np.dtype[np.float64]]) -> list[bool]:
    """Which rows no other row dominates (at least as good everywhere, better somewhere); higher is better."""
    return [not any(bool((other >= row).all() and (other > row).any()) for other in table) for row in table]


def importances(study: optuna.Study) -> dict[str, float]:
    """Optuna's fANOVA; empty for fewer than three trials or where nothing differs."""
    trials = [trial for trial in study.trials if trial.state == TrialState.COMPLETE]
    if len(trials) < 3 or len({trial.value for trial in trials}) == 1:
        return {}
    evaluator = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return optuna.importance.get_param_importances(study, evaluator=evaluator)


def _groups(records: Records) -> list[Group]:
    """By params: a point tried for several ends, or with several seeds, is one group."""
    found: dict[bytes, Group] = {}
    for record in records.trials.values():
        group = found.setdefault(canonical_json(record.params), Group(record.params))
        group.records[record.seed] = record
        group.roles = list(dict.fromkeys([*group.roles, *record.roles]))
    return list(found.values())


def _fits(value: Any, distribution: optuna.distributions.BaseDistribution) -> bool:
    if isinstance(distribution, optuna.distributions.CategoricalDistribution):
        return value in distribution.choices
    return isinstance(value, int | float) and bool(distribution._contains(distribution.to_internal_repr(value)))


def _plain(value: Any) -> str:
    return canonical_json(value).decode().strip() if not isinstance(value, str) else value


def table_value(values: Mapping[str, float], metric: str) -> str:
    """Four digits, or a dash."""
    return f"{values[metric]:.4f}" if metric in values else "—"
