"""The two training stages: what to train is built from artifacts, here or inside each Ray worker."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.config import Settings, TokenizerSettings, TrainingSettings
from genrec.config.sections import FIRST_TABLE
from genrec.stages.stage import Context, Outcome

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from genrec.data.interactions import Interactions
    from genrec.models.sasrec import SasRec
    from genrec.retrieval.cache_apart import CacheApart
    from genrec.training.ray_train import TaskFactory
    from genrec.training.task import Task

WEIGHTS = "weights.safetensors"
PLUGIN_WEIGHTS = "plugin.safetensors"
KEPT = ("metrics.jsonl", "workers.jsonl", "tensorboard", "mlflow_run.txt")
"""What of a run's directory goes into the artifact beside the best weights; checkpoints do not."""


@dataclass(frozen=True)
class HostFactory:
    """Builds the host's task; picklable, so that Ray workers build their own.

    Attributes:
        settings: the resolved tree.
        prepared, tokenized: artifacts of these stages.
    """

    settings: Settings
    prepared: Path
    tokenized: Path

    def __call__(self) -> Task:
        """The task with fresh weights, the same on every worker."""
        import torch

        from genrec.data.load import load_interactions
        from genrec.models.registry import build_backbone
        from genrec.tokenizer.sid_table import SidTable
        from genrec.training.next_item import HostTask

        settings = self.settings
        torch.manual_seed(settings.run.seed)
        table = SidTable.load(self.tokenized)
        host = build_backbone(settings.model, table)
        if settings.model.code_embeddings == "centroids":
            from genrec.tokenizer.centroids import code_centroids

            spaces = load_spaces(self.tokenized, settings.tokenizer)
            host.begin_at(torch.from_numpy(code_centroids(table, spaces, host.d_model, seed=settings.run.seed)))
        data, causal = load_interactions(self.prepared, training=True), settings.model.encoder_attention == "causal"
        common = (data, settings.training, settings.evaluation, settings.run.seed, settings.data.max_history)
        if not settings.plugin.language:
            return HostTask(host, *common, causal=causal)
        from genrec.genplugin.plugin import GenPlugin
        from genrec.tokenizer.spaces import load_text_vectors
        from genrec.training.plugin_task import PluginTask

        plugin = GenPlugin(host, settings.model, settings.plugin, load_text_vectors(self.tokenized))
        return PluginTask(plugin, settings.plugin, *common, causal=causal)


@dataclass(frozen=True)
class SasRecFactory:
    """Builds SASRec's task.

    Attributes:
        settings: the resolved tree.
        training: SASRec's own settings of the loop.
        prepared: the prepared data set.
    """

    settings: Settings
    training: TrainingSettings
    prepared: Path

    def __call__(self) -> Task:
        """The task with fresh weights, the same on every worker."""
        import torch

        from genrec.data.load import load_interactions
        from genrec.training.next_item import SasRecTask

        settings, data = self.settings, load_interactions(self.prepared, training=True)
        torch.manual_seed(settings.run.seed)
        model = build_sasrec(settings, data)
        return SasRecTask(model, data, self.training, settings.evaluation, settings.run.seed, settings.data.max_history)


def build_sasrec(settings: Settings, data: Interactions) -> SasRec:
    """The baseline with fresh weights."""
    from genrec.models.sasrec import SasRec

    return SasRec(settings.baselines.sasrec, data.n_items, settings.data.max_history)


def pretrain(context: Context) -> Outcome:
    """Train the host, with the plug-in if the settings attach it.

    The artifact's weights are the bare host's either way; the plug-in's own lie beside them.
    """
    settings, manifest = context.settings, context.manifests["tokenize"]
    factory = HostFactory(settings, context.inputs["prepare"].resolve(), context.inputs["tokenize"].resolve())
    outcome = train_task(context, factory, settings.training, manifest.sid_version)
    if settings.plugin.language:
        from genrec.genplugin.plugin import split_weights

        split_weights(context.out / WEIGHTS, context.out / PLUGIN_WEIGHTS)
    return outcome


def sasrec(context: Context) -> Outcome:
    """Train SASRec by its own recipe; limits on the host's steps and minutes are not SASRec's."""
    from genrec.data.load import load_interactions
    from genrec.training.next_item import sasrec_training

    settings, prepared = context.settings, context.inputs["prepare"].resolve()
    spread = settings.training.model_copy(update={"max_steps": None, "max_minutes": None})
    training = sasrec_training(settings.baselines.sasrec, spread, load_interactions(prepared, training=True))
    return train_task(context, SasRecFactory(settings, training, prepared), training, None)


def train_task(
    context: Context,
    factory: TaskFactory,
    training: TrainingSettings,
    sid_version: str | None,
    cache: CacheApart | None = None,
) -> Outcome:
    """Train in the scratch directory and bring the best weights and the curves into the artifact.

    Args:
        context: of the stage.
        factory: builds the task.
        training: settings of the loop.
        sid_version: of the task.
        cache: a retrieval cache that the task reads and that nodes must fetch.
    """
    seed, work = context.settings.run.seed, context.scratch.resolve()
    if training.strategy == "single":
        from genrec.training.loop import fit
        from genrec.training.strategies import SingleStrategy

        result = fit(factory(), training, seed, work, SingleStrategy(), reporter=context.watch.report)
    else:
        from genrec.training.ray_train import fit_on_ray

        callbacks, apart = context.watch.callbacks, None
        if not context.store.shared:
            from genrec.training.apart import Apart

            apart = Apart(context.store, context.read(), cache)
        result = fit_on_ray(factory, training, seed, work, sid_version=sid_version, callbacks=callbacks, apart=apart)
    shutil.copyfile(result.weights, context.out / WEIGHTS)
    for name in KEPT:
        if (work / name).is_dir():
            shutil.copytree(work / name, context.out / name)
        elif (work / name).is_file():
            shutil.copyfile(work / name, context.out / name)
    metrics: dict[str, Any] = {
        "best_metric": result.best_metric,
        "best_step": result.best_step,
        "steps": result.steps,
        "training_seconds": result.seconds,
        "stopped": result.stopped,
    }
    return Outcome(metrics=metrics, sid_version=sid_version)


def load_spaces(directory: Path, settings: TokenizerSettings) -> dict[str, NDArray[np.float32]]:
    """float32 [N, E] by name of a table, what its quantizer read of each item of a tokenize artifact."""
    from genrec.tokenizer.spaces import item_space, load_vectors

    text_NE, vectors_NC = load_vectors(directory)
    tables = {FIRST_TABLE: settings, **settings.tables}
    return {name: item_space(table.embeddings, text_NE, vectors_NC) for name, table in tables.items()}
