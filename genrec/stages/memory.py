"""The first half of `finetune`: the decoder learns to attend to retrieved users (`plugin.memory`).

Neighbours of all training and validation moments are looked up once, into a retrieval cache that arms and seeds of one
pretrained host share: by Ray Data's actors where training runs on Ray, in this process else. Test moments
and requests are answered by the same Retriever, in batches (docs/decisions/0008).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from genrec.config import Settings, TrainingSettings
from genrec.stages.stage import Context
from genrec.stages.training import WEIGHTS, build_sasrec, train_task

if TYPE_CHECKING:
    from genrec.retrieval.cache_apart import CacheApart
    from genrec.retrieval.cache_table import CacheKey
    from genrec.retrieval.representations import HistoryEncoder
    from genrec.training.task import Task

CACHES = "neighbours"


@dataclass(frozen=True)
class Sources:
    """Artifacts that fine-tuning reads.

    Attributes:
        prepared, tokenized, pretrained, sasrec: directories of these stages.
    """

    prepared: Path
    tokenized: Path
    pretrained: Path
    sasrec: Path

    @classmethod
    def of(cls, context: Context) -> Sources:
        """Those of a stage's context."""
        names = ("prepare", "tokenize", "pretrain", "sasrec")
        return cls(*(context.inputs[name].resolve() for name in names))


@dataclass(frozen=True)
class EncoderOf:
    """Loads the encoder of a vector space where it is needed, in each actor of the cache.

    Attributes:
        space: "collaborative" or "representation".
        settings: the resolved tree.
        sources: where the weights are.
    """

    space: str
    settings: Settings
    sources: Sources

    def __call__(self) -> HistoryEncoder:
        """The encoder, on the CPU."""
        from genrec.data.load import load_interactions
        from genrec.retrieval.representations import MeanPooledEncoder, SasRecEncoder
        from genrec.retrieval.retriever import COLLABORATIVE
        from genrec.training.checkpoint import restore_weights

        if self.space == COLLABORATIVE:
            sasrec = build_sasrec(self.settings, load_interactions(self.sources.prepared))
            restore_weights(sasrec, self.sources.sasrec / WEIGHTS)
            return SasRecEncoder(sasrec)
        host: Any = build_host(self.settings, self.sources)
        return MeanPooledEncoder(host, self.settings.data.max_history)


@dataclass(frozen=True)
class MemoryFactory:
    """Builds the task of fine-tuning; picklable, so that Ray workers build their own.

    Attributes:
        settings: the resolved tree.
        training: the loop's settings for fine-tuning.
        sources: artifacts.
        cache: the finished retrieval cache and its key; None: the arm without a memory.
    """

    settings: Settings
    training: TrainingSettings
    sources: Sources
    cache: tuple[Path, CacheKey] | None

    def __call__(self) -> Task:
        """The task, the same on every worker."""
        import torch

        from genrec.data.load import load_interactions
        from genrec.genplugin.memory import memory_reader
        from genrec.training.memory_task import MemoryTask

        settings = self.settings
        host = build_host(settings, self.sources)
        torch.manual_seed(settings.run.seed)
        return MemoryTask(
            memory_reader(host, settings),
            self._users(),
            load_interactions(self.sources.prepared),
            self.training,
            settings.evaluation,
            settings.run.seed,
            settings.data.max_history,
            train_positions=settings.plugin.memory.train_positions,
        )

    def _users(self) -> Any:
        if self.cache is None:
            return None
        import numpy as np

        from genrec.genplugin.users import OthersNeighbours, UserMemory
        from genrec.retrieval.cache_table import RetrievalCache
        from genrec.training.memory_task import CachedUsers

        cache = RetrievalCache.open(*self.cache)
        valid = cache.rows("valid")
        others = None
        if self.settings.plugin.memory.neighbours == "shuffled":
            others = OthersNeighbours(valid.users_B, valid.neighbours.users_BZ)
        return CachedUsers(cache.rows("train"), valid, UserMemory(np.array(cache.representations()), others))


def fine_tune_decoder(context: Context) -> dict[str, Any]:
    """Train in the scratch directory; the host's new weights and what the memory adds go into the artifact."""
    from genrec.genplugin.memory import MEMORY_WEIGHTS, memory_reader, reads_users
    from genrec.genplugin.plugin import split_weights

    settings, sources = context.settings, Sources.of(context)
    recipe = settings.plugin.memory
    names = ("epochs", "max_steps", "max_minutes", "learning_rate", "patience")
    training = settings.training.model_copy(update={name: getattr(recipe, name) for name in names})
    cache, apart = find_users(context, sources) if reads_users(settings) else (None, None)
    factory = MemoryFactory(settings, training, sources, cache)
    version = context.manifests["tokenize"].sid_version
    told = dict(train_task(context, factory, training, version, cache=apart).metrics)
    split_weights(context.out / WEIGHTS, context.out / MEMORY_WEIGHTS)
    if memory_reader(build_host(settings, sources), settings).gated is None:
        (context.out / MEMORY_WEIGHTS).unlink()
    users = factory._users()
    if users is not None and users.memory.others is not None:
        users.memory.others.save(context.out)
    return told


def find_users(context: Context, sources: Sources) -> tuple[tuple[Path, CacheKey], CacheApart | None]:
    """The retrieval cache of all training and validation moments, built if it is not there.

    With it, where nodes share no file system, how they get it.
    """
    from genrec.artifacts import ArtifactStore, digest
    from genrec.data.load import load_catalog, load_interactions
    from genrec.genplugin.augmented import retrieval_in_use
    from genrec.retrieval.cache_units import CacheInputs
    from genrec.retrieval.cache_work import build_cache_local
    from genrec.retrieval.retriever import REPRESENTATION, needed_spaces

    settings, manifests = context.settings, context.manifests
    # No votes: fine-tuning reads users alone.
    update = {"vote_sources": (), "train_positions": settings.plugin.memory.train_positions}
    retrieval = retrieval_in_use(settings).model_copy(update=update)
    spaces = dict.fromkeys((*needed_spaces(retrieval), REPRESENTATION))
    inputs = CacheInputs(
        load_interactions(sources.prepared),
        retrieval,
        load_catalog(sources.prepared).texts,
        {space: EncoderOf(space, settings, sources) for space in spaces},
        splits=("train", "valid"),
    )
    key = inputs.key(
        checkpoint=digest([manifests["pretrain"].key, manifests["sasrec"].key])[:16],
        sid_version=str(manifests["tokenize"].sid_version),
        data=manifests["prepare"].key,
    )
    name = digest(asdict(key))[:16]
    folder = context.cache / CACHES / name
    directory, place, apart = folder.resolve(), context.store.place_of(folder), None
    if place is not None and settings.training.strategy != "single":
        from genrec.retrieval.cache_apart import CacheApart
        from genrec.training.apart import Apart

        apart = CacheApart(place, directory, Apart(context.store, context.read()).fetch_inputs)
    with ArtifactStore(context.cache).locked(CACHES, name):
        if settings.training.strategy == "single":
            build_cache_local(directory, inputs, key)
        else:
            from genrec.retrieval.cache import build_cache
            from genrec.stages.ray_session import connect

            connect(settings.ray)
            build_cache(directory, inputs, key, apart)
    return (directory, key), apart


def build_host(settings: Settings, sources: Sources) -> Any:
    """The pretrained host."""
    from genrec.models.registry import build_backbone
    from genrec.tokenizer.sid_table import SidTable
    from genrec.training.checkpoint import restore_weights

    host = build_backbone(settings.model, SidTable.load(sources.tokenized))
    restore_weights(host, sources.pretrained / WEIGHTS)
    return host
