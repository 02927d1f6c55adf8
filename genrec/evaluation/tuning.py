"""Honest tuning of the baselines without training: a small grid, judged on validation targets, never on test.

One setting after another (coordinate descent) in place of the full grid: 20 fits of seconds each for item-kNN, not 384;
four solutions for the linear model, a minute each on Beauty.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

from genrec.config import EvaluationSettings
from genrec.config.sections import Section
from genrec.data.interactions import Interactions
from genrec.evaluation.metrics import gains
from genrec.evaluation.rank import rank_dense
from genrec.models.dense import DenseScorer

Chosen = TypeVar("Chosen", bound=Section)

ITEM_KNN_GRID: Mapping[str, Sequence[float]] = {
    "window": (3, 5, 10, 20),
    "reverse": (0.25, 0.5, 1.0),
    "degree_power": (0.0, 0.25, 0.5, 0.75),
    "decay": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
}
LINEAR_GRID: Mapping[str, Sequence[float]] = {"ridge": (30, 100, 300, 1000), "decay": (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)}
CONTENT_KNN_GRID: Mapping[str, Sequence[float]] = {"power": (1, 2, 4, 8, 16), "decay": (0.3, 0.5, 0.7, 0.8, 0.9, 1.0)}


@dataclass(frozen=True)
class Trial(Generic[Chosen]):
    """One point of the grid and its validation NDCG at 10 (or the largest cutoff below)."""

    settings: Chosen
    ndcg: float


def tune(
    start: Chosen,
    grid: Mapping[str, Sequence[float]],
    fit: Callable[[Chosen], DenseScorer],
    interactions: Interactions,
    evaluation: EvaluationSettings,
    *,
    max_history: int,
    users: int | None = 5000,
) -> tuple[Chosen, list[Trial[Chosen]]]:
    """Tune one setting after another by NDCG@10 of the validation targets.

    The seen-item policy is that of ``evaluation``, so a model is tuned for the table it stands in.

    Args:
        start: where to begin; one point of the grid or not.
        grid: values of each setting, in the order in which they are tuned.
        fit: settings to a fitted scorer.
        interactions: the data set.
        evaluation: list length and seen-item policy.
        max_history: latest items of the history that count.
        users: validation users that judge, a fixed sample; None: all.

    Returns:
        The best settings and every trial, ``start`` first.
    """
    cutoff = min(10, max(evaluation.cutoffs))
    scored: dict[Chosen, float] = {}
    judges = interactions.users_with("valid")
    if users is not None and len(judges) > users:
        judges = np.sort(np.random.default_rng(0).choice(judges, users, replace=False))

    def score(settings: Chosen) -> float:
        if settings not in scored:
            frame = rank_dense(
                fit(settings), interactions, "valid", evaluation, max_history=max_history, model="tuned", users=judges
            )
            scored[settings] = float(gains(frame, f"ndcg@{cutoff}").mean())
        return scored[settings]

    best = start
    score(start)
    for name, values in grid.items():
        for value in values:
            candidate = best.model_copy(update={name: value})
            if score(candidate) > score(best):
                best = candidate
    return best, [Trial(settings, value) for settings, value in scored.items()]
