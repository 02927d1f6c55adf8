"""The plots of a sweep's report, as inline SVG like those of the evaluation's report (genrec/evaluation/plots.py)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from genrec.evaluation.metrics import MetricRow
from genrec.evaluation.plots import INK, PALETTE, STYLE, _svg

SEGMENTS = ("all", "head", "tail")
STATE_COLOURS = {"finished": PALETTE[2], "stopped": PALETTE[6], "failed": PALETTE[4]}


def sweep_curve(
    values: Sequence[Any],
    rows: Sequence[Sequence[MetricRow]],
    seeds: Sequence[Mapping[str, Sequence[float]]],
    label: str,
) -> str:
    """NDCG@10 by the swept value: the mean with its interval, and a dot each seed; one panel a segment.

    Args:
        values: of the swept key, in order; numbers are placed by size, others side by side.
        rows: of each value.
        seeds: of each value: segment -> the metric of each seed.
        label: of the swept key.
    """
    numeric = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    places = np.array(values if numeric else range(len(values)), dtype=np.float64)
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.1), layout="constrained")
        for column, (axes, segment) in enumerate(zip(figure.subplots(1, 3), SEGMENTS, strict=True)):
            found = [next((r for r in of if (r.segment, r.metric) == (segment, "ndcg@10")), None) for of in rows]
            shown = [(x, row) for x, row in zip(places, found, strict=True) if row is not None]
            for x, of in zip(places, seeds, strict=True):
                dots = of.get(segment, ())
                axes.plot([x] * len(dots), dots, ".", color=PALETTE[column], alpha=0.5, ms=6, mew=0)
            if shown:
                xs, means = [x for x, _ in shown], np.array([row.value for _, row in shown])
                errors = np.array([[r.value - r.low, r.high - r.value] for _, r in shown]).T.clip(min=0)
                axes.errorbar(xs, means, errors, color=PALETTE[column], marker="o", ms=4, lw=1.4, capsize=3)
            axes.set(title=f"{segment}: N@10", xlabel=label)
            axes.set_xticks(places, [f"{v:g}" if numeric else str(v) for v in values])
        return _svg(figure, "sweep")


def parallel_coordinates(
    names: Sequence[str], points: Sequence[Sequence[Any]], scores: Sequence[float], states: Sequence[str], metric: str
) -> str:
    """A line each trial through its settings to its score; stopped trials are dashed.

    Args:
        names: of the settings.
        points: of each trial: its settings in that order.
        scores: of each trial.
        states: of each trial.
        metric: name of the score.
    """
    columns = [[point[place] for point in points] for place in range(len(names))] + [list(scores)]
    low, high = min(scores), max(scores)
    colours = matplotlib.colormaps["viridis"]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.6), layout="constrained")
        axes = figure.subplots()
        heights = [_heights(column) for column in columns]
        for line in np.argsort(scores):
            colour = colours((scores[line] - low) / (high - low) if high > low else 0.5)
            style = "-" if states[line] == "finished" else "--"
            axes.plot(
                range(len(columns)), [height[line] for height, _ in heights], style, color=colour, lw=1.4, alpha=0.9
            )
        for place, (_, ticks) in enumerate(heights):
            axes.axvline(place, color=INK, lw=0.6)
            for height, text in ticks:
                axes.text(place + 0.03, height, text, fontsize=7, va="center")
        axes.set_xticks(range(len(columns)), [*names, metric])
        axes.set_yticks([])
        axes.set_xlim(-0.1, len(columns) - 0.6)
        for side in ("left", "bottom"):
            axes.spines[side].set_visible(False)
        return _svg(figure, "parallel")


def importance_bars(importance: Mapping[str, float]) -> str:
    """Share of the variance that each setting explains."""
    names = sorted(importance, key=lambda name: importance[name])
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 0.6 + 0.32 * len(names)), layout="constrained")
        axes = figure.subplots()
        axes.barh(names, [importance[name] for name in names], color=PALETTE[0])
        axes.set(xlabel="share of the variance between trials", xlim=(0, 1))
        return _svg(figure, "importance")


def pareto_plot(
    points: Sequence[tuple[float, float]],
    front: Sequence[bool],
    marked: Mapping[str, tuple[float, float]],
    axes_names: tuple[str, str],
    required: float | None,
) -> str:
    """All finished points in the plane of two metrics, the front joined.

    Args:
        points: first and second metric.
        front: which points belong to the Pareto front.
        marked: name -> point (best, defaults, control).
        axes_names: of the metrics.
        required: least value of the second metric, drawn as a line.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(5.5, 3.6), layout="constrained")
        axes = figure.subplots()
        table = np.array(points, dtype=np.float64)
        member = np.array(front, dtype=bool)
        axes.plot(table[~member, 0], table[~member, 1], "o", color=PALETTE[5], ms=5, label="dominated")
        order = np.argsort(table[member, 0])
        axes.plot(*table[member][order].T, "o-", color=PALETTE[0], ms=6, lw=1, label="Pareto front")
        for place, (name, (x, y)) in enumerate(marked.items()):
            axes.plot([x], [y], "os^D"[place % 4], mfc="none", mec=PALETTE[1 + place], ms=11, mew=1.6, label=name)
        if required is not None:
            axes.axhline(required, color=INK, lw=0.8, ls=":", label="must be kept")
        axes.set(xlabel=axes_names[0], ylabel=axes_names[1])
        axes.legend(fontsize=8)
        return _svg(figure, "pareto")


def epochs_plot(histories: Sequence[tuple[str, Sequence[float], Sequence[float]]], metric: str) -> str:
    """The metric by epoch of every trial; where a line ends early, ASHA stopped it.

    Args:
        histories: of each trial: state, epochs, values.
        metric: name of the values.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3), layout="constrained")
        axes = figure.subplots()
        for state in STATE_COLOURS:
            for place, (_, epochs, values) in enumerate([h for h in histories if h[0] == state]):
                label = state if place == 0 else None
                axes.plot(epochs, values, marker=".", ms=4, lw=1, color=STATE_COLOURS[state], label=label)
        axes.set(xlabel="epoch", ylabel=f"{metric} while training")
        if axes.lines:
            axes.legend()
        return _svg(figure, "epochs")


def _heights(column: Sequence[Any]) -> tuple[list[float], list[tuple[float, str]]]:
    """Heights 0 to 1 of a column's values, and its ticks."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in column):
        low, high = min(column), max(column)
        spread = [(value - low) / (high - low) if high > low else 0.5 for value in column]
        return spread, [(0.0, f"{low:.4g}"), (1.0, f"{high:.4g}")] if high > low else [(0.5, f"{low:.4g}")]
    kinds = sorted({str(value) for value in column})
    place = {kind: (number + 0.5) / len(kinds) for number, kind in enumerate(kinds)}
    return [place[str(value)] for value in column], [(height, kind) for kind, height in place.items()]
