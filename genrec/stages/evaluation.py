"""The evaluate stage: every model of the table ranks the whole catalog for every test user."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.bundle import AUGMENTED, MEMORY
from genrec.config import RetrievalSettings, Settings
from genrec.errors import DataError
from genrec.stages.neighbours import tuned_host
from genrec.stages.stage import Context, Outcome
from genrec.stages.training import WEIGHTS, build_sasrec

if TYPE_CHECKING:
    from genrec.data.interactions import Interactions
    from genrec.evaluation.exposure import Exposure
    from genrec.evaluation.frame import EvalFrame
    from genrec.evaluation.metrics import MetricRow, PairedDifference
    from genrec.evaluation.rank import GenerateFn
    from genrec.genplugin.augmented import AugmentedGenerator
    from genrec.models.contracts import Backbone, Batch
    from genrec.models.dense import DenseScorer
    from genrec.retrieval.user_knn import UserKNN
    from genrec.tokenizer.sid_table import SidTable

logger = logging.getLogger(__name__)

FRAMES, METRICS, REPORT = "frames", "metrics.json", "report.html"
EXPOSURE, EXPOSURE_USERS = "exposure.json", "exposure.parquet"
POPULARITY, ITEM_KNN, CONTENT_KNN, LINEAR, SASREC = "popularity", "item-knn", "content-knn", "linear", "sasrec"
USER_KNN, BLEND = "user-knn", "item-knn+user-knn"
BASELINES = (POPULARITY, ITEM_KNN, CONTENT_KNN, LINEAR, USER_KNN, BLEND, SASREC)
USER_KNN_WEIGHT = 0.5
CLAIM = "ndcg@10"


def evaluate(context: Context) -> Outcome:
    """Frames of all models, metrics.json and report.html."""
    from genrec.data.load import load_interactions
    from genrec.evaluation.exposure import write_exposure, write_users
    from genrec.evaluation.metrics import evaluate_frames, write_metrics
    from genrec.evaluation.rank import save_frame
    from genrec.evaluation.report import write_report
    from genrec.tokenizer.sid_table import SidTable
    from genrec.training.curves import read_curves

    settings, host = context.settings, context.settings.model.backbone
    interactions = load_interactions(context.inputs["prepare"])
    table = SidTable.load(context.inputs["tokenize"])
    frames: dict[str, list[EvalFrame]] = {}
    rows: list[MetricRow] = []
    (context.out / FRAMES).mkdir()
    for frame in rank_all(context, interactions, table):
        frames[frame.model] = [frame]
        save_frame(frame, context.out / FRAMES / f"{frame.model}.parquet")
        rows += evaluate_frames([frame], dataset_name(settings), settings.evaluation)
    write_metrics(context.out / METRICS, rows)
    exposure = measured_exposure(context, interactions, table) if settings.evaluation.exposure else []
    if exposure:
        write_exposure(context.out / EXPOSURE, exposure)
        write_users(context.out / EXPOSURE_USERS, exposure)
    curves = {SASREC: read_curves(context.inputs["sasrec"]), host: read_curves(context.inputs["pretrain"])}
    if settings.plugin.memory.finetune:
        curves[host + MEMORY] = read_curves(context.inputs["finetune"])
    write_report(
        context.out / REPORT,
        rows=rows,
        frames=frames,
        interactions=interactions,
        settings=settings,
        sid_table=table,
        curves=curves,
        differences=differences(frames, host, settings),
        exposure=exposure,
        commands=[f"python -m genrec run --config {settings.run.directory}/{settings.run.name}/settings.yaml"],
    )
    headline = {row.model: round(row.value, 6) for row in rows if (row.segment, row.metric) == ("all", CLAIM)}
    gaps = {"exposure_gap": {entry.model: round(entry.gap, 6) for entry in exposure}} if exposure else {}
    return Outcome(metrics={CLAIM: headline, **gaps}, sid_version=table.version)


def rank_all(context: Context, interactions: Interactions, table: SidTable) -> Iterator[EvalFrame]:
    """A frame of test users for each model: counts first, then SASRec, the host, and the host with neighbours."""
    from genrec.data.load import load_catalog
    from genrec.decoding import recommend
    from genrec.evaluation.rank import rank_dense, rank_generative
    from genrec.genplugin.augmented import COUNTED
    from genrec.models.dense import Blend
    from genrec.models.item_knn import ItemKNN
    from genrec.models.popularity import Popularity
    from genrec.models.sasrec import SasRecScorer
    from genrec.training.checkpoint import restore_weights
    from genrec.training.strategies import default_device

    settings, device = context.settings, default_device()
    seed, length = settings.run.seed, settings.data.max_history
    baseline = build_sasrec(settings, interactions)
    restore_weights(baseline, context.inputs["sasrec"] / WEIGHTS)
    counted = {name: ItemKNN.load(context.inputs[name] / file) for name, file in COUNTED.items()}
    scorers: dict[str, tuple[DenseScorer, int | None]] = {
        POPULARITY: (Popularity.fit(interactions), None),
        **{name: (scorer, None) for name, scorer in counted.items()},
    }
    catalog = load_catalog(context.inputs["prepare"])
    user_knn = _user_knn(interactions, catalog.texts, settings.retrieval)
    if user_knn is not None:
        scorers[USER_KNN] = (user_knn, None)
        scorers[BLEND] = (Blend([(counted[ITEM_KNN], 1.0), (user_knn, USER_KNN_WEIGHT)]), None)
    scorers[SASREC] = (SasRecScorer(baseline.to(device)), seed)
    for name, (scorer, trained_with) in scorers.items():
        yield rank_dense(
            scorer, interactions, "test", settings.evaluation, max_history=length, model=name, seed=trained_with
        )
    calls: dict[str, tuple[Any, GenerateFn]] = {}
    for name, backbone, augmented in generators(context, interactions, table):
        calls[name] = (backbone, recommend if augmented is None else augmented.generate)
    for name, (backbone, call) in calls.items():
        yield rank_generative(
            call,
            backbone,
            interactions,
            "test",
            settings.evaluation,
            max_history=length,
            model=name,
            seed=seed,
            device=device,
        )


def generators(
    context: Context, interactions: Interactions, table: SidTable
) -> Iterator[tuple[str, Any, AugmentedGenerator | None]]:
    """Name, network and what stands beside it: the host, fine-tuned with its memory of users, and with their votes."""
    from genrec.data.load import load_catalog
    from genrec.genplugin.augmented import load_augmented
    from genrec.models.registry import build_backbone
    from genrec.training.checkpoint import restore_weights
    from genrec.training.strategies import default_device

    settings, finetuned = context.settings, context.inputs["finetune"]
    host = build_backbone(settings.model, table)
    restore_weights(host, context.inputs["pretrain"] / WEIGHTS)
    name: str = settings.model.backbone
    tuned = host.to(default_device()).eval()
    yield name, tuned, None
    if settings.plugin.memory.finetune:
        name, tuned = name + MEMORY, tuned_host(context, finetuned)
    texts = load_catalog(context.inputs["prepare"]).texts
    augmented = load_augmented(tuned, interactions, texts, settings, finetuned)
    if settings.plugin.memory.finetune:
        reads = augmented is not None and augmented.memory is not None
        yield name, tuned, replace(augmented, gate=None) if augmented is not None and reads else None
    if augmented is not None and augmented.gate is not None:
        yield name + AUGMENTED, tuned, augmented


def measured_exposure(context: Context, interactions: Interactions, table: SidTable) -> list[Exposure]:
    """The exposure bias of the generators themselves; votes are mixed in behind them."""
    from genrec.evaluation.exposure_gauge import measure_exposure
    from genrec.training.strategies import default_device

    settings, measured = context.settings, []
    for name, backbone, augmented in generators(context, interactions, table):
        if name.endswith(AUGMENTED):
            continue
        measured.append(
            measure_exposure(
                backbone,
                interactions,
                "test",
                settings.evaluation,
                max_history=settings.data.max_history,
                model=name,
                prepare=None if augmented is None else partial(_with_users, augmented, backbone),
                device=default_device(),
            )
        )
    return measured


def _with_users(augmented: AugmentedGenerator, backbone: Backbone, batch: Batch) -> Batch:
    """The batch with the memory of retrieved users."""
    return augmented.look_up(backbone, batch)[0]


def _user_knn(interactions: Interactions, texts: Sequence[str], settings: RetrievalSettings) -> UserKNN | None:
    """BM25 user-kNN; none where the catalog's texts hold no words."""
    from genrec.retrieval.user_knn import UserKNN

    try:
        return UserKNN.fit(interactions, texts, settings)
    except DataError as error:
        logger.warning("no rows of %s and %s: %s", USER_KNN, BLEND, error)
        return None


def differences(
    frames: dict[str, list[EvalFrame]], host: str, settings: Settings
) -> list[tuple[str, str, PairedDifference]]:
    """The host, and the host with neighbours, against each other model, over all users and on the tail."""
    from genrec.evaluation.metrics import paired_difference

    cutoff = 10 if max(settings.evaluation.cutoffs) >= 10 else max(settings.evaluation.cutoffs)
    segments = ["all"] + (["tail"] if frames[host][0].segments["tail"].any() else [])
    ours = [host + added for added in (MEMORY + AUGMENTED, MEMORY, AUGMENTED, "") if host + added in frames]
    return [
        (own, other, paired_difference(frames[own], runs, f"ndcg@{cutoff}", segment, settings.evaluation))
        for place, own in enumerate(ours)
        for other, runs in frames.items()
        if other not in ours[: place + 1]
        for segment in segments
    ]


def dataset_name(settings: Settings) -> str:
    """What a table calls the data set: the raw folder's or file's name, else the reader's."""
    return settings.data.reader if settings.data.path is None else Path(settings.data.path).stem
