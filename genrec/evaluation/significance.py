"""Differences between models trained with several seeds, with the two intervals that a claim needs.

*Over users*: each user's metric is averaged over the seeds, then users are resampled (paired: the same users for
both models). It says whether these trained models differ for other users, and nothing about training them again.

*Over seeds and users*: seeds are resampled with replacement, then users; the interval holds both kinds of chance.
Users and seeds are crossed, since every seed answers for the same users: each sample draws one set of users for all
drawn seeds (drawing users anew for every seed would average their chance away). Seeds that both models have are
drawn in pairs. With one seed the two intervals are one; with three the second is coarse, and still the honest one.

Both are percentile bootstraps of one set of draws a segment, so all differences of a table are comparable.

Shape letters: U users of a segment, C columns (one a frame), M metrics, S bootstrap samples, R drawn pairs of seeds.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from genrec.config import EvaluationSettings
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.metrics import FloatArray, MetricRow, gains, interval, require_same_users, user_weights


@dataclass(frozen=True)
class Difference:
    """How much better one model is than another on the same users.

    Attributes:
        model, against, segment, metric: what was compared.
        users: number of users in the segment.
        seeds: seeds averaged over; empty where neither model has any.
        value, reference: the means of ``model`` and of ``against`` over these users and seeds.
        difference: value - reference.
        by_users: its interval over users, metrics averaged over seeds.
        by_seeds: its interval over seeds and users.
        relative: difference / reference; None where the reference is 0.
        relative_by_seeds: its interval over seeds and users; None where a sample's reference is 0.
    """

    model: str
    against: str
    segment: str
    metric: str
    users: int
    seeds: list[int]
    value: float
    reference: float
    difference: float
    by_users: tuple[float, float]
    by_seeds: tuple[float, float]
    relative: float | None
    relative_by_seeds: tuple[float, float] | None


class Bootstrap:
    """The draws of one table: every model's means under the same resampled users.

    Args:
        runs: model -> its frames, one a seed (or one without), all over the same users.
        metrics: "hit@10", "ndcg@10", ...
        settings: bootstrap samples and confidence.
        measure: float [U], what each user of a frame contributes to a metric.
    """

    def __init__(
        self,
        runs: Mapping[str, Sequence[EvalFrame]],
        metrics: Sequence[str],
        settings: EvaluationSettings,
        measure: Callable[[EvalFrame, str], FloatArray] = gains,
    ) -> None:
        frames = [frame for group in runs.values() for frame in group]
        require_same_users(frames)
        self.settings, self.metrics = settings, list(metrics)
        self.columns: dict[str, dict[int | None, int]] = {}
        place = 0
        for model, group in runs.items():
            self.columns[model] = {frame.seed: place + n for n, frame in enumerate(group)}
            assert len(self.columns[model]) == len(group), f"{model}: two frames of one seed"
            place += len(group)
        gains_UCM = np.stack([np.stack([measure(f, name) for name in self.metrics], axis=1) for f in frames], axis=1)
        members = {"all": np.ones(len(frames[0].users), dtype=bool), **frames[0].segments}
        self.users = {segment: int(member.sum()) for segment, member in members.items() if member.any()}
        self.means_CM = {segment: gains_UCM[members[segment]].mean(axis=0) for segment in self.users}
        self.draws_SCM = {segment: self._draw(gains_UCM[members[segment]]) for segment in self.users}

    @property
    def segments(self) -> list[str]:
        """Those with users."""
        return list(self.users)

    def seeds(self, model: str) -> list[int]:
        """Seeds of a model; none for one without randomness."""
        return [seed for seed in self.columns[model] if seed is not None]

    def row(self, model: str, dataset: str, segment: str, metric: str) -> MetricRow:
        """A model's mean over seeds and users, with its interval over both."""
        at, columns = self.metrics.index(metric), list(self.columns[model].values())
        low, high = interval(self._over_seeds(self.draws_SCM[segment][:, columns, at]), self.settings)
        value = float(self.means_CM[segment][columns, at].mean())
        return MetricRow(
            model, dataset, segment, metric, value, float(low), float(high), self.seeds(model), self.users[segment]
        )

    def difference(self, model: str, against: str, segment: str, metric: str) -> Difference:
        """``model`` minus ``against``, over the seeds that both have (a model without seeds stands for each)."""
        at = self.metrics.index(metric)
        pairs = self._pairs(model, against)
        ours, theirs = ([self.columns[name][pair[side]] for pair in pairs] for side, name in ((0, model), (1, against)))
        ours_SR, theirs_SR = (self.draws_SCM[segment][:, columns, at] for columns in (ours, theirs))
        value, reference = (float(self.means_CM[segment][columns, at].mean()) for columns in (ours, theirs))
        samples = self._over_seeds(ours_SR - theirs_SR)
        references = self._over_seeds(theirs_SR)
        relative = None
        if (references > 0).all():
            relative = self._bounds(samples / references)
        return Difference(
            model=model,
            against=against,
            segment=segment,
            metric=metric,
            users=self.users[segment],
            seeds=sorted({seed for pair in pairs for seed in pair if seed is not None}),
            value=value,
            reference=reference,
            difference=value - reference,
            by_users=self._bounds((ours_SR - theirs_SR).mean(axis=1)),
            by_seeds=self._bounds(samples),
            relative=(value - reference) / reference if reference > 0 else None,
            relative_by_seeds=relative,
        )

    def comparable(self, model: str, against: str) -> bool:
        """True if both are there and have a seed in common, or one of them needs none."""
        return model in self.columns and against in self.columns and bool(self._pairs(model, against))

    def _pairs(self, model: str, against: str) -> list[tuple[int | None, int | None]]:
        ours, theirs = self.columns[model], self.columns[against]
        if None in theirs:
            return [(seed, None) for seed in ours]
        if None in ours:
            return [(None, seed) for seed in theirs]
        return [(seed, seed) for seed in ours if seed in theirs]

    def _draw(self, gains_UCM: FloatArray) -> FloatArray:
        n_users, n_columns, n_metrics = gains_UCM.shape
        flat = gains_UCM.reshape(n_users, -1)
        weights = user_weights(n_users, self.settings.bootstrap_samples)
        return np.concatenate([w @ flat for w in weights]).reshape(-1, n_columns, n_metrics) / n_users

    def _over_seeds(self, draws_SR: FloatArray) -> FloatArray:
        """Float [S], the mean of a resampled set of the R columns, drawn anew in every sample."""
        samples, n = draws_SR.shape
        share_SR = np.random.default_rng([1, n]).multinomial(n, np.full(n, 1 / n), samples) / n
        drawn: FloatArray = (share_SR * draws_SR).sum(axis=1)
        return drawn

    def _bounds(self, samples: FloatArray) -> tuple[float, float]:
        low, high = interval(samples, self.settings)
        return float(low), float(high)
