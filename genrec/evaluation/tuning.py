"""Honest tuning of item-kNN: a small grid, judged on validation targets, never on test."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from genrec.config import EvaluationSettings, ItemKNNSettings
from genrec.data.interactions import Interactions
from genrec.evaluation.metrics import gains
from genrec.evaluation.rank import rank_dense
from genrec.models.item_knn import ItemKNN


@dataclass(frozen=True)
class KNNTrial:
    """One point of the grid and its validation NDCG at 10 (or the largest cutoff below)."""

    settings: ItemKNNSettings
    ndcg: float


def tune_item_knn(
    interactions: Interactions,
    start: ItemKNNSettings,
    evaluation: EvaluationSettings,
    *,
    max_history: int,
    users: int | None = 5000,
    decays: Sequence[float] = (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95),
    windows: Sequence[int] = (3, 5, 10, 20),
    reverses: Sequence[float] = (0.25, 0.5, 1.0),
    degree_powers: Sequence[float] = (0.0, 0.25, 0.5, 0.75),
) -> tuple[ItemKNNSettings, list[KNNTrial]]:
    """Tune one setting after another (decay last) by NDCG@10 of the validation targets.

    Coordinate descent instead of the full grid: at most 20 fits of seconds each, not 384. The seen-item policy
    is that of ``evaluation``, so a model is tuned for the table it stands in.

    Args:
        interactions: the data set.
        start: where to begin; one point of the grid or not.
        evaluation: list length and seen-item policy.
        max_history: latest items of the history that count.
        users: validation users that judge, a fixed sample; None: all.
        decays: grid of `decay`.
        windows: grid of `window`.
        reverses: grid of `reverse`.
        degree_powers: grid of `degree_power`.

    Returns:
        The best settings and every trial, ``start`` first.
    """
    cutoff = min(10, max(evaluation.cutoffs))
    scored: dict[ItemKNNSettings, float] = {}
    judges = interactions.users_with("valid")
    if users is not None and len(judges) > users:
        judges = np.sort(np.random.default_rng(0).choice(judges, users, replace=False))

    def score(settings: ItemKNNSettings) -> float:
        if settings not in scored:
            fitted = ItemKNN.fit(interactions, settings)
            frame = rank_dense(
                fitted, interactions, "valid", evaluation, max_history=max_history, model="item-kNN", users=judges
            )
            scored[settings] = float(gains(frame, f"ndcg@{cutoff}").mean())
        return scored[settings]

    best = start
    score(start)
    grid = {"window": windows, "reverse": reverses, "degree_power": degree_powers, "decay": decays}
    for name, values in grid.items():
        for value in values:
            candidate = best.model_copy(update={name: value})
            if score(candidate) > score(best):
                best = candidate
    return best, [KNNTrial(settings, value) for settings, value in scored.items()]
