"""Linear item-item model: ridge regression from a history to the items that follow it.

Co-occurrence counts two items as related when a third, popular one explains both; a regression gives each item of the
history only what the others don't explain already. For every training prefix the inputs are its latest items, each
step back in time weighing ``decay`` times the one after it, and the outputs the next ``window`` items, the i-th
weighing 1/i. The solution W = (X'X + ridge I)^-1 X'Y is closed (SLIT of Choi et al., WWW 2021, arXiv 2103.16104, with
a window and decays of our own); columns are divided by (sum of their outputs) ** ``popularity_power``, and each row
keeps its largest positive weights. Scores are those of :class:`~genrec.models.item_knn.ItemKNN` over these weights.

The solution is dense, so only the ``most_items`` items with most interactions take part: about 16 bytes for each pair
of them while it is solved. All others are silent.

Shape letters: N items, M of them that take part, P training prefixes, T history items.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

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


def linear_fit(interactions: Interactions, max_history: int) -> Callable[[LinearSettings], ItemKNN]:
    """What fits the model to these interactions; the solution is kept for the next settings that share it.

    Args:
        interactions: the data set; only training interactions count.
        max_history: T, latest items of a prefix that count.
    """

    @lru_cache(maxsize=1)
    def designed(window: int, history_decay: float, most_items: int) -> tuple[sp.csr_matrix, sp.csr_matrix]:
        taking_part_N = _most_frequent(interactions.train_counts, most_items)
        return design(interactions, taking_part_N, max_history, window=window, decay=history_decay)

    @lru_cache(maxsize=1)
    def solved(window: int, history_decay: float, most_items: int, ridge: float) -> torch.Tensor:
        return solve(*designed(window, history_decay, most_items), ridge)

    def fit(settings: LinearSettings) -> ItemKNN:
        shape = settings.window, settings.history_decay, settings.most_items
        _, after_PM = designed(*shape)
        popularity_M = np.maximum(np.asarray(after_PM.sum(axis=0)).ravel(), 1.0)
        scale_M = torch.from_numpy(popularity_M**-settings.popularity_power).float()
        kept_MM = largest(solved(*shape, settings.ridge), scale_M, settings.neighbours)
        items_M = np.flatnonzero(_most_frequent(interactions.train_counts, settings.most_items))
        n_items = interactions.n_items
        places = items_M[kept_MM.row], items_M[kept_MM.col]
        weights_NN = sp.csr_matrix((kept_MM.data, places), shape=(n_items, n_items))
        weights_NN.sort_indices()
        return ItemKNN(weights_NN, settings.decay)

    return fit


def design(
    interactions: Interactions, taking_part_N: NDArray[np.bool_], max_history: int, *, window: int, decay: float
) -> tuple[sp.csr_matrix, sp.csr_matrix]:
    """Inputs and outputs of the regression, float32 CSR [P, M] each: a row for each position with an item before it.

    Args:
        interactions: the data set.
        taking_part_N: bool, items that are inputs and outputs; the others keep their places in time.
        max_history: latest items of a prefix that count.
        window: items that follow.
        decay: weight of the history per step back.
    """
    owner_E = np.repeat(np.arange(interactions.n_users), np.diff(interactions.offsets))
    position_E = np.arange(len(interactions.items)) - interactions.offsets[owner_E]
    in_train_E = position_E < interactions.train_end[owner_E]
    items_P, owner_P = interactions.items[in_train_E], owner_E[in_train_E]
    column_N = np.cumsum(taking_part_N) - 1

    def shifted(steps: int, weight: float, *, back: bool) -> sp.csr_matrix:
        """Row p holds the item ``steps`` before (or after) position p, if it is the same user's."""
        early, late = slice(0, max(len(items_P) - steps, 0)), slice(steps, len(items_P))
        here, there = (late, early) if back else (early, late)
        kept = (owner_P[here] == owner_P[there]) & taking_part_N[items_P[there]]
        cells = np.arange(len(items_P))[here][kept], column_N[items_P[there][kept]]
        values = np.full(len(cells[0]), weight, np.float32)
        return sp.csr_matrix((values, cells), shape=(len(items_P), int(taking_part_N.sum())))

    longest = int(np.diff(interactions.offsets).max(initial=1))
    before_PM, after_PM = shifted(1, 1.0, back=True), shifted(0, 1.0, back=False)
    for steps in range(2, min(max_history, longest) + 1):
        before_PM = before_PM + shifted(steps, decay ** (steps - 1), back=True)
    for steps in range(1, min(window, longest)):
        after_PM = after_PM + shifted(steps, 1 / (steps + 1), back=False)
    has_before_P = np.zeros(len(items_P), np.bool_)
    has_before_P[1:] = owner_P[1:] == owner_P[:-1]
    return before_PM[has_before_P], after_PM[has_before_P]


def solve(before_PM: sp.csr_matrix, after_PM: sp.csr_matrix, ridge: float) -> torch.Tensor:
    """float32 [M, M], the regression's weights, row = input.

    Raises:
        DataError: the products are not positive definite, which no ridge above zero should leave.
    """
    gram_MM = torch.from_numpy((before_PM.T @ before_PM).toarray())
    gram_MM.diagonal().add_(ridge)
    factor_MM, failed = torch.linalg.cholesky_ex(gram_MM)
    del gram_MM
    if int(failed):
        raise DataError(f"baselines.linear.ridge: {ridge} is too small for these histories; use a larger one")
    return torch.cholesky_solve(torch.from_numpy((before_PM.T @ after_PM).toarray()), factor_MM)


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
