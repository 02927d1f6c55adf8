"""The whole system: a generator that attends to its neighbours, and what they vote for, as one distribution over items.

Neighbours are looked up for each batch by the same :class:`~genrec.retrieval.retriever.Retriever` that the caches
use; the learnt gate weighs their votes against the generator; ``generate`` and ``score`` are exact for the mixture
(docs/decisions/0006). The same lookup gives the memory of retrieved users, if the decoder was fine-tuned to attend to
them. The backbone knows nothing of it and is handed to each call, as everywhere in decoding.

Shape letters: B histories, T history items, E items that are not asked for, P scored items, K list length,
S sources, C = S + 1 parts (the generator first), M items of a source, X candidates, U users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load_file as load_arrays
from safetensors.numpy import save_file as save_arrays
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn import functional

from genrec.config import RetrievalSettings, Settings
from genrec.data.interactions import Interactions
from genrec.decoding import ItemMixture, generate, recommend, score
from genrec.decoding.search import Ranked, evaluating
from genrec.errors import ArtifactError
from genrec.genplugin.gate import TINY, NeighbourGate, Votes, candidates
from genrec.genplugin.memory import reads_users
from genrec.genplugin.users import OthersNeighbours, UserMemory
from genrec.models.contracts import PAD_ITEM, Backbone, Batch
from genrec.models.dense import DenseScorer, Probabilities
from genrec.models.item_knn import ItemKNN
from genrec.models.sasrec import SasRec, SasRecScorer
from genrec.retrieval.bm25_path import Bm25Users
from genrec.retrieval.documents import training_histories
from genrec.retrieval.representations import HistoryEncoder, MeanPooledEncoder, SasRecEncoder
from genrec.retrieval.retriever import COLLABORATIVE, REPRESENTATION, Retrieved, Retriever, needed_spaces

GENERATOR = "generator"
GATE, VECTORS = "gate.safetensors", "user_vectors.safetensors"
SASREC, ITEM_KNN, CONTENT_KNN = "sasrec.safetensors", "item_knn.safetensors", "content_knn.safetensors"
LINEAR = "linear.safetensors"
"""Files of a directory that holds all that stands beside the host's weights; BM25 is indexed anew from the texts."""
COUNTED = {"item-knn": ITEM_KNN, "content-knn": CONTENT_KNN, "linear": LINEAR}
"""Sources that are a matrix of items, and their files, here and in the artifact of the stage of the same name."""


@dataclass(frozen=True, eq=False)
class AugmentedGenerator:
    """What stands beside the backbone.

    Attributes:
        retriever: finds neighbours and their votes.
        encoders: of the queries, by vector space.
        gate: weighs the generator and each source; None: neighbours have no votes.
        user_vectors: space -> float32 [U, D] that the retriever was fitted with.
        memory: makes the decoder's memory of retrieved users; None: it attends to the history alone.
    """

    retriever: Retriever
    encoders: Mapping[str, HistoryEncoder]
    gate: NeighbourGate | None
    user_vectors: Mapping[str, NDArray[np.float32]]
    memory: UserMemory | None = None

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the C parts that an item's probability is told by."""
        return (GENERATOR, *(() if self.gate is None else self.gate.sources))

    def look_up(self, backbone: Backbone, batch: Batch, exclude_BE: Tensor | None = None) -> tuple[Batch, Votes | None]:
        """One lookup for both: the batch with the memory of retrieved users, and the votes (None without a gate).

        Args:
            backbone: the host, whose own opinion of each candidate stands among the votes.
            batch: histories, and whose they are (``users_B``, -1 or None: nobody's that is known).
            exclude_BE: int64 [B, E], items that no source may name, padded with -1.
        """
        history_BT, users_B = _asked(batch)
        seen_BE = None if exclude_BE is None else exclude_BE.cpu().numpy()
        found = self.retriever.retrieve(history_BT, users_B, self.encoders, seen_BT=seen_BE)
        if self.memory is not None:
            users = self.memory.of(found.neighbours, history_BT, users_B)
            batch = replace(batch, neighbours=[*batch.neighbours, users]).to(batch.history_BT.device)
        return batch, None if self.gate is None else self._votes(found, self.gate, backbone, batch)

    def votes(self, backbone: Backbone, batch: Batch, exclude_BE: Tensor | None = None) -> Votes:
        """What each source says of each history, as in :meth:`look_up`; users are never their own neighbours."""
        votes = self.look_up(backbone, batch, exclude_BE)[1]
        assert votes is not None, "neighbours have no votes here"
        return votes

    def _votes(self, found: Retrieved, gate: NeighbourGate, backbone: Backbone, batch: Batch) -> Votes:
        device = batch.history_BT.device
        items_BSM = np.stack([found.votes[source].items_BM for source in gate.sources], axis=1)
        weights_BSM = np.stack([found.votes[source].weights_BM for source in gate.sources], axis=1)
        items_BX, weights_BXS = candidates(torch.from_numpy(items_BSM), torch.from_numpy(weights_BSM))
        items_BX = items_BX.to(device)
        with torch.no_grad(), evaluating(backbone):
            memories = (backbone.encode(batch), *batch.neighbours)
            generated_BX = score(backbone, batch, items_BX, memories=memories).float()
        length_B = (batch.history_BT != PAD_ITEM).sum(dim=1)
        return Votes(items_BX, weights_BXS.to(device), generated_BX, length_B, memories)

    @torch.inference_mode()
    def generate(
        self,
        backbone: Backbone,
        batch: Batch,
        k: int,
        *,
        beams: int,
        exclude_BS: Tensor | None = None,
        votes: Votes | None = None,
    ) -> Ranked:
        """The k most probable items of each history, as :func:`genrec.decoding.generate` gives them.

        Args:
            backbone: the host.
            batch: histories and users.
            k: length of the lists.
            beams: beam width.
            exclude_BS: int64, items never to be listed, nor voted for; padded with -1.
            votes: of :meth:`look_up`, whose batch this is, if they are at hand.
        """
        if votes is None:
            batch, votes = self.look_up(backbone, batch, exclude_BS)
        mixture = self._mixture(votes, backbone)
        if mixture is None:
            return recommend(backbone, batch, k, beams=beams, exclude_BS=exclude_BS)
        memories = None if votes is None else votes.memories
        return generate(backbone, batch, k, beams=beams, exclude_BS=exclude_BS, memories=memories, mixture=mixture)

    def score(
        self,
        backbone: Backbone,
        batch: Batch,
        items_BP: Tensor,
        *,
        exclude_BS: Tensor | None = None,
        votes: Votes | None = None,
    ) -> Tensor:
        """Log-probabilities [B, P] under the same distribution; -inf for PAD_ITEM."""
        if votes is None:
            batch, votes = self.look_up(backbone, batch, exclude_BS)
        memories = None if votes is None else votes.memories
        return score(backbone, batch, items_BP, memories=memories, mixture=self._mixture(votes, backbone))

    def _mixture(self, votes: Votes | None, backbone: Backbone) -> ItemMixture | None:
        return None if self.gate is None or votes is None else self.gate.mixture(votes, backbone.sid_table)

    @torch.inference_mode()
    def shares(self, votes: Votes, ranked: Ranked) -> Tensor:
        """Float [B, C, K]: how much of an item's probability comes from each part.

        What the pool gives an item is told by the generator and the sources, in proportion to what each adds to the
        item's logit; what no source names is the generator's.
        """
        assert self.gate is not None
        masses_BX = self.gate(votes)[1].exp()
        silent = functional.pad(TINY * votes.weights_BXS, (1, 0))  # who names an item, where nobody adds anything to it
        for_BXC = self.gate.opinions(votes).clamp(min=0) + silent
        told_BXC = masses_BX[..., None] * for_BXC / for_BXC.sum(dim=-1, keepdim=True).clamp(min=TINY**2)
        named_BKX = ranked.items_BK[:, :, None] == votes.items_BX[:, None]
        named_BKX = (named_BKX & (votes.items_BX != PAD_ITEM)[:, None]).to(told_BXC.dtype)
        told_BCK = (named_BKX @ told_BXC).transpose(1, 2)
        unnamed_BK = ranked.scores_BK.exp().masked_fill(named_BKX.any(dim=2), 0.0)
        return told_BCK + functional.pad(unnamed_BK[:, None], (0, 0, 0, len(self.gate.sources)))

    def save(self, directory: Path, sid_version: str) -> None:
        """Write gate, stand-ins and user vectors as safetensors; the gate's metadata names the semantic IDs."""
        if self.gate is not None:
            state = {n: t.contiguous() for n, t in self.gate.state_dict().items()}
            save_file(state, directory / GATE, {"sid_version": sid_version})
        if self.memory is not None and self.memory.others is not None:
            self.memory.others.save(directory)
        if self.user_vectors:
            save_arrays(dict(self.user_vectors), directory / VECTORS)


def files_needed(settings: Settings) -> tuple[str, ...]:
    """Which of the trained baselines' files the settings ask for."""
    retrieval = retrieval_in_use(settings)
    asked = COLLABORATIVE in needed_spaces(retrieval) or "sasrec" in retrieval.vote_sources
    sasrec = (SASREC,) if asked else ()
    return (*sasrec, *(file for source, file in COUNTED.items() if source in retrieval.vote_sources))


def assemble(
    backbone: Backbone, interactions: Interactions, item_texts: Sequence[str], settings: Settings, directory: Path
) -> AugmentedGenerator:
    """Index the training part of all users; the gate is not learnt yet.

    Args:
        backbone: the trained host.
        interactions: the prepared data.
        item_texts: N texts.
        settings: the resolved tree (retrieval, plugin, baselines.sasrec, data.max_history).
        directory: holds :func:`files_needed` and the memory's stand-ins; user vectors are read if they are there,
            else computed.

    Raises:
        ArtifactError: a file is absent, damaged or does not fit the settings.
        DataError: BM25 is asked for and the texts hold no words.
    """
    retrieval, needed = retrieval_in_use(settings), files_needed(settings)
    device = backbone.token_embedding.weight.device
    encoders: dict[str, HistoryEncoder] = {}
    scorers: dict[str, DenseScorer] = {}
    if SASREC in needed:
        sasrec = SasRec(settings.baselines.sasrec, interactions.n_items, settings.data.max_history)
        _restore(sasrec, directory / SASREC)
        scorers["sasrec"] = Probabilities(SasRecScorer(sasrec.to(device)))
        if COLLABORATIVE in needed_spaces(retrieval):
            encoders[COLLABORATIVE] = SasRecEncoder(sasrec)
    for source, file in COUNTED.items():
        if file in needed:
            scorers[source] = ItemKNN.load(directory / file)
    if REPRESENTATION in needed_spaces(retrieval) or reads_users(settings):
        encoders[REPRESENTATION] = MeanPooledEncoder(backbone, settings.data.max_history)
    vectors = _load_vectors(directory / VECTORS)
    if vectors is None and encoders:
        known_UT = training_histories(interactions, np.arange(interactions.n_users), retrieval.max_history)
        vectors = {space: encoder(known_UT) for space, encoder in encoders.items()}
    vectors = vectors or {}
    retriever = Retriever.fit(
        interactions,
        retrieval,
        user_vectors=vectors,
        scorers=scorers,
        text=Bm25Users.fit(interactions, item_texts, retrieval) if "text" in retrieval.paths else None,
    )
    memory, gate = None, None
    if reads_users(settings):
        shuffled = settings.plugin.memory.neighbours == "shuffled"
        memory = UserMemory(vectors[REPRESENTATION], OthersNeighbours.load(directory) if shuffled else None)
    if retrieval.vote_sources:
        gate = NeighbourGate(retrieval.vote_sources, generator=settings.plugin.gate.generator)
        gate.to(device).requires_grad_(False).eval()
    return AugmentedGenerator(retriever, encoders, gate, vectors, memory)


def load_augmented(
    backbone: Backbone, interactions: Interactions, item_texts: Sequence[str], settings: Settings, directory: Path
) -> AugmentedGenerator | None:
    """What ``finetune`` left in ``directory``, ready to generate; None if it learnt no gate and has no memory of users.

    Raises:
        ArtifactError: as :func:`assemble`, or a gate of other sources or semantic IDs.
    """
    path = directory / GATE
    if not path.is_file():
        if not reads_users(settings):
            return None
        return replace(assemble(backbone, interactions, item_texts, settings, directory), gate=None)
    augmented = assemble(backbone, interactions, item_texts, settings, directory)
    assert augmented.gate is not None
    _restore(augmented.gate, path)
    with safe_open(path, framework="numpy") as stream:
        backbone.sid_table.require((stream.metadata() or {}).get("sid_version", "unknown"), str(path))
    return augmented


def retrieval_in_use(settings: Settings) -> RetrievalSettings:
    """What votes and the memory of users need of the retrieval."""
    if not reads_users(settings):
        return voting_settings(settings.retrieval)
    if settings.plugin.retrieval:
        return settings.retrieval
    return settings.retrieval.model_copy(update={"vote_sources": ()})


def voting_settings(settings: RetrievalSettings) -> RetrievalSettings:
    """What votes need of the retrieval: users are merged and re-ranked, and paths searched, only for who votes."""
    if "neighbours" in settings.vote_sources:
        return settings
    paths = tuple(path for path in settings.paths if path in settings.vote_sources) or settings.paths[:1]
    return settings.model_copy(update={"rerank": "paths", "paths": paths})


def _asked(batch: Batch) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Histories [B, T] and users [B] of a batch; -1: nobody that is known."""
    history_BT = batch.history_BT.cpu().numpy()
    users_B = np.full(len(history_BT), -1, np.int64) if batch.users_B is None else batch.users_B.cpu().numpy()
    return history_BT, users_B


def _restore(model: nn.Module, path: Path) -> None:
    try:
        model.load_state_dict(load_file(path))
    except (OSError, SafetensorError, RuntimeError) as error:
        raise ArtifactError(f"{path}: does not fit these settings ({error}). Run `finetune` again.") from error


def _load_vectors(path: Path) -> dict[str, NDArray[np.float32]] | None:
    if not path.is_file():
        return None
    try:
        return dict(load_arrays(path))
    except SafetensorError as error:
        raise ArtifactError(f"{path}: not user vectors ({error}). Run `finetune` again.") from error
