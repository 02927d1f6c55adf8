"""The chain of stages: prepare -> tokenize, item-knn, linear, sasrec -> content-knn, pretrain -> finetune -> evaluate
-> bundle.

What stands under ``ignores`` decides how fast, where or how visibly a result is made, not which. The
strategy and the number of workers do count: their random streams differ, so do the weights, and a
checkpoint of one strategy is not continued by another.
"""

from __future__ import annotations

from pathlib import Path

from genrec.config import Settings
from genrec.stages import evaluation, neighbours, steps, training
from genrec.stages.stage import Stage


def raw_sources(settings: Settings) -> dict[str, Path]:
    """The raw data files, by place in reading order and name."""
    from genrec.data.prepare import raw_files

    return {f"{place:05d} {path.name}": path for place, path in enumerate(raw_files(settings.data))}


def tokenizer_sources(settings: Settings) -> dict[str, Path]:
    """Published codes and a text encoder's own files, where the settings name them."""
    sources: dict[str, Path] = {}
    if settings.tokenizer.published is not None:
        sources["published"] = Path(settings.tokenizer.published)
    for name, table in settings.tokenizer.tables.items():
        if table.published is not None:
            sources[f"published {name}"] = Path(table.published)
    if settings.encoder.path is not None:
        root = Path(settings.encoder.path)
        sources |= {path.relative_to(root).as_posix(): path for path in root.rglob("*") if path.is_file()}
    return sources


def tokenizer_inputs(settings: Settings) -> tuple[str, ...]:
    """LETTER's codes follow SASRec's item vectors, and a table may be made of them; else nobody waits."""
    tables = (settings.tokenizer, *settings.tokenizer.tables.values())
    asked = any(table.kind == "letter" or table.embeddings != "text" for table in tables)
    return ("sasrec",) if asked else ()


def unread_codes(settings: Settings) -> tuple[str, ...]:
    """Leaves of the tokenizer that the kinds in use do not read."""
    further = {f"tokenizer.tables.{name}": table for name, table in settings.tokenizer.tables.items()}
    tables = {"tokenizer": settings.tokenizer, **further}
    return tuple(f"{name}.published_first_id" for name, table in tables.items() if table.kind != "published")


def unread_model(settings: Settings) -> tuple[str, ...]:
    """Leaves of the model that the host does not read."""
    return () if settings.model.backbone == "mql4grec" else ("model.tasks",)


TRAINING_MANNER = (
    "training.cpus_per_worker",
    "training.gpus_per_worker",
    "training.max_failures",
    "training.wait_minutes",
    "training.resize_check_s",
    "training.checkpoint_every",
    "training.checkpoint_steps",
    "training.upload",
    "training.log_every",
    "training.tensorboard",
    "training.mlflow_uri",
    "training.deepspeed.nvme_path",
)
"""Leaves of the train loop that change its pace and its logs, not its weights."""

HOST_RECIPE = (
    "training.batch_size",
    "training.micro_batch",
    "training.epochs",
    "training.max_steps",
    "training.max_minutes",
    "training.learning_rate",
    "training.weight_decay",
    "training.patience",
    "training.losses",
    "training.deepspeed",
)
"""Leaves of the train loop that SASRec does not read or has for itself: tuning the host never trains it again."""

RETRIEVAL_MANNER = (
    "retrieval.train_positions",
    "retrieval.block_queries",
    "retrieval.shard_users",
    "retrieval.workers",
)
"""Leaves of the retrieval that only its caches read."""

GATE = ("plugin.retrieval", "plugin.gate", "plugin.memory")
"""Leaves of the plug-in that come into play after the host is trained."""

STAGES: dict[str, Stage] = {
    stage.name: stage
    for stage in (
        Stage(
            name="prepare",
            about="raw interactions to catalog, sequences and split",
            make=steps.prepare,
            depends=("data",),
            ignores=("data.path", "data.feedback", "data.max_history"),
            sources=raw_sources,
            spread=True,
        ),
        Stage(
            name="tokenize",
            about="item texts to embeddings to semantic IDs",
            make=steps.tokenize,
            depends=("encoder", "tokenizer"),
            ignores=("encoder.path", "encoder.batch_size", "tokenizer.published", "tokenizer.tables.*.published"),
            unread=unread_codes,
            inputs=("prepare",),
            further_inputs=tokenizer_inputs,
            sources=tokenizer_sources,
            spread=True,
        ),
        Stage(
            name="item-knn",
            about="tune and count the co-occurrence baseline",
            make=neighbours.item_knn,
            depends=("baselines.item_knn", "data.max_history", "evaluation.seen_items"),
            inputs=("prepare",),
        ),
        Stage(
            name="linear",
            about="tune and solve the linear item-item baseline",
            make=neighbours.linear,
            depends=("baselines.linear", "data.max_history", "evaluation.seen_items"),
            inputs=("prepare",),
        ),
        Stage(
            name="sasrec",
            about="train the dense baseline",
            make=training.sasrec,
            depends=("baselines.sasrec", "training", "data.max_history", "evaluation.seen_items", "run.seed"),
            ignores=TRAINING_MANNER + HOST_RECIPE,
            inputs=("prepare",),
            resumable=True,
            spread=True,
        ),
        Stage(
            name="content-knn",
            about="find each item's nearest by its text, and tune how they count",
            make=neighbours.content_knn,
            depends=(
                *("encoder", "baselines.content_knn", "data.max_history", "evaluation.seen_items"),
                *("retrieval.ivf_from", "retrieval.ivf_probes"),
            ),
            ignores=("encoder.path", "encoder.batch_size"),
            inputs=("prepare", "tokenize"),
        ),
        Stage(
            name="pretrain",
            about="train the generative model",
            make=training.pretrain,
            # Validation, which chooses the weights, searches and filters as the evaluation does.
            depends=(
                *("model", "plugin", "training", "data.max_history", "run.seed"),
                *("evaluation.seen_items", "evaluation.beams"),
            ),
            ignores=TRAINING_MANNER + GATE,
            unread=unread_model,
            inputs=("prepare", "tokenize"),
            resumable=True,
            spread=True,
        ),
        Stage(
            name="finetune",
            about="learn to attend to neighbours, and how far to trust their votes",
            make=neighbours.finetune,
            # SASRec's shape is here for serving, which builds it from the bundle's settings; the loop and the beams,
            # on which `pretrain` depends anyway, for the fine-tuning of the decoder.
            depends=(
                *GATE,
                *("retrieval", "baselines.sasrec", "data.max_history", "run.seed"),
                *("training", "evaluation.seen_items", "evaluation.beams"),
            ),
            ignores=RETRIEVAL_MANNER + TRAINING_MANNER,
            inputs=("prepare", "tokenize", "item-knn", "linear", "content-knn", "sasrec", "pretrain"),
            resumable=True,
        ),
        Stage(
            name="evaluate",
            about="rank the whole catalog with every model",
            make=evaluation.evaluate,
            depends=("evaluation", "retrieval", "data.max_history"),
            ignores=("evaluation.batch_size", *RETRIEVAL_MANNER),
            inputs=("prepare", "tokenize", "item-knn", "linear", "content-knn", "sasrec", "pretrain", "finetune"),
        ),
        Stage(
            name="bundle",
            about="gather what serving loads",
            make=steps.bundle,
            depends=("bundle",),
            ignores=("bundle.name",),
            inputs=("prepare", "tokenize", "pretrain", "finetune", "evaluate"),
        ),
    )
}
"""By name, inputs before the stages that read them; ``run`` makes them in this order."""
