"""report.html of a sweep: one self-contained page with its curve, trials and best settings, and how sure they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import jinja2

from genrec.config import resolved_yaml
from genrec.evaluation.report import versions
from tune.plots import epochs_plot, importance_bars, parallel_coordinates, pareto_plot, sweep_curve
from tune.records import write
from tune.result import Group, Result
from tune.watch import settings_text, short_names, value_text

REPORT, GRID = "report.html", "grid.json"


def write_report(result: Result) -> Path:
    """Write the page and, beside it, the result grid as JSON; returns the page's path."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).with_name("templates")), autoescape=True,
        undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    sweep, records = result.sweep, result.records
    best = result.best
    page = environment.get_template("report.html.j2").render(
        name=sweep.name,
        definition=sweep.definition,
        counts=result.counts(),
        spared=result.spared_epochs(),
        metric=result.metric,
        required=result.required,
        verdict=verdict_text(result),
        best=best,
        set_line=result.set_line(best) if best is not None else "",
        keys=short_names(sweep.definition.space),
        columns=_columns(result),
        trials=list(records.trials.values()),
        value_text=value_text,
        curve=_curve(result),
        effects=_effects(result),
        epochs=_epochs(result),
        parallel=_parallel(result),
        importance=importance_bars(found) if (found := result.importance()) else "",
        n_importance=len([g for g in result.groups if result.seeds[0] in g.records]),
        pareto=_pareto(result),
        axes=result.axes,
        front=_front(result),
        confidence=sweep.base.evaluation.confidence,
        samples=sweep.base.evaluation.bootstrap_samples,
        settings_yaml=resolved_yaml(sweep.base),
        versions=versions(),
    )
    write(records.directory / GRID, grid(result))
    path = records.directory / REPORT
    path.write_text(page, encoding="utf-8")
    return path


def grid(result: Result) -> list[dict[str, Any]]:
    """The result grid: a row each trial."""
    return [
        {
            "trial": record.order,
            "key": record.key,
            "roles": record.roles,
            "params": record.params,
            "seed": record.seed,
            "state": record.state,
            "epochs": int(record.history[-1]["epoch"]) if record.history else 0,
            "metrics": record.metrics,
            "history": record.history,
            "seconds": record.seconds,
        }
        for record in result.records.trials.values()
    ]


def verdict_text(result: Result) -> list[str]:
    """What may be said of the best point, in sentences."""
    best, verdict, metric = result.best, result.verdict(), result.metric
    if best is None or verdict is None:
        return [f"no finished point keeps {result.objective.keep}" if result.groups else "no trial is finished"]
    role = next((f" (the {role})" for role in ("defaults", "control") if role in best.roles), "")
    lines = [f"best{role}: {settings_text(best.params)}; {metric} {verdict.chosen:.4f}"]
    difference = verdict.difference
    if result.defaults is best:
        lines.append("no point beats the defaults")
    elif difference is not None:
        low, high = difference.low, difference.high
        word = "better than" if low > 0 else ("worse than" if high < 0 else "not told apart from")
        flattered = ", the seed that chose it, so this flatters it" if verdict.chosen_by_same_seed else ""
        lines.append(
            f"the best is {word} the defaults: {metric} "
            f"{difference.difference:+.4f} [{low:+.4f}, {high:+.4f}] on seeds {', '.join(map(str, verdict.seeds))}"
            f"{flattered}{' (over users alone: one seed)' if len(verdict.seeds) == 1 else ''}"
        )
    if verdict.again is not None:
        noise = f"; noise between seeds {verdict.noise:.4f}" if verdict.noise is not None else ""
        lines.append(f"trained again with other seeds: {metric} {verdict.again:.4f}{noise}")
    return lines


def _columns(result: Result) -> list[str]:
    objective = result.objective
    keep = [objective.keep] if objective.keep else []
    return list(dict.fromkeys([*objective.maximise, *keep, "ndcg@10", "head/ndcg@10", "tail/ndcg@10"]))


def _value(group: Group, key: str) -> Any:
    return group.params.get(key)


def _swept(result: Result) -> list[tuple[Any, Group]]:
    """Points of a sweep over one key, in the order of its values; nothing for a sweep over several."""
    keys = list(result.sweep.definition.space)
    if len(keys) != 1 or result.sweep.definition.search != "grid":
        return []
    found = [(_value(group, keys[0]), group) for group in result.groups if "grid" in group.roles]
    order = result.sweep.definition.space[keys[0]].values or ()
    return sorted(found, key=lambda item: order.index(item[0]))


def _curve(result: Result) -> str:
    swept = _swept(result)
    if not swept:
        return ""
    ((key, parameter),) = result.sweep.definition.space.items()
    seeds = [
        {
            segment: [
                record.metrics[name]
                for record in group.records.values()
                if (name := "ndcg@10" if segment == "all" else f"{segment}/ndcg@10") in record.metrics
            ]
            for segment in ("all", "head", "tail")
        }
        for _, group in swept
    ]
    rows = [result.rows(group) for _, group in swept]
    return sweep_curve([value for value, _ in swept], rows, seeds, parameter.label or key) if any(rows) else ""


def _effects(result: Result) -> list[dict[str, Any]]:
    """Of each value of a one-dimensional sweep: the metric and its paired difference to the control."""
    rows = []
    for value, group in _swept(result):
        difference = None
        if result.control is not None and group is not result.control:
            difference = result.difference(group, result.control, result.metric, result.seeds)
        found = {(row.segment, row.metric): row for row in result.rows(group)}
        cells = [found.get((segment, "ndcg@10")) for segment in ("all", "head", "tail")]
        rows.append({"value": value, "cells": cells, "difference": difference, "control": group is result.control})
    return rows


def _epochs(result: Result) -> str:
    histories = [
        (
            record.state,
            [row["epoch"] for row in record.history if result.metric in row],
            [row[result.metric] for row in record.history if result.metric in row],
        )
        for record in result.records.trials.values()
        if record.history
    ]
    return epochs_plot(histories, result.metric) if histories else ""


def _parallel(result: Result) -> str:
    keys, metric = list(result.sweep.definition.space), result.metric
    shown = [
        record
        for record in result.records.trials.values()
        if record.state in ("finished", "stopped")
        and record.seed in result.choosing
        and metric in record.last
        and all(key in record.params for key in keys)
    ]
    if len(shown) < 2:
        return ""
    names = short_names(result.sweep.definition.space)
    return parallel_coordinates(
        [names[key] for key in keys],
        [[record.params[key] for key in keys] for record in shown],
        [record.last[metric] for record in shown],
        [record.state for record in shown],
        metric,
    )


def _pair(result: Result, group: Group) -> tuple[float, float] | None:
    first, second = (group.value(name, result.choosing) for name in result.axes)
    return None if first is None or second is None else (first, second)


def _front(result: Result) -> list[tuple[Group, tuple[float, float] | None]]:
    found = [(group, _pair(result, group)) for group in result.front(result.axes)]
    return sorted(found, key=lambda item: item[1] or (0.0, 0.0), reverse=True)


def _pareto(result: Result) -> str:
    pairs = [(group, pair) for group in result.groups if (pair := _pair(result, group)) is not None]
    if not pairs:
        return ""
    front = {id(group) for group in result.front(result.axes)}
    named = {"best": result.best, "defaults": result.defaults, "control": result.control}
    marked = {
        name: pair for name, group in named.items() if group is not None and (pair := _pair(result, group)) is not None
    }
    required = result.required if result.axes[1] == result.objective.keep else None
    return pareto_plot([p for _, p in pairs], [id(g) in front for g, _ in pairs], marked, result.axes, required)
