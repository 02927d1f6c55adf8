"""One trial, inside a Ray process: the stage that every other run makes, watched epoch by epoch, then measured.

What it makes is an artifact of the shared store, so a trial that was killed goes on after its last checkpoint and
one that was made before answers at once. With strategy `single` it trains in this very process; with `ddp` and
`deepspeed` it is the driver of a Ray Train run and reserves nothing itself.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.config import Settings

if TYPE_CHECKING:
    from genrec.evaluation.frame import EvalFrame
    from genrec.stages import Pipeline, Watch

CUTOFF = 10
MEASURES = tuple(f"{metric}@{CUTOFF}" for metric in ("ndcg", "hit"))
SEGMENTS = ("", "head/", "tail/")
FINISHED, HISTORY = "finished", "history"
EPOCH = "epoch"


def run_trial(config: dict[str, Any]) -> None:
    """Make the artifact, rank the validation users, report.

    Args:
        config: settings (the resolved tree as JSON), stage, frame (file for the ranked lists), directory (where
            relative paths of the settings begin).
    """
    import torch
    from ray import tune

    from genrec.evaluation.rank import save_frame
    from genrec.stages import Pipeline
    from genrec.training.curves import read_curves

    os.chdir(config["directory"])  # a Ray worker begins elsewhere
    settings = Settings.model_validate_json(config["settings"])
    torch.set_num_threads(max(1, int(settings.training.cpus_per_worker)))
    pipeline = Pipeline(settings, watch=_watch(settings), keep_folder=False)
    pipeline.ensure(config["stage"])
    pretrained = pipeline.ensure("pretrain")
    frame = validation_frame(pipeline, config["stage"])
    path = Path(config["frame"])
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    save_frame(frame, fresh)
    os.replace(fresh, path)
    history = epochs_of(read_curves(pretrained))
    tune.report({**measures(frame), EPOCH: history[-1][EPOCH], FINISHED: True, HISTORY: history})


def _watch(settings: Settings) -> Watch:
    from ray import tune

    from genrec.stages import Watch

    if settings.training.strategy == "single":
        return Watch(report=tune.report)
    from ray.tune.integration.ray_train import TuneReportCallback

    return Watch(callbacks=(TuneReportCallback(),))  # type: ignore[no-untyped-call]


def validation_frame(pipeline: Pipeline, stage: str) -> EvalFrame:
    """Ranked lists of all validation users: by the host, or by the host with its neighbours.

    The gate of the neighbours is learnt on validation targets too. It has few dozens of weights for hundreds of
    targets; what it favours, it favours in all trials.
    """
    from genrec.data.load import load_catalog, load_interactions
    from genrec.decoding import generate
    from genrec.evaluation.rank import GenerateFn, rank_generative
    from genrec.genplugin.augmented import load_augmented
    from genrec.models.registry import build_backbone
    from genrec.stages.training import WEIGHTS
    from genrec.tokenizer.sid_table import SidTable
    from genrec.training.checkpoint import restore_weights
    from genrec.training.strategies import default_device

    settings, device = pipeline.settings, default_device()
    prepared = pipeline.ensure("prepare")
    interactions = load_interactions(prepared)
    host = build_backbone(settings.model, SidTable.load(pipeline.ensure("tokenize")))
    restore_weights(host, pipeline.ensure("pretrain") / WEIGHTS)
    host.to(device).eval()
    call: GenerateFn = generate
    if stage == "finetune":
        texts = load_catalog(prepared).texts
        augmented = load_augmented(host, interactions, texts, settings, pipeline.ensure("finetune"))
        assert augmented is not None, "a sweep of this stage attaches the neighbours"
        call = augmented.generate
    return rank_generative(
        call,
        host,
        interactions,
        "valid",
        settings.evaluation,
        max_history=settings.data.max_history,
        model=settings.model.backbone,
        seed=settings.run.seed,
        device=device,
    )


def measures(frame: EvalFrame) -> dict[str, float]:
    """The frame's metrics under the names that the training's validation gives them; no entry for an empty segment."""
    from genrec.evaluation.metrics import gains

    found = {}
    for segment in SEGMENTS:
        member = frame.segments[segment.rstrip("/")] if segment else slice(None)
        for metric in MEASURES:
            values = gains(frame, metric)[member]
            if len(values):
                found[segment + metric] = float(values.mean())
    return found


def epochs_of(rows: list[dict[str, Any]]) -> list[dict[str, float]]:
    """The validations among the rows of a metrics.jsonl, as a trial reports them."""
    prefix, found = "validation/", {}
    for row in rows:
        values = {name.removeprefix(prefix): value for name, value in row.items() if name.startswith(prefix)}
        if values:  # a run that ends within an epoch validates there once more
            found[row["epoch"]] = {EPOCH: row["epoch"], "step": row["step"], **values}
    return list(found.values())
