"""The tables of a grid: for the terminal, as Markdown and as one HTML page.

All three show the same sheets of text; `grid.json` holds the numbers they are made of.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean

import jinja2
from rich.markup import escape
from rich.table import Table

from genrec.evaluation.exposure import USER_METRICS
from genrec.evaluation.grid_report import JSON, SCHEMA, GridReport
from genrec.evaluation.tables import SEGMENTS, headline_metrics, label

SHOWN = (*SEGMENTS, "tail-literature")
MARKDOWN, HTML = "grid.md", "grid.html"


@dataclass(frozen=True)
class Sheet:
    """One table of texts."""

    title: str
    note: str
    columns: list[str]
    lines: list[list[str]]


def write_grid(directory: Path, report: GridReport) -> None:
    """Write grid.json, grid.md and grid.html."""
    directory.mkdir(parents=True, exist_ok=True)
    plain = {"schema": SCHEMA, **asdict(report)}
    _write(directory / JSON, json.dumps(plain, indent=1, ensure_ascii=False) + "\n")
    shown = sheets(report)
    _write(directory / MARKDOWN, _markdown(report, shown))
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("genrec.evaluation"), autoescape=True, undefined=jinja2.StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    page = environment.get_template("grid.html.j2").render(report=report, sheets=shown)
    _write(directory / HTML, page)


def _write(path: Path, text: str) -> None:
    """One rename, since several commands may work at one grid."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def sheets(report: GridReport) -> list[Sheet]:
    """The tables of a report; those without a line are left out."""
    cells = _cells(report)
    made = [cells]
    if report.rows:
        made = [_results(report), _differences(report), _baselines(report), _matched(report)]
        made += [_exposure(report), _exposure_differences(report), _training(report), cells]
    return [sheet for sheet in made if sheet.lines]


def rich_table(sheet: Sheet) -> Table:
    """A sheet for the terminal."""
    table = Table(title=escape(sheet.title), caption=escape(sheet.note), title_justify="left", caption_justify="left")
    for place, column in enumerate(sheet.columns):
        table.add_column(escape(column), justify="left" if place == 0 else "right")
    for line in sheet.lines:
        table.add_row(*(escape(text.replace(" [", "\n[")) for text in line))
    return table


def _results(report: GridReport) -> Sheet:
    metrics = headline_metrics(report.rows)
    found = {(row.model, row.segment, row.metric): row for row in report.rows}
    columns = [(s, m) for s in SHOWN for m in metrics if any(row.segment == s for row in report.rows)]
    lines = []
    for model in dict.fromkeys(row.model for row in report.rows):
        rows = [found.get((model, *column)) for column in columns]
        seeds = next((len(row.seeds) for row in rows if row), 0)
        texts = [f"{row.value:.4f} [{row.low:.4f}, {row.high:.4f}]" if row else "" for row in rows]
        lines.append([model, str(seeds) if seeds else "—", *texts])
    note = (
        f"Test targets, full ranking, weights by early stopping. Mean over seeds and users, {_percent(report)} "
        "interval over seeds and users. Head and tail by data.head_rule; tail-literature by counts over all "
        "interactions."
    )
    return Sheet(
        f"{report.name}: {report.dataset}", note, ["model", "seeds", *(f"{s} {label(m)}" for s, m in columns)], lines
    )


def _differences(report: GridReport) -> Sheet:
    lines = [
        [
            f"{d.model} − {d.against}",
            d.segment,
            label(d.metric),
            str(len(d.seeds)) if d.seeds else "—",
            f"{d.difference:+.4f}",
            _signed(d.by_users),
            _signed(d.by_seeds),
            "—" if d.relative is None else f"{d.relative:+.1%}",
            "—" if d.relative_by_seeds is None else _signed(d.relative_by_seeds, ".1%"),
        ]
        for d in report.differences
        if d.segment in SHOWN
    ]
    note = (
        "Paired bootstrap. Over users: metrics averaged over the seeds, users resampled. Over seeds and users: seeds "
        "resampled, then users. With one seed the two are the same."
    )
    columns = ["arms", "segment", "metric", "seeds", "difference", "over users", "over seeds and users"]
    return Sheet("Between arms", note, [*columns, "relative", "relative, over seeds and users"], lines)


def _baselines(report: GridReport) -> Sheet:
    found = {(d.model, d.segment, d.against): d for d in report.against_baselines}
    lines = []
    for model, segment in dict.fromkeys((m, s) for m, s, _ in found if s in SHOWN):
        mine = [found.get((model, segment, baseline)) for baseline in report.baselines]
        lines.append([model, segment, *(f"{d.difference:+.4f} {_signed(d.by_seeds)}" if d else "" for d in mine)])
    metric = label(report.against_baselines[0].metric) if report.against_baselines else ""
    note = f"Difference in {metric}, paired bootstrap over seeds and users."
    columns = ["arm", "segment", *(f"− {baseline}" for baseline in report.baselines)]
    return Sheet("Against the baselines", note, columns, lines)


def _matched(report: GridReport) -> Sheet:
    key = headline_metrics(report.rows)[1]
    by_stopping = {(d.model, d.against, d.segment): d.difference for d in report.differences if d.metric == key}
    lines = []
    for entry in report.matched:
        points, test = entry.points, by_stopping.get((entry.arm, entry.against, entry.segment))
        lines.append(
            [
                f"{entry.arm} − {entry.against}",
                entry.segment,
                str(len(points)),
                "" if test is None else f"{test:+.4f}",
                ", ".join(str(steps) for steps in sorted({point.steps for point in points})),
                f"{fmean(p.value for p in points):.4f} − {fmean(p.reference for p in points):.4f}",
                f"{fmean(p.value - p.reference for p in points):+.4f}",
                f"{fmean(p.best - p.best_reference for p in points):+.4f}",
                " ".join(f"{p.best - p.best_reference:+.4f}" for p in points),
            ]
        )
    note = (
        f"Early stopping: difference in test {label(key)}. Matched: validation {label(report.matched_metric)} of the "
        "generator at the largest number of steps that both reached; best: the best validation up to there, which "
        "early stopping would have kept. Neighbours' votes are added after training, so no curve shows them."
    )
    columns = ["arms", "segment", "seeds", "early stopping", "steps", "matched: values", "matched: difference"]
    columns += ["best up to there", "best by seed"]
    return Sheet("By early stopping and at matched steps", note, columns, lines)


def _exposure(report: GridReport) -> Sheet:
    found = {(row.model, row.metric): row for row in report.exposure_rows}
    lines = [
        [arm, *(f"{(row := found[arm, m]).value:.4f} [{row.low:.4f}, {row.high:.4f}]" for m in USER_METRICS)]
        for arm in dict.fromkeys(row.model for row in report.exposure_rows)
    ]
    note = (
        "Share of right codes after the first position: after true codes, after the generator's own, and the gap "
        "between both. Votes are mixed in behind the generator and have none. Interval over seeds and users."
    )
    return Sheet("Exposure bias", note, ["arm", *USER_METRICS], lines)


def _exposure_differences(report: GridReport) -> Sheet:
    found = {(d.model, d.against, d.metric): d for d in report.exposure}
    lines = []
    for model, against in dict.fromkeys((d.model, d.against) for d in report.exposure):
        mine = [found[model, against, metric] for metric in USER_METRICS]
        seeds = str(len(mine[0].seeds))
        lines.append([f"{model} − {against}", seeds, *(f"{d.difference:+.4f} {_signed(d.by_seeds)}" for d in mine)])
    note = "Paired bootstrap over seeds and users; a gap that closes is below zero."
    return Sheet("Exposure bias between arms", note, ["arms", "seeds", *USER_METRICS], lines)


def _training(report: GridReport) -> Sheet:
    """What the trainings took, and whether early stopping ended them."""
    lines = []
    for arm in dict.fromkeys(cell.arm for cell in report.cells):
        told = [cell.training for cell in report.cells if cell.arm == arm and cell.training]
        if told:
            ended = [str(each.get("stopped", "?")) for each in told]
            numbers = ([each[name] for each in told if name in each] for name in ("steps", "best_step"))
            seconds = [each["training_seconds"] for each in told if "training_seconds" in each]
            lines.append(
                [
                    arm,
                    str(len(told)),
                    *(" ".join(map(str, values)) for values in numbers),
                    f"{fmean(seconds) / 60:.1f}" if seconds else "",
                    ", ".join(f"{word} {ended.count(word)}" for word in dict.fromkeys(ended)),
                ]
            )
    note = (
        "The host's training in each seed, before any fine-tuning. What did not end by patience was still allowed to "
        "improve: raise training.epochs."
    )
    return Sheet("Training", note, ["arm", "seeds", "steps", "best step", "minutes", "ended by"], lines)


def _cells(report: GridReport) -> Sheet:
    """Only what is missing or failed; a complete grid has no such table."""
    lines = [[cell.arm, str(cell.seed), cell.state, cell.error] for cell in report.cells if cell.state != "done"]
    note = f"{sum(cell.state == 'done' for cell in report.cells)} of {len(report.cells)} cells are done."
    return Sheet("Not there", note, ["arm", "seed", "state", "error"], lines)


def _percent(report: GridReport) -> str:
    return f"{100 * report.confidence:g}%"


def _signed(bounds: tuple[float, float], how: str = ".4f") -> str:
    return f"[{bounds[0]:+{how}}, {bounds[1]:+{how}}]"


def _markdown(report: GridReport, shown: Sequence[Sheet]) -> str:
    parts = [f"# {report.name}", report.about, f"    {report.command}"]
    for sheet in shown:
        lines = [sheet.columns, ["---"] + ["---:"] * (len(sheet.columns) - 1), *sheet.lines]
        rows = [
            "| " + " | ".join(text.replace("|", "\\|").replace("\n", " ") for text in line) + " |" for line in lines
        ]
        parts += [f"## {sheet.title}", sheet.note, "\n".join(rows)]
    return "\n\n".join(part for part in parts if part) + "\n"
