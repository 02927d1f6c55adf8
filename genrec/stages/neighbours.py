"""The stages around neighbours: item-kNN, tuned once for all who read it, and the gate that weighs all votes."""

from __future__ import annotations

import json
import logging
import shutil
from typing import Any

from genrec.stages.stage import Context, Outcome
from genrec.stages.training import WEIGHTS

logger = logging.getLogger(__name__)

ITEM_KNN_FILE, TRIALS, REPORT = "item_knn.safetensors", "trials.json", "gate.json"


def item_knn(context: Context) -> Outcome:
    """Count co-occurrences, with settings tuned on validation targets if they say so."""
    from genrec.data.load import load_interactions
    from genrec.evaluation.tuning import tune_item_knn
    from genrec.models.item_knn import ItemKNN

    settings, interactions = context.settings, load_interactions(context.inputs["prepare"])
    best = settings.baselines.item_knn
    if best.tune:
        # Always for ten items, so that a table of other lengths need not tune and learn again.
        evaluation = settings.evaluation.model_copy(update={"cutoffs": (10,)})
        best, trials = tune_item_knn(interactions, best, evaluation, max_history=settings.data.max_history)
        logger.info("item-kNN tuned in %d trials: %s", len(trials), best)
        told = [{"settings": trial.settings.model_dump(), "ndcg": trial.ndcg} for trial in trials]
        (context.out / TRIALS).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    ItemKNN.fit(interactions, best).save(context.out / ITEM_KNN_FILE)
    return Outcome(metrics={"settings": best.model_dump()})


def finetune(context: Context) -> Outcome:
    """Learn the gate between the host and its neighbours; keep it with all that serving needs beside the host.

    Does nothing if `plugin.retrieval` is off.
    """
    sid_version = context.manifests["tokenize"].sid_version
    told: dict[str, Any] = {"sources": []}
    if context.settings.plugin.retrieval:
        told = _finetune(context)
    (context.out / REPORT).write_text(json.dumps(told, indent=1) + "\n", encoding="utf-8")
    return Outcome(metrics=told, sid_version=sid_version)


def _finetune(context: Context) -> dict[str, Any]:
    from genrec.data.load import load_catalog, load_interactions
    from genrec.genplugin.augmented import ITEM_KNN, SASREC, assemble, files_needed
    from genrec.genplugin.gate_learning import learn_gate
    from genrec.models.registry import build_backbone
    from genrec.tokenizer.sid_table import SidTable
    from genrec.training.checkpoint import restore_weights
    from genrec.training.strategies import default_device

    settings, device = context.settings, default_device()
    interactions, catalog = load_interactions(context.inputs["prepare"]), load_catalog(context.inputs["prepare"])
    host = build_backbone(settings.model, SidTable.load(context.inputs["tokenize"]))
    restore_weights(host, context.inputs["pretrain"] / WEIGHTS)
    host.to(device).eval()
    # First the files, then the system from them: what is learnt for is what will be served.
    for name, made in (
        (SASREC, context.inputs["sasrec"] / WEIGHTS),
        (ITEM_KNN, context.inputs["item-knn"] / ITEM_KNN_FILE),
    ):
        if name in files_needed(settings):
            shutil.copyfile(made, context.out / name)
    augmented = assemble(host, interactions, catalog.texts, settings, context.out)
    told = learn_gate(augmented, host, interactions, settings)
    augmented.save(context.out, host.sid_table.version)
    return told
