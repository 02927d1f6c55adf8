"""Validation curves of two runs at matched optimizer steps.

Early stopping gives every arm as long as it likes; an arm that merely trained longer could win by that alone. So two
runs are also compared at the largest number of steps that both reached, by the validation metric that early
stopping itself watched.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

PREFIX = "validation/"


@dataclass(frozen=True)
class MatchedSteps:
    """Two runs at the same number of steps.

    Attributes:
        steps: the largest number of steps with a validation that both runs reached.
        value, reference: each run's metric at its last validation up to there.
        best, best_reference: each run's best up to there: what early stopping would have kept with that budget.
    """

    steps: int
    value: float
    reference: float
    best: float
    best_reference: float


def validation_curve(rows: Sequence[Mapping[str, Any]], metric: str) -> dict[int, float]:
    """Step -> validation metric, of the rows of a metrics.jsonl."""
    name = PREFIX + metric
    return {int(row["step"]): float(row[name]) for row in sorted(rows, key=lambda row: row["step"]) if name in row}


def joined(curves: Sequence[Mapping[int, float]]) -> dict[int, float]:
    """The curve of a run in several trainings, one after another: each counts on where the one before ended."""
    whole: dict[int, float] = {}
    for curve in curves:
        done = max(whole, default=0)
        whole |= {done + step: value for step, value in curve.items()}
    return whole


def matched_steps(curve: Mapping[int, float], reference: Mapping[int, float]) -> MatchedSteps | None:
    """Both curves at the largest step that both reached; None where that comes before a first validation."""
    if not curve or not reference:
        return None
    steps = min(max(curve), max(reference))
    ours, theirs = ([value for step, value in sorted(c.items()) if step <= steps] for c in (curve, reference))
    if not ours or not theirs:
        return None
    return MatchedSteps(steps, ours[-1], theirs[-1], max(ours), max(theirs))
