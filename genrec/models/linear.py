"""Linear item-item model: ridge regression from a history to the items that follow it.

Co-occurrence counts two items as related when a third, popular one explains both; a regression gives each item of the
history only what the others don't explain already. For every training prefix the inputs are its latest items, each
step back in time weighing ``decay`` times the one after it, and the outputs the next ``window`` items, the i-th
weighing 1/i. The solution W = (X'X + ridge I)^-1 X'Y is closed (SLIT of Choi et al., WWW 2021, arXiv 2103.16104, with
a window and decays of our own); columns are divided by (sum of their outputs, at least 1) ** ``popularity_power``, and
each row keeps its largest positive weights. Scores are those of :class:`~genrec.models.item_knn.ItemKNN` over these.

The products and the solution are dense, so only the ``most_items`` items with most interactions take part: about 20
bytes for each pair of them while it is solved, whatever the number of interactions. All others are silent.

Shape letters: N items, M of them that take part, P training prefixes, T history items.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache, partial
from itertools import pairwise

import numpy as np
import scipy.sparse as sp
import torch
from numpy.typing import NDArray

from genrec.config import LinearSettings
from genrec.data.interactions import Interactions
from genrec.errors import DataError
from genrec.models.item_knn import ItemKNN

BLOCK = 256
"""Rows of the solution that are cut to their largest weights at once."""
POSITIONS_AT_ONCE = 2**19
"""Interactions whose inputs and outputs are held at once; some 300 bytes each."""


def linear_fit(interactions: Interactions, max_history: int) -> Callable[[LinearSettings], ItemKNN]:
    """What fits the model to these interactions; products and solution are kept for the next settings that share them.

    Args:
        interactions: the data set; only training interactions count.
        max_history: T, latest items of a prefix that count.
    """

    @lru_cache(maxsize=1)
    def summed(window: int, history_decay: float, most_items: int) -> NormalEquations:
        taking_part_N = _most_frequent(interactions.train_counts, most_items)
        return normal_equations(interactions, taking_part_N, max_history, window=window, decay=history_decay)

    @lru_cache(maxsize=1)
    def solved(window: int, history_decay: float, most_items: int, ridge: float) -> torch.Tensor:
        return solve(summed(window, history_decay, most_items), ridge)

    def fit(settings: LinearSettings) -> ItemKNN:
        shape = settings.window, settings.history_decay, settings.most_items
        equations = summed(*shape)
        scale_M = equations.popularity_M.clamp(min=1) ** -settings.popularity_power
        kept_MM = largest(solved(*shape, settings.ridge), scale_M, settings.neighbours)
        items_M, n_items = equations.items_M.numpy(), interactions.n_items
        places = items_M[kept_MM.row], items_M[kept_MM.col]
        weights_NN = sp.csr_matrix((kept_MM.data, places), shape=(n_items, n_items))
        weights_NN.sort_indices()
        return ItemKNN(weights_NN, settings.decay)

    return fit


@dataclass(frozen=True, eq=False)
class NormalEquations:
    """What the regression is solved from.

    Attributes:
        items_M: int64, the items that take part.
        gram_MM: X'X, float32.
        cross_MM: X'Y, float32.
        popularity_M: sums of the outputs.
    """

    items_M: torch.Tensor
    gram_MM: torch.Tensor
    cross_MM: torch.Tensor
    popularity_M: torch.Tensor


def normal_equations(
    interactions: Interactions, taking_part_N: NDArray[np.bool_], max_history: int, *, window: int, decay: float
) -> NormalEquations:
    """Sums over all training prefixes with an item before their target, a block of users at a time.

    Args:
        interactions: the data set.
        taking_part_N: bool, items that are inputs and outputs; the others keep their places in time.
        max_history: latest items of a prefix that count.
        window: items that follow.
        decay: weight of the history per step back.
    """
    items_M = torch.from_numpy(np.flatnonzero(taking_part_N))
    size = len(items_M)
    found = NormalEquations(items_M, torch.zeros(size, size), torch.zeros(size, size), torch.zeros(size))
    lengths = np.diff(interactions.offsets)
    block_U = np.cumsum(lengths) // POSITIONS_AT_ONCE
    column_N = np.cumsum(taking_part_N) - 1
    for begin, end in pairwise([*np.flatnonzero(np.diff(block_U, prepend=-1)), len(lengths)]):
        counts_U = np.maximum(interactions.train_end[begin:end], 0)
        owner_P = np.repeat(np.arange(begin, end), counts_U)
        within_P = np.arange(len(owner_P)) - np.repeat(np.cumsum(counts_U) - counts_U, counts_U)
        items_P = interactions.items[interactions.offsets[owner_P] + within_P]
        kept_P = taking_part_N[items_P]
        rows = partial(_shifted, owner_P, column_N[items_P], kept_P, size)
        longest = int(lengths[begin:end].max(initial=1))
        before_PM, after_PM = rows(1, 1.0, back=True), rows(0, 1.0, back=False)
        for steps in range(2, min(max_history, longest) + 1):
            before_PM = before_PM + rows(steps, decay ** (steps - 1), back=True)
        for steps in range(1, min(window, longest)):
            after_PM = after_PM + rows(steps, 1 / (steps + 1), back=False)
        after_PM = sp.diags((within_P > 0).astype(np.float32)) @ after_PM  # a first item has nothing before it
        found.gram_MM.add_(torch.from_numpy((before_PM.T @ before_PM).toarray()))
        found.cross_MM.add_(torch.from_numpy((before_PM.T @ after_PM).toarray()))
        found.popularity_M.add_(torch.from_numpy(np.asarray(after_PM.sum(axis=0), np.float32).ravel()))
    return found


def _shifted(
    owner_P: NDArray[np.int64],
    column_P: NDArray[np.int64],
    kept_P: NDArray[np.bool_],
    size: int,
    steps: int,
    weight: float,
    *,
    back: bool,
) -> sp.csr_matrix:
    """float32 CSR [P, M]; row p holds the item ``steps`` before (or after) position p, if it is the same user's."""
    early, late = slice(0, max(len(owner_P) - steps, 0)), slice(steps, len(owner_P))
    here, there = (late, early) if back else (early, late)
    kept = (owner_P[here] == owner_P[there]) & kept_P[there]
    cells = np.arange(len(owner_P))[here][kept], column_P[there][kept]
    return sp.csr_matrix((np.full(len(cells[0]), weight, np.float32), cells), shape=(len(owner_P), size))


def solve(summed: NormalEquations, ridge: float) -> torch.Tensor:
    """float32 [M, M], the regression's weights, row = input; in float64 where float32 does not suffice.

    Raises:
        DataError: the products are not positive definite in either.
    """
    for dtype in (torch.float32, torch.float64):
        gram_MM = summed.gram_MM.to(dtype, copy=True)
        gram_MM.diagonal().add_(ridge)
        factor_MM, failed = torch.linalg.cholesky_ex(gram_MM)
        del gram_MM
        if not int(failed):
            return torch.cholesky_solve(summed.cross_MM.to(dtype), factor_MM).float()
    raise DataError(
        f"baselines.linear.ridge: {ridge} (given or tried) is too small for these histories; use a larger one"
    )


def largest(weights_MM: torch.Tensor, scale_M: torch.Tensor, neighbours: int) -> sp.coo_matrix:
    """Each row's largest positive weights after its columns were scaled, float32 COO [M, M]."""
    size = len(weights_MM)
    rows, columns, values = ([torch.empty(0, dtype=kind)] for kind in (torch.int64, torch.int64, torch.float32))
    for begin in range(0, size, BLOCK):
        found, places = (weights_MM[begin : begin + BLOCK] * scale_M).topk(min(neighbours, size), dim=1)
        kept = found > 0
        rows.append(kept.nonzero()[:, 0] + begin)
        columns.append(places[kept])
        values.append(found[kept])
    cells = torch.cat(rows).numpy(), torch.cat(columns).numpy()
    return sp.coo_matrix((torch.cat(values).numpy(), cells), shape=(size, size))


def _most_frequent(counts_N: NDArray[np.int64], most: int) -> NDArray[np.bool_]:
    """bool [N]: the ``most`` items with most training interactions, none without any; of equals the first."""
    chosen_N = np.zeros(len(counts_N), np.bool_)
    chosen_N[np.argsort(-counts_N, kind="stable")[:most]] = True
    return chosen_N & (counts_N > 0)
