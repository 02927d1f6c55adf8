"""From the artifacts of a grid's cells to its report: rows, differences, and curves at matched steps."""

from __future__ import annotations

import os
import platform
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.bundle import served_model
from genrec.config import Cell, Settings
from genrec.evaluation.exposure import USER_METRICS, UserAccuracy, read_users
from genrec.evaluation.grid_report import CellRecord, GridReport, Matched
from genrec.evaluation.matched import joined, matched_steps, validation_curve
from genrec.evaluation.significance import Bootstrap, Difference
from genrec.evaluation.tables import SEGMENTS
from genrec.stages.evaluation import BASELINES, EXPOSURE_USERS, FRAMES, SASREC, dataset_name
from genrec.stages.grid import GridRun
from genrec.training.curves import read_curves

if TYPE_CHECKING:
    from genrec.evaluation.frame import EvalFrame

TRAININGS = ("pretrain", "finetune")
"""Stages that train the arm's model, in order, if they leave curves."""
MATCHED_METRIC = "ndcg@10"
SHOWN = ("steps", "best_step", "training_seconds", "stopped", "best_metric")

Frames = dict[str, dict[int | None, "EvalFrame"]]


def grid_report(run: GridRun, command: str) -> GridReport:
    """Open every finished cell and put the tables together.

    Args:
        run: the grid; a finished cell whose artifact proves altered is noted as failed.
        command: what makes the grid again.
    """
    from genrec.evaluation.report import versions

    settings = run.cells[0].settings
    opened = {cell.name: path for cell in run.cells if run.done(cell) and (path := run.open(cell)) is not None}
    arms, baselines = _frames(run, opened)
    records = [_record(run, cell) for cell in run.cells]
    report = GridReport(
        name=run.name,
        about=run.grid.about,
        dataset=dataset_name(settings),
        command=command,
        control=run.grid.control,
        confidence=settings.evaluation.confidence,
        bootstrap_samples=settings.evaluation.bootstrap_samples,
        matched_metric=MATCHED_METRIC,
        versions=versions(),
        machine={"system": platform.system(), "processor": platform.machine(), "cpus": os.cpu_count()},
        cells=records,
    )
    if not arms:
        return report
    everyone = {**baselines, **arms}
    metrics = _metrics(settings)
    bootstrap = Bootstrap(
        {name: list(group.values()) for name, group in everyone.items()}, metrics, settings.evaluation
    )
    pairs = [(arm, other) for arm in arms for other in run.grid.against(arm) if bootstrap.comparable(arm, other)]
    segments = bootstrap.segments
    return replace(
        report,
        baselines=list(baselines),
        rows=[bootstrap.row(name, report.dataset, s, m) for name in everyone for s in segments for m in metrics],
        differences=[bootstrap.difference(a, b, s, m) for a, b in pairs for s in segments for m in metrics],
        against_baselines=_against_baselines(bootstrap, list(arms), list(baselines), metrics[-1]),
        matched=[entry for a, b in pairs for s in SEGMENTS if (entry := _matched(run, a, b, s)) is not None],
        **_exposure(run, opened, arms, pairs),
    )


def _metrics(settings: Settings) -> list[str]:
    cutoffs = settings.evaluation.cutoffs
    k = 10 if 10 in cutoffs else max(cutoffs)
    return [f"hit@{k}", f"ndcg@{k}"]


def _frames(run: GridRun, opened: Mapping[str, Path]) -> tuple[Frames, Frames]:
    """Frames of the arms and of the baselines, by name and seed."""
    from genrec.evaluation.rank import load_frame

    arms: Frames = {}
    baselines: Frames = {}
    controls = {cell.seed: cell for cell in run.cells if cell.arm == run.grid.control}
    for cell in sorted(run.cells, key=lambda cell: cell.arm != run.grid.control):
        path = opened.get(cell.name)
        if path is None:
            continue
        files = {file.stem: file for file in sorted((path / FRAMES).glob("*.parquet"))}
        spoken = load_frame(files[served_model(cell.settings.model.backbone, files)])
        arms.setdefault(cell.arm, {})[cell.seed] = replace(spoken, model=cell.arm, seed=cell.seed, scores=None)
        if _same_baselines(cell.settings, controls[cell.seed].settings):
            for name in BASELINES:
                seed = cell.seed if name == SASREC else None
                if name in files and seed not in baselines.get(name, {}):
                    frame = load_frame(files[name])
                    baselines.setdefault(name, {})[frame.seed] = replace(frame, scores=None)
    ordered = {arm: dict(sorted(arms[arm].items())) for arm in run.grid.arms if arm in arms}
    return ordered, {name: baselines[name] for name in BASELINES if name in baselines}


def _same_baselines(own: Settings, control: Settings) -> bool:
    """True if an arm's baselines are made as the control's are, so that either's rows may stand for them."""
    return (own.baselines, own.retrieval, own.data.max_history) == (
        control.baselines,
        control.retrieval,
        control.data.max_history,
    )


def _curve(run: GridRun, cell: Cell, segment: str) -> dict[int, float]:
    """The cell's validation curve over the users of a segment; empty where its trainings left none."""
    metric = MATCHED_METRIC if segment == "all" else f"{segment}/{MATCHED_METRIC}"
    pipeline = run.pipelines[cell.name]
    keys = [(stage, pipeline.plans[stage].key) for stage in TRAININGS if stage in pipeline.plans]
    rows = [read_curves(pipeline.store.path(*at)) for at in keys if pipeline.store.has(*at)]
    return joined([validation_curve(each, metric) for each in rows])


def _record(run: GridRun, cell: Cell) -> CellRecord:
    """The cell's record with what its training told, where that is finished."""
    record, pipeline = run.record(cell), run.pipelines[cell.name]
    plan = pipeline.plans.get("pretrain")
    if plan is None or not pipeline.store.has("pretrain", plan.key):
        return record
    told = pipeline.store.manifest("pretrain", plan.key).metrics
    return replace(record, training={name: told[name] for name in SHOWN if name in told})


def _exposure(run: GridRun, opened: Mapping[str, Path], arms: Frames, pairs: list[tuple[str, str]]) -> dict[str, Any]:
    """Rows and differences of the exposure bias, between the cells where it was measured; the votes have none."""
    found: dict[tuple[str, int | None], UserAccuracy] = {}
    for cell in run.cells:
        path = opened.get(cell.name)
        if path is not None and (path / EXPOSURE_USERS).exists():
            found[cell.arm, cell.seed] = list(read_users(path / EXPOSURE_USERS).values())[-1]
    frames = {arm: [f for seed, f in group.items() if (arm, seed) in found] for arm, group in arms.items()}
    frames = {arm: group for arm, group in frames.items() if group}
    if not frames:
        return {}
    settings = run.cells[0].settings
    bootstrap = Bootstrap(
        frames,
        USER_METRICS,
        settings.evaluation,
        lambda frame, metric: found[frame.model, frame.seed].gains(frame.users, metric),
    )
    pairs = [pair for pair in pairs if bootstrap.comparable(*pair)]
    return {
        "exposure_rows": [bootstrap.row(a, dataset_name(settings), "all", m) for a in frames for m in USER_METRICS],
        "exposure": [bootstrap.difference(a, b, "all", m) for a, b in pairs for m in USER_METRICS],
    }


def _against_baselines(bootstrap: Bootstrap, arms: list[str], baselines: list[str], metric: str) -> list[Difference]:
    return [
        bootstrap.difference(arm, baseline, segment, metric)
        for arm in arms
        for segment in bootstrap.segments
        for baseline in baselines
        if bootstrap.comparable(arm, baseline)
    ]


def _matched(run: GridRun, arm: str, against: str, segment: str) -> Matched | None:
    """Both arms' curves, seed by seed, where both cells are done."""
    cells = {(cell.arm, cell.seed): cell for cell in run.cells if run.record(cell).state == "done"}
    found = {}
    for seed in run.grid.seeds:
        ours, theirs = cells.get((arm, seed)), cells.get((against, seed))
        if ours is not None and theirs is not None:
            point = matched_steps(_curve(run, ours, segment), _curve(run, theirs, segment))
            if point is not None:
                found[seed] = point
    return Matched(arm, against, segment, list(found), list(found.values())) if found else None
