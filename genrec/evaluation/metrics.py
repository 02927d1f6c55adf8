"""Hit rate, recall, NDCG and reciprocal rank at cutoffs, with bootstrap intervals over users.

With one target a user (leave-one-out), recall equals the hit rate and NDCG@k is 1/log2(rank + 2) of a
0-based rank below k (the ideal list scores 1). A list that misses the target scores 0.

A row's value is the mean over users and over seeds. Its interval resamples users with replacement
and, where a model was trained with several seeds, the seeds too (percentile bootstrap).

Shape letters: U users of a segment, M metrics, R runs (seeds) of a model, S bootstrap samples.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from genrec.config import EvaluationSettings
from genrec.errors import ArtifactError
from genrec.evaluation.frame import EvalFrame

FloatArray = NDArray[np.float64]


@dataclass(frozen=True)
class MetricRow:
    """One number of the results table.

    Attributes:
        model, dataset, segment: what it is of; segment "all" is everyone.
        metric: "hit@10", "recall@10", "ndcg@10", "mrr@10", ...
        value: mean over users and seeds.
        low, high: bounds of the interval.
        seeds: training seeds it averages over; empty for a model without randomness.
        users: number of users in the segment; None for a row read from metrics.json.
    """

    model: str
    dataset: str
    segment: str
    metric: str
    value: float
    low: float
    high: float
    seeds: list[int]
    users: int | None = None


@dataclass(frozen=True)
class PairedDifference:
    """How much better model a is than model b on the same users.

    Attributes:
        metric, segment, users: what was compared.
        value_a, value_b: the two means.
        difference, low, high: a - b and its interval.
        relative, relative_low, relative_high: (a - b) / b; nan where b is 0.
        p: two-sided bootstrap p-value of "no difference".
    """

    metric: str
    segment: str
    users: int
    value_a: float
    value_b: float
    difference: float
    low: float
    high: float
    relative: float
    relative_low: float
    relative_high: float
    p: float


def hit(ranks: NDArray[np.int64], k: int) -> FloatArray:
    """1 where the 0-based rank of the target is below k; equals recall for a single target."""
    return (ranks < k).astype(np.float64)


def ndcg(ranks: NDArray[np.int64], k: int) -> FloatArray:
    """1/log2(rank + 2) where the rank is below k, else 0 (Järvelin & Kekäläinen, single target)."""
    return np.where(ranks < k, 1 / np.log2(ranks + 2.0), 0.0)


def reciprocal_rank(ranks: NDArray[np.int64], k: int) -> FloatArray:
    """1/(rank + 1) where the rank is below k, else 0."""
    return np.where(ranks < k, 1 / (ranks + 1.0), 0.0)


_GAINS = {"hit": hit, "recall": hit, "ndcg": ndcg, "mrr": reciprocal_rank}


def gains(frame: EvalFrame, metric: str) -> FloatArray:
    """Float [U'], what each user contributes to ``metric`` ("ndcg@10")."""
    name, _, cutoff = metric.partition("@")
    assert name in _GAINS, f"metric {metric!r}; known: {', '.join(_GAINS)}"
    assert int(cutoff) <= frame.lists.shape[1], f"{metric} of lists of {frame.lists.shape[1]}"
    return _GAINS[name](frame.ranks, int(cutoff))


def evaluate_frames(frames: Sequence[EvalFrame], dataset: str, settings: EvaluationSettings) -> list[MetricRow]:
    """All rows of one model.

    Args:
        frames: one EvalFrame a seed, over the same users.
        dataset: name for the rows.
        settings: cutoffs, bootstrap samples and confidence.

    Returns:
        A row per segment (empty segments have none), metric and cutoff, in that order.
    """
    require_same_users(frames)
    first = frames[0]
    cutoffs = [k for k in settings.cutoffs if k <= first.lists.shape[1]]
    names = [f"{name}@{k}" for name in _GAINS for k in cutoffs]
    gains_RUM = np.stack([np.stack([gains(frame, name) for name in names], axis=1) for frame in frames])
    seeds = [frame.seed for frame in frames if frame.seed is not None]
    rows = []
    for segment, member in {"all": np.ones(len(first.users), dtype=bool), **first.segments}.items():
        if not member.any():
            continue
        values_M = gains_RUM[:, member].mean(axis=(0, 1))
        low_M, high_M = interval(_bootstrap_means(gains_RUM[:, member], settings.bootstrap_samples), settings)
        rows += [
            MetricRow(
                first.model, dataset, segment, name, float(value), float(low), float(high), seeds, int(member.sum())
            )
            for name, value, low, high in zip(names, values_M, low_M, high_M, strict=True)
        ]
    return rows


def paired_difference(
    frames_a: Sequence[EvalFrame],
    frames_b: Sequence[EvalFrame],
    metric: str,
    segment: str,
    settings: EvaluationSettings,
) -> PairedDifference:
    """Compare two models by a paired bootstrap: each sample draws users once for both.

    Args:
        frames_a: model a, one frame a seed, over the same users as b's.
        frames_b: model b; its seeds are drawn apart from a's.
        metric: "hit@10", "ndcg@10", ...
        segment: "all" or a segment of the frames.
        settings: bootstrap samples and confidence.
    """
    require_same_users([*frames_a, *frames_b])
    everyone = np.ones(len(frames_a[0].users), dtype=bool)
    member = everyone if segment == "all" else frames_a[0].segments[segment]
    assert member.any(), f"no user in segment {segment!r}"
    sides = [np.stack([gains(f, metric)[member] for f in frames])[:, :, None] for frames in (frames_a, frames_b)]
    samples = settings.bootstrap_samples
    means_a, means_b = (_bootstrap_means(side, samples, seed_of_runs=n)[:, 0] for n, side in enumerate(sides))
    value_a, value_b = (float(side.mean()) for side in sides)
    differences = means_a - means_b
    low, high = interval(differences, settings)
    with np.errstate(divide="ignore", invalid="ignore"):
        ratios = differences / means_b
        relative_low, relative_high = interval(ratios, settings) if np.isfinite(ratios).all() else (np.nan, np.nan)
    tail = min((differences <= 0).sum(), (differences >= 0).sum())
    return PairedDifference(
        metric=metric,
        segment=segment,
        users=int(member.sum()),
        value_a=value_a,
        value_b=value_b,
        difference=value_a - value_b,
        low=float(low),
        high=float(high),
        relative=(value_a - value_b) / value_b if value_b else float("nan"),
        relative_low=float(relative_low),
        relative_high=float(relative_high),
        p=float(min(1.0, 2 * (tail + 1) / (samples + 1))),
    )


def write_metrics(path: Path, rows: Sequence[MetricRow]) -> None:
    """Write metrics.json: a list of {model, dataset, segment, metric, value, low, high, seeds}."""
    plain = [{key: value for key, value in asdict(row).items() if key != "users"} for row in rows]
    path.write_text(json.dumps(plain, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def read_metrics(path: Path) -> list[MetricRow]:
    """Read what :func:`write_metrics` wrote.

    Raises:
        ArtifactError: no such file, or other content.
    """
    try:
        return [MetricRow(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path}: not a list of metric rows ({error}). Run `evaluate` again.") from error


def require_same_users(frames: Sequence[EvalFrame]) -> None:
    """Assert that all frames answer for the same users and targets."""
    assert frames, "no frame"
    for frame in frames[1:]:
        same = np.array_equal(frame.users, frames[0].users) and np.array_equal(frame.targets, frames[0].targets)
        assert same, f"{frame.model} and {frames[0].model} were evaluated on different users or targets"


def _bootstrap_means(gains_RUM: FloatArray, samples: int, *, seed_of_runs: int = 0) -> FloatArray:
    """Float [S, M], means under resampled users and runs.

    The users drawn depend on U and S alone, so two calls over the same users are paired.
    """
    n_runs, n_users, _ = gains_RUM.shape
    share_SR = (
        np.random.default_rng([1, seed_of_runs]).multinomial(n_runs, np.full(n_runs, 1 / n_runs), samples) / n_runs
    )
    means, begin = [], 0
    for weight_CU in user_weights(n_users, samples):
        share_CR = share_SR[begin : begin + len(weight_CU)]
        means_CRM = np.stack([weight_CU @ run_UM for run_UM in gains_RUM], axis=1) / n_users
        means.append((share_CR[:, :, None] * means_CRM).sum(axis=1))
        begin += len(weight_CU)
    return np.concatenate(means)


def user_weights(n_users: int, samples: int, floats: int = 4_000_000) -> Iterator[FloatArray]:
    """Multinomial weights [C, U], S rows in all: how often each sample drew each user."""
    rng = np.random.default_rng(0)
    rows = max(1, floats // n_users)
    for begin in range(0, samples, rows):
        count = min(rows, samples - begin)
        drawn = rng.integers(n_users, size=(count, n_users)) + np.arange(count)[:, None] * n_users
        yield np.bincount(drawn.ravel(), minlength=count * n_users).reshape(count, n_users).astype(np.float64)


def interval(samples: FloatArray, settings: EvaluationSettings) -> tuple[FloatArray, FloatArray]:
    """Percentile interval of bootstrap samples [S, ...], at the settings' confidence."""
    outside = (1 - settings.confidence) / 2
    low, high = np.quantile(samples, [outside, 1 - outside], axis=0)
    return low, high
