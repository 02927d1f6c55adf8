"""Why an item is recommended: reasons that cost nothing, and an explanation that is measured.

``because`` names the items of the history that an entry goes with, by item-kNN's co-occurrence weights where the
bundle has them (the very numbers by which item-kNN votes), by content-kNN's where nobody took the two together, else by
shared levels of their semantic IDs. It comes with every list.

``explain`` measures: the log-probability of the item is computed again with each item of the history left out
(leave-one-out; no attention weight is read as a reason), and the retrieved users and sources whose votes reach the
item are named with their weights. The parts' shares sum to one.

Shape letters: T history items, K listed items, L code levels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from genrec.decoding import score
from genrec.decoding.search import Ranked
from genrec.diversity import shared_levels
from genrec.genplugin.augmented import GENERATOR, AugmentedGenerator
from genrec.genplugin.gate import TINY
from genrec.models.contracts import PAD_ITEM, Backbone, Batch
from genrec.models.item_knn import ItemKNN

if TYPE_CHECKING:
    from genrec.retrieval.neighbours import Neighbours

USERS_NAMED = 5


@dataclass(frozen=True)
class Voter:
    """A retrieved user.

    Attributes:
        user: index.
        path: how they were found: text, collaborative or neighbours (the merged users).
        weight: what their word weighs, 1 for the nearest.
        vote: weight times the weight of the item among their own; 0: they do not have it.
    """

    user: int
    path: str
    weight: float
    vote: float


@dataclass(frozen=True)
class Explained:
    """What a recommendation leans on.

    Attributes:
        score: log-probability of the item.
        influence_T: log-probability minus that without the history item, newest last; None where nothing would be left.
        shares: of the probability, by part: the generator and each source that votes.
        voters: retrieved users, strongest vote first.
    """

    score: float
    influence_T: list[float | None]
    shares: dict[str, float]
    voters: list[Voter]


def likeness(
    history_T: NDArray[np.integer], items_K: Sequence[int], codes_NL: NDArray[np.integer], knn: ItemKNN | None
) -> NDArray[np.float64]:
    """Float [T, K]: how much each item of the history speaks for each listed one."""
    listed_K = np.asarray(items_K, dtype=np.int64)
    weights_TK = np.zeros((len(history_T), len(listed_K)))
    for row, item in enumerate(history_T):
        if knn is None:
            weights_TK[row] = shared_levels(codes_NL[listed_K], codes_NL[item])
            continue
        begin, end = knn.weights_NN.indptr[item], knn.weights_NN.indptr[item + 1]
        columns = knn.weights_NN.indices[begin:end]
        places_K = np.minimum(np.searchsorted(columns, listed_K), max(len(columns) - 1, 0))
        if len(columns):
            there_K = columns[places_K] == listed_K
            weights_TK[row] = np.where(there_K, knn.weights_NN.data[begin:end][places_K], 0.0)
    if knn is not None:
        weights_TK *= knn.decay ** np.arange(len(history_T) - 1, -1, -1, dtype=np.float64)[:, None]
    return weights_TK


def strongest(weights_T: NDArray[np.float64], history_T: NDArray[np.integer], n: int) -> list[tuple[int, float]]:
    """The ``n`` items of the history that speak most for one item, each once, with their share of all that is said."""
    total = float(weights_T.sum())
    told: dict[int, float] = {}
    for step in np.argsort(-weights_T, kind="stable"):
        if weights_T[step] <= 0 or len(told) == n:
            break
        told.setdefault(int(history_T[step]), float(weights_T[step]) / total)
    return list(told.items())


def sentence(titles: Sequence[str], counted: bool) -> str:
    """The reason in words."""
    if not titles:
        return "What the model expects after this history"
    return f"{'Often taken soon after' if counted else 'Like'} {' and '.join(titles)}"


@torch.inference_mode()
def explain(
    backbone: Backbone,
    augmented: AugmentedGenerator | None,
    history_T: NDArray[np.integer],
    user: int,
    item: int,
    exclude: Sequence[int],
) -> Explained:
    """Measure what the recommendation of ``item`` leans on.

    Args:
        backbone: the host.
        augmented: what stands beside it.
        history_T: what the model sees, oldest first.
        user: whose history it is, -1: nobody's that is known.
        item: the item to explain.
        exclude: items that no source may name, besides the item itself (the whole history, as for a list).
    """
    rows = [history_T, *(np.delete(history_T, step) for step in range(len(history_T)) if len(history_T) > 1)]
    history_BT = torch.full((len(rows), len(history_T)), PAD_ITEM, dtype=torch.int64)
    for place, row in enumerate(rows):
        history_BT[place, : len(row)] = torch.from_numpy(np.ascontiguousarray(row).astype(np.int64))
    device = backbone.token_embedding.weight.device
    batch = Batch(history_BT, users_B=torch.full((len(rows),), user)).to(device)
    barred = torch.tensor([sorted({*map(int, exclude)} - {item}) or [PAD_ITEM]], dtype=torch.int64, device=device)
    items_B1 = torch.full((len(rows), 1), item, dtype=torch.int64, device=device)
    shares: dict[str, float] = {GENERATOR: 1.0}
    if augmented is None:
        scores_B = score(backbone, batch, items_B1)[:, 0]
    elif augmented.gate is None:
        scores_B = augmented.score(backbone, batch, items_B1, exclude_BS=barred.expand(len(rows), -1))[:, 0]
    else:
        batch, votes = augmented.look_up(backbone, batch, barred.expand(len(rows), -1))
        assert votes is not None
        scores_B = augmented.score(backbone, batch, items_B1, votes=votes)[:, 0]
        whole = votes.rows(torch.zeros(1, dtype=torch.int64, device=device))
        told_C = augmented.shares(whole, Ranked(items_B1[:1], scores_B[:1, None]))[0, :, 0]
        told_C = told_C / told_C.sum().clamp(min=TINY)
        shares = dict(zip(augmented.parts, map(float, told_C), strict=True))
    voters = [] if augmented is None else _voters(augmented, history_T, user, item, barred)
    full, *without = map(float, scores_B)
    influence_T: list[float | None] = [full - one for one in without] if without else [None] * len(history_T)
    return Explained(full, influence_T, shares, voters)


def _voters(
    augmented: AugmentedGenerator, history_T: NDArray[np.integer], user: int, item: int, barred: torch.Tensor
) -> list[Voter]:
    """Users found for the history by those paths that have a say, those who know the item first."""
    retriever = augmented.retriever
    history_BT = np.asarray(history_T, dtype=np.int64)[None]
    found = retriever.retrieve(history_BT, np.array([user]), augmented.encoders, seen_BT=barred.cpu().numpy())
    spoken: dict[str, Neighbours] = {
        path: users for path, users in found.paths.items() if path in retriever.settings.vote_sources
    }
    if "neighbours" in retriever.settings.vote_sources or augmented.memory is not None:
        spoken["neighbours"] = found.neighbours
    voters: list[Voter] = []
    for path, neighbours in spoken.items():
        weights_U = retriever.voters.voters(neighbours).tocoo()
        best = max(weights_U.data, default=0.0)
        for other, weight in zip(weights_U.col, weights_U.data, strict=True):
            vote = float(weight * retriever.voters.items_UN[other, item])
            voters.append(Voter(int(other), path, float(weight / best) if best else 0.0, vote))
    voters.sort(key=lambda voter: (-voter.vote, -voter.weight, voter.user))
    return voters[:USERS_NAMED]
