"""Validation while training: Hit and NDCG at 10 on a seeded sample of validation users, over the full catalog.

It only chooses weights; the numbers of a table come from genrec.evaluation.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from genrec.data.interactions import Interactions
from genrec.models.contracts import Batch
from genrec.training.batching import evaluation_batch

CUTOFF = 10

Recommend = Callable[[Batch, Tensor], Tensor]
"""(batch, exclude_BS) -> items [B, 10], best first, -1 where the list ran short."""


def sample_users(data: Interactions, count: int | None, seed: int) -> NDArray[np.int64]:
    """A seeded sample of the users with a validation target (None: all), by rising length of history."""
    users = data.users_with("valid")
    if count is not None and count < len(users):
        users = np.random.default_rng([seed, len(users)]).choice(users, count, replace=False)
    return users[np.argsort(data.valid_at[users], kind="stable")]


def ranking_sums(
    data: Interactions,
    users: NDArray[np.int64],
    recommend: Recommend,
    *,
    max_history: int,
    batch_size: int,
    exclude_seen: bool,
    device: torch.device,
) -> dict[str, float]:
    """Sums of Hit@10 and NDCG@10 over ``users``, and their number."""
    hits = gains = 0.0
    for batch, seen_BS, target_B in _batches(data, users, max_history, batch_size, exclude_seen):
        items_BK = recommend(batch.to(device), seen_BS.to(device))
        found_BK = items_BK == target_B.to(device)[:, None]
        hits += float(found_BK.sum())
        discount_K = 1.0 / torch.log2(torch.arange(2, items_BK.shape[1] + 2, device=device))
        gains += float((found_BK * discount_K).sum())
    return {f"hit@{CUTOFF}": hits, f"ndcg@{CUTOFF}": gains, "users": float(len(users))}


def _batches(
    data: Interactions, users: NDArray[np.int64], max_history: int, batch_size: int, exclude_seen: bool
) -> Iterator[tuple[Batch, Tensor, Tensor]]:
    targets = data.targets("valid").astype(np.int64)
    for begin in range(0, len(users), batch_size):
        chunk = users[begin : begin + batch_size]
        batch = evaluation_batch(data, chunk, "valid", max_history)
        longest = int(data.valid_at[chunk].max())
        seen_BS = torch.empty(len(chunk), 0, dtype=torch.int64)
        if exclude_seen:
            seen_BS = evaluation_batch(data, chunk, "valid", max(longest, 1)).history_BT
        yield batch, seen_BS, torch.from_numpy(targets[chunk])
