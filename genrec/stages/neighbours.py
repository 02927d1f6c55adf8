"""The stages around neighbours: item-kNN, content-kNN and the linear model, tuned once for all, and `finetune`.

`finetune` first teaches the decoder to attend to retrieved users (genrec/stages/memory.py), then learns the gate that
weighs their votes; each only if the settings ask for it.
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from genrec.config import ContentKNNSettings, ItemKNNSettings, LinearSettings
from genrec.stages.memory import fine_tune_decoder
from genrec.stages.stage import Context, Outcome
from genrec.stages.training import WEIGHTS

if TYPE_CHECKING:
    from genrec.data.interactions import Interactions
    from genrec.models.item_knn import ItemKNN

Neighbourly = TypeVar("Neighbourly", ItemKNNSettings, ContentKNNSettings, LinearSettings)

logger = logging.getLogger(__name__)

TRIALS, REPORT = "trials.json", "gate.json"


def item_knn(context: Context) -> Outcome:
    """Count co-occurrences, with settings tuned on validation targets if they say so."""
    from genrec.data.load import load_interactions
    from genrec.evaluation.tuning import ITEM_KNN_GRID
    from genrec.genplugin.augmented import ITEM_KNN
    from genrec.models.item_knn import ItemKNN

    interactions = load_interactions(context.inputs["prepare"])
    fit = partial(ItemKNN.fit, interactions)
    return _fitted(context, ITEM_KNN, context.settings.baselines.item_knn, ITEM_KNN_GRID, fit, interactions)


def content_knn(context: Context) -> Outcome:
    """Each item's nearest by its text, with settings tuned on validation targets if they say so."""
    from genrec.data.load import load_interactions
    from genrec.evaluation.tuning import CONTENT_KNN_GRID
    from genrec.genplugin.augmented import CONTENT_KNN
    from genrec.retrieval.content_knn import by_content, nearest_items
    from genrec.tokenizer.spaces import load_text_vectors

    start, text_NE = context.settings.baselines.content_knn, load_text_vectors(context.inputs["tokenize"]).numpy()
    fit = partial(by_content, nearest_items(text_NE, start.neighbours, context.settings.retrieval))
    interactions = load_interactions(context.inputs["prepare"])
    return _fitted(context, CONTENT_KNN, start, CONTENT_KNN_GRID, fit, interactions)


def linear(context: Context) -> Outcome:
    """Solve the linear item-item model, with settings tuned on validation targets if they say so."""
    from genrec.data.load import load_interactions
    from genrec.evaluation.tuning import LINEAR_GRID
    from genrec.genplugin.augmented import LINEAR
    from genrec.models.linear import linear_fit

    interactions = load_interactions(context.inputs["prepare"])
    fit = linear_fit(interactions, context.settings.data.max_history)
    return _fitted(context, LINEAR, context.settings.baselines.linear, LINEAR_GRID, fit, interactions)


def _fitted(
    context: Context,
    file: str,
    start: Neighbourly,
    grid: Mapping[str, Sequence[float]],
    fit: Callable[[Neighbourly], ItemKNN],
    interactions: Interactions,
) -> Outcome:
    """Fit with ``start``, or with the best of the grid where it says so, and keep the result in ``file``."""
    from genrec.evaluation.tuning import tune

    best, settings = start, context.settings
    if start.tune:
        # Always for ten items, so that a table of other lengths need not tune and learn again.
        evaluation = settings.evaluation.model_copy(update={"cutoffs": (10,)})
        best, trials = tune(start, grid, fit, interactions, evaluation, max_history=settings.data.max_history)
        told = [{"settings": trial.settings.model_dump(), "ndcg": trial.ndcg} for trial in trials]
        (context.out / TRIALS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
        logger.info("tuned in %d trials: %s", len(trials), best)
    fit(best).save(context.out / file)
    return Outcome(metrics={"settings": best.model_dump()})


def finetune(context: Context) -> Outcome:
    """Fine-tune the decoder for its memory of users (`plugin.memory`), learn the gate of votes (`plugin.retrieval`).

    What was learnt is kept with all that serving needs beside the host; with both off there is nothing to do.
    """
    plugin, sid_version = context.settings.plugin, context.manifests["tokenize"].sid_version
    told: dict[str, Any] = {"sources": []}
    memory: dict[str, Any] = {}
    if plugin.memory.finetune:
        memory = {"memory": fine_tune_decoder(context)}
    if plugin.retrieval or memory:
        told |= _keep_neighbours(context)
    (context.out / REPORT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return Outcome(metrics=told | memory, sid_version=sid_version)


def tuned_host(context: Context, finetuned: Path) -> Any:
    """The host as the last training left it: fine-tuned where ``finetuned`` holds weights, else pretrained."""
    from genrec.genplugin.memory import load_reader
    from genrec.models.registry import build_backbone
    from genrec.tokenizer.sid_table import SidTable
    from genrec.training.checkpoint import restore_weights
    from genrec.training.strategies import default_device

    settings, tuned = context.settings, finetuned / WEIGHTS
    host = build_backbone(settings.model, SidTable.load(context.inputs["tokenize"]))
    restore_weights(host, tuned if tuned.is_file() else context.inputs["pretrain"] / WEIGHTS)
    return load_reader(host.to(default_device()).eval(), settings, finetuned)


def _keep_neighbours(context: Context) -> dict[str, Any]:
    from genrec.data.load import load_catalog, load_interactions
    from genrec.genplugin.augmented import COUNTED, SASREC, assemble, files_needed
    from genrec.genplugin.gate_learning import learn_gate
    from genrec.genplugin.memory import reads_users

    settings = context.settings
    if not (settings.plugin.retrieval or reads_users(settings)):
        return {}
    interactions, catalog = load_interactions(context.inputs["prepare"]), load_catalog(context.inputs["prepare"])
    host = tuned_host(context, context.out)
    # First the files, then the system from them: what is learnt for is what will be served.
    made = {file: context.inputs[stage] / file for stage, file in COUNTED.items()}
    made[SASREC] = context.inputs["sasrec"] / WEIGHTS
    for name in files_needed(settings):
        shutil.copyfile(made[name], context.out / name)
    augmented = assemble(host, interactions, catalog.texts, settings, context.out)
    told = {} if augmented.gate is None else learn_gate(augmented, host, interactions, settings)
    augmented.save(context.out, host.sid_table.version)
    return told
