"""The report's plots as inline SVG whose ink follows the page's text colour, so light and dark both work.

Each function returns an SVG element. Figures are made without pyplot: nothing global is touched.
"""

from __future__ import annotations

import io
import re
from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib
import numpy as np
from matplotlib.figure import Figure

from genrec.data.interactions import Interactions
from genrec.evaluation.exposure import KINDS, Exposure
from genrec.evaluation.frame import EvalFrame
from genrec.evaluation.metrics import MetricRow
from genrec.evaluation.tables import SEGMENTS, headline_metrics, label
from genrec.tokenizer.sid_table import SidTable

INK = "#010203"
"""Stands for the page's text colour until the SVG is written."""
PALETTE = ("#4c8bf5", "#e8833a", "#3aa676", "#c264c9", "#d1495b", "#8d99ae", "#b8a13a", "#3ab0c9")
STYLE: Any = {  # Any: matplotlib types the keys in some versions only
    "text.color": INK,
    "axes.edgecolor": INK,
    "axes.labelcolor": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "axes.facecolor": "none",
    "figure.facecolor": "none",
    "legend.frameon": False,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 9,
    "svg.fonttype": "none",
}


def metric_bars(rows: Sequence[MetricRow]) -> str:
    """Hit rate and NDCG of every model with intervals, one group of bars a segment."""
    metrics = headline_metrics(rows)
    found = {(row.model, row.segment, row.metric): row for row in rows}
    models = list(dict.fromkeys(row.model for row in rows))
    segments = [segment for segment in SEGMENTS if any(row.segment == segment for row in rows)]
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3.2), layout="constrained")
        for axes, metric in zip(figure.subplots(1, 2), metrics, strict=True):
            width = 0.8 / len(models)
            for place, model in enumerate(models):
                shown = [(x, found.get((model, segment, metric))) for x, segment in enumerate(segments)]
                bars = [(x + (place - (len(models) - 1) / 2) * width, row) for x, row in shown if row]
                values = np.array([row.value for _, row in bars])
                errors = np.array([[row.value - row.low, row.high - row.value] for _, row in bars]).T.clip(min=0)
                axes.bar([x for x, _ in bars], values, width * 0.92, color=_colour(place), label=model)
                axes.errorbar([x for x, _ in bars], values, errors, fmt="none", ecolor=INK, elinewidth=1, capsize=2)
            axes.set_xticks(range(len(segments)), segments)
            axes.set_title(label(metric))
        figure.legend(*axes.get_legend_handles_labels(), loc="outside lower center", ncols=min(len(models), 5))
        return _svg(figure, "bars")


def training_curves(curves: Mapping[str, Sequence[Mapping[str, Any]]]) -> str:
    """Training loss and validation NDCG by optimizer step.

    Args:
        curves: model -> rows of its metrics.jsonl ("step", "loss", "validation/ndcg@10").
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3), layout="constrained")
        panels = figure.subplots(1, 2)
        for place, (model, rows) in enumerate(curves.items()):
            for axes, name in zip(panels, ("loss", "validation/ndcg@10"), strict=True):
                points = [(row["step"], row[name]) for row in rows if name in row]
                if points:
                    marker = "." if len(points) < 60 else ""
                    axes.plot(*zip(*points, strict=True), color=_colour(place), lw=1, marker=marker, label=model)
        for axes, title in zip(panels, ("training loss", "validation N@10"), strict=True):
            axes.set_title(title)
            axes.set_xlabel("optimizer step")
            if axes.lines:
                axes.legend()
        return _svg(figure, "curves")


def exposure_curves(measured: Sequence[Exposure]) -> str:
    """Accuracy by code position, after true and own prefixes; and by the share of injected errors."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 3), layout="constrained")
        positions, errors = figure.subplots(1, 2)
        for place, entry in enumerate(measured):
            at = [p.position for p in entry.positions]
            forced, own = [p.teacher_forced for p in entry.positions], [p.own_prefix for p in entry.positions]
            positions.plot(at, forced, color=_colour(place), lw=1, marker=".", label=f"{entry.model}, true prefix")
            positions.plot(at, own, color=_colour(place), lw=1, marker=".", ls="--", label=f"{entry.model}, own prefix")
            for kind, style in zip(KINDS, ("-", ":"), strict=True):
                points = [(p.share, p.accuracy) for p in entry.curve if p.kind == kind]
                x, y = zip(*points, strict=True)
                errors.plot(
                    x, y, color=_colour(place), lw=1, marker=".", ls=style, label=f"{entry.model}, {kind} codes"
                )
        positions.set_xticks(sorted({p.position for entry in measured for p in entry.positions}))
        for axes, label_x in ((positions, "code position"), (errors, "share of replaced input codes")):
            axes.set_xlabel(label_x)
            axes.set_ylabel("accuracy")
            axes.legend()
        return _svg(figure, "exposure")


def codebook_use(table: SidTable) -> str:
    """How many items each code of a level carries, codes by falling use; the title tells the perplexity."""
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(9, 2.4), layout="constrained")
        panels = figure.subplots(1, table.n_levels, squeeze=False)[0]
        for level, (axes, size) in enumerate(zip(panels, table.level_sizes, strict=True)):
            counts = np.sort(np.bincount(table.codes_NL[:, level], minlength=size))[::-1]
            share = counts[counts > 0] / counts.sum()
            perplexity = np.exp(-(share * np.log(share)).sum())
            axes.fill_between(np.arange(size), counts, step="mid", color=_colour(level), lw=0)
            kind = "collisions" if table.collision_level and level == table.n_levels - 1 else f"level {level + 1}"
            axes.set_title(f"{kind}: {np.count_nonzero(counts)} of {size} used,\nperplexity {perplexity:.0f}")
            axes.set_xlabel("code, by use")
        panels[0].set_ylabel("items")
        return _svg(figure, "codebook")


def popularity_against_score(frames: Mapping[str, Sequence[EvalFrame]], interactions: Interactions) -> str:
    """What each model makes of popularity: an item's training count against its place in the lists.

    Upper row: share of users whose top 10 holds the item. Lower row: mean score of the item where it is
    listed. A model that only repeats popularity draws a rising line and leaves the left of the plot empty.
    """
    counts = interactions.train_counts
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(max(2.4 * len(frames), 3), 4.4), layout="constrained")
        panels = figure.subplots(2, len(frames), squeeze=False, sharex=True)
        for place, (model, runs) in enumerate(frames.items()):
            listed, score = _exposure(runs, interactions.n_items)
            shown = listed > 0
            style: dict[str, Any] = {"s": 4, "color": _colour(place), "alpha": 0.5, "lw": 0, "rasterized": True}
            panels[0, place].scatter(1 + counts[shown], listed[shown], **style)
            panels[1, place].scatter(1 + counts[shown], score[shown], **style)
            panels[0, place].set(xscale="log", yscale="log", title=f"{model}\n{shown.mean():.0%} of items listed")
            panels[1, place].set(xlabel="1 + training count")
        panels[0, 0].set_ylabel("share of top-10 lists")
        panels[1, 0].set_ylabel("mean score where listed")
        return _svg(figure, "popularity")


def _exposure(runs: Sequence[EvalFrame], n_items: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Float [N] share of lists that hold each item, and float [N] its mean score in them (nan without scores)."""
    times, total, lists = np.zeros(n_items), np.zeros(n_items), 0
    for frame in runs:
        top = frame.lists[:, :10]
        scores = np.full(top.shape, np.nan) if frame.scores is None else frame.scores[:, :10].astype(np.float64)
        listed = top >= 0
        times += np.bincount(top[listed], minlength=n_items)
        total += np.bincount(top[listed], weights=scores[listed], minlength=n_items)
        lists += len(top)
    return times / max(lists, 1), np.divide(total, times, out=np.full(n_items, np.nan), where=times > 0)


def _colour(place: int) -> str:
    return PALETTE[place % len(PALETTE)]


def _svg(figure: Figure, name: str) -> str:
    """The figure as an SVG element; every id in it begins with ``name``, so figures share a page."""
    buffer = io.StringIO()
    repeatable: Any = {"svg.hashsalt": name}
    with matplotlib.rc_context(repeatable):
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None}, dpi=120)
    text = buffer.getvalue()
    text = re.sub(r'((?<=\s)id="|url\(#|href="#)', rf"\1{name}-", text[text.index("<svg") :])
    return text.replace(INK, "currentColor")
